"""The quicker loops of the daemon: still possible with the pinned Dagster, and harmless where they are not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, job, op
from dagster._core.errors import DagsterInvalidSubsetError
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._daemon import controller, sensor

from quel_dagster.pipeline import daemon


@pytest.fixture(autouse=True)
def _as_shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sensor, "MIN_INTERVAL_LOOP_TIME", sensor.MIN_INTERVAL_LOOP_TIME)
    monkeypatch.setattr(controller, "QueuedRunCoordinatorDaemon", controller.QueuedRunCoordinatorDaemon)
    monkeypatch.setattr(controller, "EventLogConsumerDaemon", controller.EventLogConsumerDaemon)
    monkeypatch.setattr(controller, "MonitoringDaemon", controller.MonitoringDaemon)
    monkeypatch.setattr(QueuedRunCoordinator, "submit_run", lambda _self, _context: "the run")
    yield
    daemon._run_submitted.clear()


def test_the_sensor_loop_of_this_dagster_can_be_quickened() -> None:
    assert daemon.quicken_sensor_loop(0.5)
    assert sensor.MIN_INTERVAL_LOOP_TIME == 0.5


def test_the_loop_reads_the_constant_at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that copies the constant would leave it there, changed to no effect."""
    monkeypatch.setattr(sensor, "execute_sensor_iteration", lambda *_, **__: iter(()))
    daemon.quicken_sensor_loop(0.0)
    pauses: list[float] = []
    shutdown: Any = SimpleNamespace(wait=pauses.append)
    loop = sensor.execute_sensor_iteration_loop(None, logging.getLogger(), shutdown)  # type: ignore[arg-type]
    while not pauses:
        next(loop)
    assert pauses == [0.0]


@pytest.mark.parametrize(
    ("module", "name", "quicken"),
    [
        (sensor, "MIN_INTERVAL_LOOP_TIME", daemon.quicken_sensor_loop),
        (controller, "QueuedRunCoordinatorDaemon", daemon.quicken_run_queue),
        (controller, "EventLogConsumerDaemon", daemon.quicken_retries),
        (controller, "MonitoringDaemon", daemon.watch_lost_starts),
    ],
)
def test_what_an_upgrade_took_away_is_one_warning(
    module: Any, name: str, quicken: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(module, name)
    assert quicken() is False
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert name in caplog.text
    assert not hasattr(module, name)
    assert QueuedRunCoordinator.submit_run(None, None) == "the run"  # type: ignore[arg-type]
    assert not daemon._run_submitted.is_set()


class _Instance:
    """As much of an instance as the run queue's wait looks at."""

    def __init__(self, *, queued: int, active: int) -> None:
        self._queued, self.active = queued, active

    def get_runs_count(self, filters: Any) -> int:
        names = {status.value for status in filters.statuses}
        return self._queued if names == {"QUEUED"} else self.active


def _seconds_of_wait(instance: _Instance, *, interval: float, meanwhile: Any = None) -> float:
    queue = daemon.PromptRunQueueDaemon(interval_seconds=interval)
    started = time.monotonic()
    if meanwhile is not None:
        threading.Timer(0.05, meanwhile).start()
    queue._wait(instance, threading.Event())  # type: ignore[arg-type]
    return time.monotonic() - started


def test_a_submitted_run_wakes_the_queue() -> None:
    assert daemon.quicken_run_queue()
    assert controller.QueuedRunCoordinatorDaemon is daemon.PromptRunQueueDaemon

    def submit() -> None:
        assert QueuedRunCoordinator.submit_run(None, None) == "the run"  # type: ignore[arg-type]

    assert _seconds_of_wait(_Instance(queued=0, active=0), interval=60, meanwhile=submit) < 30


def test_a_run_that_ends_wakes_the_queue_while_others_wait() -> None:
    instance = _Instance(queued=5, active=2)

    def free() -> None:
        instance.active = 1

    assert _seconds_of_wait(instance, interval=60, meanwhile=free) < 30


@pytest.mark.parametrize(("queued", "active"), [(0, 0), (5, 2)])
def test_without_a_reason_the_interval_holds(queued: int, active: int) -> None:
    assert _seconds_of_wait(_Instance(queued=queued, active=active), interval=0.5) >= 0.5


def test_runs_that_died_are_looked_for_every_second() -> None:
    assert daemon.quicken_retries()
    made = controller.create_daemon_of_type("EVENT_LOG_CONSUMER", None)  # type: ignore[arg-type]
    assert isinstance(made, daemon.PromptRetryDaemon)
    assert made.interval_seconds == daemon.RETRY_LOOK_SECONDS < 5


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")  # Dagster's own, when it has no cursor yet
def test_a_retry_that_cannot_be_made_now_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster as shipped gives a run up for good when its code server is away at that moment."""
    with DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True, "max_retries": 3}}) as instance:
        context: Any = SimpleNamespace(instance=instance)
        retries = daemon.PromptRetryDaemon()
        answers: list[Exception | None] = [ConnectionError("no code server"), ConnectionError("no code server"), None]
        retried: list[str] = []

        def retry_run(run: DagsterRun, _context: Any) -> None:
            if (answer := answers.pop(0)) is not None:
                raise answer
            retried.append(run.run_id)

        monkeypatch.setattr(daemon, "retry_run", retry_run)
        list(retries.run_iteration(context))  # sets the cursors
        run = instance.create_run_for_job(empty_job, status=DagsterRunStatus.STARTED)
        instance.report_run_failed(run)
        for _ in range(3):
            assert not retried
            list(retries.run_iteration(context))
        assert retried == [run.run_id]
        list(retries.run_iteration(context))
        assert not answers
        assert len(retried) == 1


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
def test_a_run_that_died_when_all_its_steps_were_done_is_retried_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True, "max_retries": 3}}) as instance:
        retried: list[str | None] = []

        def retry_run(run: DagsterRun, _context: Any) -> None:
            retried.append(run.tags.get("dagster/retry_strategy"))
            if retried == [None]:
                raise DagsterInvalidSubsetError("No steps needed to be retried in the failed run.")

        monkeypatch.setattr(daemon, "retry_run", retry_run)
        retries = daemon.PromptRetryDaemon()
        run = instance.create_run_for_job(empty_job, status=DagsterRunStatus.STARTED)
        retries._retry(run, SimpleNamespace(instance=instance))  # type: ignore[arg-type]
        list(retries.run_iteration(SimpleNamespace(instance=instance)))  # type: ignore[arg-type]
        assert retried == [None, "ALL_STEPS"]
        assert not retries._waiting


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
def test_a_retry_that_can_never_be_made_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "RETRY_PATIENCE_SECONDS", 0.0)
    with DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True, "max_retries": 3}}) as instance:
        retries = daemon.PromptRetryDaemon()
        list(retries.run_iteration(SimpleNamespace(instance=instance)))  # type: ignore[arg-type]
        run = instance.create_run_for_job(empty_job, status=DagsterRunStatus.STARTED)
        instance.report_run_failed(run)
        list(retries.run_iteration(SimpleNamespace(instance=instance)))  # type: ignore[arg-type]  # no workspace
        after = instance.get_run_by_id(run.run_id)
        assert after is not None
        assert after.tags["dagster/will_retry"] == "false"


@op
def nothing() -> None: ...


@job
def empty_job() -> None:
    nothing()
