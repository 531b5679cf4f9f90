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
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler.instigation import SensorInstigatorData
from dagster._daemon import controller, sensor
from dagster._daemon.daemon import SensorDaemon

from quel_dagster.platform import daemon
from quel_dagster.platform.internals import check_internals
from quel_dagster.platform.run_queue import RunQueue, run_submitted
from quel_dagster.platform.run_states import read_back
from quel_dagster.platform.tags import JOB_ID_TAG


@pytest.fixture(autouse=True)
def _as_shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sensor, "MIN_INTERVAL_LOOP_TIME", sensor.MIN_INTERVAL_LOOP_TIME)
    monkeypatch.setattr(sensor, "is_under_min_interval", sensor.is_under_min_interval)
    monkeypatch.setattr(sensor, "_submit_run_request", sensor._submit_run_request)
    monkeypatch.setattr(controller, "QueuedRunCoordinatorDaemon", controller.QueuedRunCoordinatorDaemon)
    monkeypatch.setattr(controller, "EventLogConsumerDaemon", controller.EventLogConsumerDaemon)
    monkeypatch.setattr(controller, "MonitoringDaemon", controller.MonitoringDaemon)
    monkeypatch.setattr(QueuedRunCoordinator, "submit_run", lambda self, context: "the run")
    yield
    run_submitted.clear()


def test_the_loop_reads_the_constant_at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that copies the constant would leave it there, changed to no effect."""
    monkeypatch.setattr(sensor, "execute_sensor_iteration", lambda *_, **__: iter(()))
    monkeypatch.setattr(daemon, "SENSOR_LOOP_SECONDS", 0.0)
    daemon.replace_loops()
    pauses: list[float] = []
    shutdown: Any = SimpleNamespace(wait=pauses.append)
    loop = sensor.execute_sensor_iteration_loop(None, logging.getLogger(), shutdown)  # type: ignore[arg-type]
    while not pauses:
        next(loop)
    assert pauses == [0.0]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (sensor, "MIN_INTERVAL_LOOP_TIME"),
        (sensor, "is_under_min_interval"),
        (sensor, "_submit_run_request"),
        (controller, "QueuedRunCoordinatorDaemon"),
        (controller, "EventLogConsumerDaemon"),
        (controller, "MonitoringDaemon"),
    ],
)
def test_name_removed_by_an_upgrade_is_one_warning(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(module, name)
    check_internals()
    daemon.replace_loops()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert name in caplog.text
    assert not hasattr(module, name)


@pytest.mark.parametrize(("interval", "early"), [(1, False), (30, True)])
def test_interval_of_one_second_means_no_interval(interval: int, early: bool) -> None:
    daemon.replace_loops()
    began_now = SensorInstigatorData(min_interval=interval, last_tick_start_timestamp=time.time())
    state: Any = SimpleNamespace(instigator_data=began_now)
    remote: Any = SimpleNamespace(min_interval_seconds=interval)
    assert sensor.is_under_min_interval(state, remote) is early


def test_a_run_of_a_sensor_is_submitted_without_reading_back_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.replace_loops()
    made = DagsterRun("job")

    def create(run_id: str, **_: object) -> DagsterRun | None:
        read_back.keep(made, written=True)
        return read_back.take(run_id)

    monkeypatch.setattr(daemon, "_submit_run_request", create)
    assert sensor._submit_run_request(made.run_id, logger=None) is made  # type: ignore[call-arg]


def test_the_end_of_a_tick_ends_the_wait_of_the_sensor_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.replace_loops()
    assert controller.SensorDaemon is daemon.PromptSensorDaemon
    stopped = threading.Event()

    def loop(self: Any, _context: object, pause: threading.Event) -> Iterator[None]:
        for _ in range(3):
            self._threadpool_executor.submit(time.sleep, 0.01)
            pause.wait(60)
            yield None
        stopped.set()
        assert pause.is_set()

    monkeypatch.setattr(SensorDaemon, "core_loop", loop)
    began = time.monotonic()
    with daemon.PromptSensorDaemon({"use_threads": True, "num_workers": 2}) as prompt:
        assert len(list(prompt.core_loop(None, stopped))) == 3  # type: ignore[arg-type]
    assert 3 * daemon.SENSOR_LOOP_LEAST_SECONDS <= time.monotonic() - began < 30


class _Instance:
    """The part of an instance that the run queue's wait uses."""

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
    daemon.replace_loops()
    assert controller.QueuedRunCoordinatorDaemon is daemon.PromptRunQueueDaemon

    def submit() -> None:
        context: Any = SimpleNamespace(dagster_run=SimpleNamespace(tags={JOB_ID_TAG: "known"}))
        assert RunQueue().submit_run(context) == "the run"

    assert _seconds_of_wait(_Instance(queued=0, active=0), interval=60, meanwhile=submit) < 30


