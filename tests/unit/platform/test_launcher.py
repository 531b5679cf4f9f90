"""The launcher distinguishes a dead process from a busy one, and handles a broker that refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import redis
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, job, op
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._serdes import ConfigurableClassData

from quel_dagster.adapters.redis_connection import celery_url
from quel_dagster.platform import launcher as module
from quel_dagster.platform.broker import CELERY_SETTINGS
from quel_dagster.platform.launcher import QuelRunLauncher
from quel_dagster.platform.workers import Workers


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://h:1/0", "rediss://h:1/0?ssl_cert_reqs=required"),
        ("rediss://h:1/0?a=b", "rediss://h:1/0?a=b&ssl_cert_reqs=required"),
        ("rediss://h:1/0?ssl_cert_reqs=none", "rediss://h:1/0?ssl_cert_reqs=none"),
    ],
)
def test_celery_url_verifies_certificates_by_default(url: str, expected: str) -> None:
    assert celery_url(url) == expected


def test_celery_takes_a_message_once_and_remote_control_is_off() -> None:
    assert CELERY_SETTINGS["task_acks_late"] is False
    assert CELERY_SETTINGS["worker_enable_remote_control"] is False


class Board:
    """The workers' records, set by a test."""

    def __init__(self) -> None:
        self.workers = Workers(capacity=4)
        self.unreachable = False
        self.released: list[str] = []

    def read(self) -> Workers:
        if self.unreachable:
            raise redis.ConnectionError
        return self.workers

    def holds(self, *runs: str, deaths: Mapping[str, str] | None = None) -> None:
        self.workers = Workers(4, dict.fromkeys(runs, "w.1"), {"w.1": 7}, deaths or {})

    def release(self, run_id: str) -> None:
        self.released.append(run_id)

    def probe(self) -> None:
        self.read()


class Messages:
    """The broker."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.refuses: Exception | None = None

    def send(self, run_id: str) -> None:
        if self.refuses:
            raise self.refuses
        self.sent.append(run_id)

    def waiting(self) -> set[str]:
        return set(self.sent)


class Leases:
    """The leases, set by a test."""

    def __init__(self) -> None:
        self.runs: set[str] = set()

    def live_runs(self) -> frozenset[str]:
        return frozenset(self.runs)


class Launcher(QuelRunLauncher):
    """The launcher over the three above."""

    board = Board()  # type: ignore[assignment]
    messages = Messages()  # type: ignore[assignment]
    _leases = Leases()  # type: ignore[assignment]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A launcher without caching."""
    monkeypatch.setattr(module, "POLL_SECONDS", -1.0)
    launcher = own_launcher()
    launcher.board, launcher.messages, launcher._leases = Board(), Messages(), Leases()
    return launcher


def own_launcher() -> Any:
    data = ConfigurableClassData("quel_dagster.platform.launcher", "QuelRunLauncher", "{}")
    return Launcher.from_config_value(data, {})


@pytest.fixture
def instance(made: Any) -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        made.register_instance(instance)
        yield instance


@op
def nothing() -> None: ...


@job
def empty_job() -> None:
    nothing()


def run_in(instance: DagsterInstance, status: DagsterRunStatus = DagsterRunStatus.STARTED) -> DagsterRun:
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("quel"), "repository"), "empty_job")
    return instance.run_storage.add_run(DagsterRun("empty_job", status=status, remote_job_origin=origin))


def test_runs_are_not_resumed(made: Any) -> None:
    assert made.supports_resume_run is False
    assert made.supports_check_run_worker_health


def test_a_run_is_well_while_its_process_has_it_or_its_lease_lives(made: Any, instance: DagsterInstance) -> None:
    held, leased = run_in(instance), run_in(instance)
    made.board.holds(held.run_id)
    made._leases.runs = {leased.run_id}
    for run in (held, leased):
        assert made.check_run_worker_health(run).status is WorkerStatus.RUNNING