def test_runs_of_a_burst_are_launched_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "QUEUE_SECONDS", 0.3)
    queue, instance = daemon.PromptRunQueueDaemon(interval_seconds=60), _Instance(queued=1, active=0)
    run_submitted.set()

    def seconds_of_wait() -> float:
        began = time.monotonic()
        queue._wait(instance, threading.Event())  # type: ignore[arg-type]
        return time.monotonic() - began

    assert seconds_of_wait() < 0.25, "the first one of a quiet queue"
    assert seconds_of_wait() > 0.25
    assert seconds_of_wait() > 0.25
    queue._woken = 0.0  # long ago
    assert seconds_of_wait() < 0.25
    monkeypatch.setattr(daemon, "QUEUE_SECONDS", 0.0)
    assert seconds_of_wait() < 0.25
    queue._in_progress = {str(number): object() for number in range(200)}  # type: ignore[misc]
    assert seconds_of_wait() > 0.25, "a look at many launched runs costs more"


def test_a_run_that_ends_wakes_the_queue_while_others_wait() -> None:
    instance = _Instance(queued=5, active=2)

    def free() -> None:
        instance.active = 1

    assert _seconds_of_wait(instance, interval=60, meanwhile=free) < 30


@pytest.mark.parametrize(("queued", "active"), [(0, 0), (5, 2)])
def test_without_a_reason_the_interval_holds(queued: int, active: int) -> None:
    assert _seconds_of_wait(_Instance(queued=queued, active=active), interval=0.5) >= 0.5


def test_dead_runs_are_searched_every_second() -> None:
    daemon.replace_loops()
    made = controller.create_daemon_of_type("EVENT_LOG_CONSUMER", None)  # type: ignore[arg-type]
    assert isinstance(made, daemon.PromptRetryDaemon)
    assert made.interval_seconds == daemon.RETRY_POLL_SECONDS < 5


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")  # Dagster's own, when it has no cursor yet
def test_a_retry_that_cannot_be_made_now_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster as shipped gives a run up permanently when its code server is unreachable at that moment."""
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
def test_a_dead_run_with_a_lost_event_is_found_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True, "max_retries": 3}}) as instance:
        retried: list[str] = []
        monkeypatch.setattr(daemon, "retry_run", lambda run, _: retried.append(run.run_id))
        monkeypatch.setattr(daemon, "RECALL_POLL_SECONDS", 0.0)
        monkeypatch.setattr(daemon.PromptRetryDaemon, "_retry_failed", lambda *_: iter(()))
        retries = daemon.PromptRetryDaemon()
        context: Any = SimpleNamespace(instance=instance)
        list(retries.run_iteration(context))
        run = instance.create_run_for_job(empty_job, status=DagsterRunStatus.STARTED)
        instance.report_run_failed(run)
        list(retries.run_iteration(context))
        assert retried == [run.run_id]


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
def test_a_dead_run_is_retried_with_all_steps_however_often_it_died(monkeypatch: pytest.MonkeyPatch) -> None:
    with DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True, "max_retries": 1_000_000}}) as instance:
        retried: list[str | None] = []
        monkeypatch.setattr(daemon, "retry_run", lambda run, _: retried.append(run.tags.get("dagster/retry_strategy")))
        monkeypatch.setattr(daemon, "RETRY_THREADS", 1)  # the instance of this test is a SQLite in memory
        retries = daemon.PromptRetryDaemon()
        context = SimpleNamespace(instance=instance)
        list(retries.run_iteration(context))  # type: ignore[arg-type]
        root = instance.create_run_for_job(empty_job, status=DagsterRunStatus.STARTED)
        instance.report_run_failed(root)
        for _ in range(9):
            run = instance.create_run_for_job(
                empty_job, status=DagsterRunStatus.STARTED, root_run_id=root.run_id, parent_run_id=root.run_id
            )
            instance.report_run_failed(run)
        list(retries.run_iteration(context))  # type: ignore[arg-type]
        assert retried == ["ALL_STEPS"] * 10


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
def test_a_step_that_fails_again_and_again_is_not_retried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True, "max_retries": 1_000_000}}) as instance:
        retried: list[str] = []
        monkeypatch.setattr(daemon, "retry_run", lambda run, _: retried.append(run.tags["quel/step_failures"]))
        retries = daemon.PromptRetryDaemon()
        context: Any = SimpleNamespace(instance=instance)
        failed = {"dagster/failure_reason": "STEP_FAILURE"}
        for times in ("0", "2", "3"):
            tags = {**failed, "quel/step_failures": times}
            retries._retry(instance.create_run_for_job(empty_job, tags=tags), context)
        assert retried == ["1", "3"]


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
def test_a_retry_that_can_never_be_made_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "RETRY_SECONDS", 0.0)
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