def test_a_run_of_a_dead_process_is_failed_at_once_though_its_lease_still_lives(
    made: Any, instance: DagsterInstance
) -> None:
    run = run_in(instance)
    made._leases.runs = {run.run_id}
    made.board.holds(deaths={run.run_id: "Worker process w.1 (pid 7) ended by signal 9."})
    health = made.check_run_worker_health(run)
    assert (health.status, health.msg) == (WorkerStatus.FAILED, "Worker process w.1 (pid 7) ended by signal 9.")


def test_a_run_without_process_and_lease_is_failed_after_a_while(
    made: Any, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(instance)
    assert made.check_run_worker_health(run).status is WorkerStatus.RUNNING
    monkeypatch.setattr(module, "SUSPICION_SECONDS", 0.0)
    assert made.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_a_busy_process_keeps_its_runs_although_no_lease_is_renewed(
    made: Any, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overload: the record stands, since the parent sees the process; only a hang of minutes ends it."""
    run = run_in(instance)
    made.board.holds(run.run_id)
    monkeypatch.setattr(module, "SUSPICION_SECONDS", 0.0)
    for _ in range(3):
        assert made.check_run_worker_health(run).status is WorkerStatus.RUNNING
    monkeypatch.setattr(module, "HUNG_SECONDS", 0.0)
    assert made.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_nothing_is_declared_dead_while_redis_does_not_answer(
    made: Any, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SUSPICION_SECONDS", 0.0)
    made.board.unreachable = True
    run = run_in(instance)
    for _ in range(3):
        assert made.check_run_worker_health(run).status is WorkerStatus.RUNNING


REFUSALS = [
    redis.ReadOnlyError("You can't write against a read only replica."),
    redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    redis.ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist"),
    ConnectionRefusedError(111, "Connection refused"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=["readonly", "oom", "misconf", "refused"])
def test_a_run_that_the_broker_refuses_goes_back_to_the_queue_and_the_queue_pauses(
    made: Any, instance: DagsterInstance, refusal: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.messages.refuses = refusal
    run = run_in(instance, DagsterRunStatus.STARTING)
    made.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    now = instance.get_run_by_id(run.run_id)
    assert now is not None
    assert now.status is DagsterRunStatus.QUEUED
    assert not made.takes_runs()
    monkeypatch.setattr(module, "BROKER_PAUSE_SECONDS", -1.0)
    made.board.unreachable = True
    assert not made.takes_runs(), "it is asked again, and still refuses"
    made.board.unreachable, made.messages.refuses = False, None
    assert made.takes_runs()
    made.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    assert made.messages.sent == [run.run_id]


def test_a_start_is_lost_when_neither_the_broker_nor_a_process_has_the_run(
    made: Any, instance: DagsterInstance
) -> None:
    waits, held, lost = (run_in(instance, DagsterRunStatus.STARTING).run_id for _ in range(3))
    made.messages.sent = [waits]
    made.board.holds(held)
    assert made.lost_starts({waits, held, lost}).keys() == {lost}


def test_terminating_marks_the_run(made: Any, instance: DagsterInstance) -> None:
    run, over = run_in(instance), run_in(instance, DagsterRunStatus.SUCCESS)
    assert made.terminate(run.run_id)
    after = instance.get_run_by_id(run.run_id)
    assert after is not None
    assert after.status is DagsterRunStatus.CANCELING
    assert not made.terminate(over.run_id)
    assert not made.terminate("unknown")


def test_without_a_redis_url_there_is_no_capacity() -> None:
    data = ConfigurableClassData("quel_dagster.platform.launcher", "QuelRunLauncher", "{}")
    assert QuelRunLauncher.from_config_value(data, {}).capacity() == 0


def test_the_capacity_is_what_live_processes_report_and_none_without_redis(made: Any) -> None:
    assert made.capacity() == 4
    made.board.unreachable = True
    assert made.capacity() == 0
