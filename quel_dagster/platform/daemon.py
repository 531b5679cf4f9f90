"""Dagster's daemon, made faster for a queue that people wait for (docs/decisions/daemon-loop.md).

    python -m quel_dagster.platform.daemon run …      the same command line as dagster-daemon

Three of its loops sleep too long, or serve in the wrong order:

- The sensor daemon looks for due sensors every 5 s, regardless of their interval. A tick of the queue sensor blocks
on Redis, so the first id of a quiet queue is seen at once; but then the rest of those 5 s passes, and a second id
waits. Here it looks every second, and when a tick has ended. The pause is a constant of a private module. An interval
of less than a second cannot be set: here one of a second means none.
- The run queue is polled every second or more. Runs are submitted by a thread of this process, so it can be woken;
and while runs wait for a slot, checking whether a run has ended costs one small query. A run that continues the work
of another one does not queue behind later ones.
- Runs that died are retried by a loop of 5 s, also a constant; runs that never began are not checked.

All of it uses private modules of an exactly pinned Dagster; if an upgrade has moved them, a warning names what is
slower, and everything else works as shipped.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from redis import Redis, RedisError
from typing_extensions import override

from quel_dagster.adapters.database.lease import LeaseBoard
from quel_dagster.adapters.intake import Pauser, admits_a_probe, intake_paused
from quel_dagster.adapters.redis_connection import open_redis
from quel_dagster.jobs.model import JobStatus
from quel_dagster.platform import storage_connections
from quel_dagster.platform.internals import (
    ACTIVE_RUN_STATUSES,
    AUTO_RETRY_RUN_ID_TAG,
    RETRY_NUMBER_TAG,
    RETRY_STRATEGY_TAG,
    RUN_FAILURE_REASON_TAG,
    WILL_RETRY_TAG,
    DaemonIterator,
    DagsterRun,
    EventLogConsumerDaemon,
    IWorkspaceProcessContext,
    MonitoringDaemon,
    QueuedRunCoordinatorDaemon,
    ReexecutionStrategy,
    RunFailureReason,
    RunRecord,
    SensorDaemon,
    SpanMarker,
    check_internals,
    filter_runs_to_should_retry,
    retry_run,
    serializable_error_info_from_exc_info,
)
from quel_dagster.platform.internals import daemon_controller as controller
from quel_dagster.platform.internals import daemon_main as main
from quel_dagster.platform.internals import sensor_daemon as sensor
from quel_dagster.platform.kept_plans import keep_plans
from quel_dagster.platform.launcher import QuelRunLauncher
from quel_dagster.platform.lost_starts import LostStarts
from quel_dagster.platform.run_queue import StartOrder, continues_work, run_submitted
from quel_dagster.platform.run_states import read_back
from quel_dagster.platform.runs import job_of, runs_of
from quel_dagster.platform.tags import OUTCOME_TAG, REFUSED, STEP_FAILURES_TAG
from quel_dagster.settings import Settings

#: seconds between two searches for due sensors, and at least after one when a tick has ended
SENSOR_LOOP_SECONDS, SENSOR_LOOP_LEAST_SECONDS = 1.0, 0.2
#: a sensor with this interval, the shortest in Dagster, is due again as soon as its tick has ended
NO_INTERVAL = 1
#: seconds between two checks whether a run has ended, while others wait for its slot
SLOT_POLL_SECONDS = 0.2
#: seconds between two submissions that wake the run queue, and more for each launched run. A run that is submitted to a
#: quiet queue starts at once, and those of a burst a few at a time: each iteration reads queue and launched runs
QUEUE_SECONDS, QUEUE_SECONDS_PER_RUN = 0.05, 0.002
#: seconds between two searches for dead runs to retry
RETRY_POLL_SECONDS = 1.0
#: retries made at a time: as many as this process may have connections to Dagster's storage
RETRY_THREADS = storage_connections.MOST
#: retry limit for a retry that cannot be created, for example while the code server is unreachable
RETRY_SECONDS = 6 * 3600.0
#: a daemon that starts looks so far back for retries that an earlier one did not make
RECALL_SECONDS = 24 * 3600.0
#: seconds between two later searches for retries that were not made, and how far they look back
RECALL_POLL_SECONDS, RECALL_AGAIN_SECONDS = 60.0, 900.0
#: a step that fails this often with an unexpected error is a program fault; a killed process does not count
MOST_STEP_FAILURES = 3


def replace_loops() -> None:
    """Let Dagster's daemon use the loops below. `check_internals` warns of a place that this Dagster does not have."""
    for module, name, value in (
        (sensor, "MIN_INTERVAL_LOOP_TIME", SENSOR_LOOP_SECONDS),
        (sensor, "is_under_min_interval", is_under_min_interval),
        (sensor, "_submit_run_request", submit_run_request),
        (controller, "SensorDaemon", PromptSensorDaemon),
        (controller, "QueuedRunCoordinatorDaemon", PromptRunQueueDaemon),
        (controller, "EventLogConsumerDaemon", PromptRetryDaemon),
        (controller, "MonitoringDaemon", WatchfulMonitoringDaemon),
    ):
        if hasattr(module, name):
            setattr(module, name, value)


_is_under_min_interval: Callable[..., bool] | None = getattr(sensor, "is_under_min_interval", None)


def is_under_min_interval(state: Any, remote_sensor: Any, *arguments: Any) -> bool:
    """Return whether it is too early for the next tick of this sensor."""
    if remote_sensor.min_interval_seconds == NO_INTERVAL:
        return False
    return _is_under_min_interval is not None and _is_under_min_interval(state, remote_sensor, *arguments)


_submit_run_request: Callable[..., Any] | None = getattr(sensor, "_submit_run_request", None)


def submit_run_request(*arguments: Any, **named: Any) -> Any:
    """Create and submit a run of a sensor; what was just written is not read again."""
    assert _submit_run_request is not None  # noqa: S101  replaces it where it exists
    with read_back.active():
        return _submit_run_request(*arguments, **named)


class PromptSensorDaemon(SensorDaemon):
    """Looks for due sensors as soon as a tick has ended, because the next one of its sensor may be due."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self._tick_ended = threading.Event()
        if self._threadpool_executor is not None:
            self._threadpool_executor.submit = self._noting_ends(self._threadpool_executor.submit)  # type: ignore[method-assign]

    @override
    def core_loop(
        self, workspace_process_context: IWorkspaceProcessContext[Any], shutdown_event: threading.Event
    ) -> DaemonIterator:
        yield from super().core_loop(workspace_process_context, _Pause(shutdown_event, self._tick_ended))

    def _noting_ends(self, submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
        def submit_tick(*arguments: Any, **named: Any) -> Future[Any]:
            tick = submit(*arguments, **named)
            tick.add_done_callback(lambda _: self._tick_ended.set())
            return tick

        return submit_tick


class _Pause(threading.Event):
    """The event of a stop for the sensor daemon, which waits on it between two searches: a tick's end ends the wait."""

    def __init__(self, stopped: threading.Event, tick_ended: threading.Event) -> None:
        super().__init__()
        self._stopped = stopped
        self._tick_ended = tick_ended

    @override
    def is_set(self) -> bool:
        return self._stopped.is_set()

    @override
    def wait(self, timeout: float | None = None) -> bool:
        began = time.monotonic()
        if self._tick_ended.wait(timeout):
            self._tick_ended.clear()
            self._stopped.wait(max(0.0, began + SENSOR_LOOP_LEAST_SECONDS - time.monotonic()))
        return self.is_set()


class WatchfulMonitoringDaemon(MonitoringDaemon):
    """Run monitoring that also handles lost starts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lost_starts = LostStarts()

    @override
    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext[Any]) -> DaemonIterator:
        for line in self._lost_starts.requeue(workspace_process_context.instance):
            self._logger.warning(line)
            yield None
        yield from super().run_iteration(workspace_process_context)


class PromptRetryDaemon(EventLogConsumerDaemon):
    """Retries dead runs soon; a retry that cannot be created now, for example without a code server, is delayed.

    Dagster tries once, and then gives the run up permanently. A daemon that starts looks for the retries that an
    earlier one delayed, and then each minute for those with a lost event.
    """

    def __init__(self) -> None:
        super().__init__(interval_seconds=RETRY_POLL_SECONDS)  # type: ignore[arg-type]  # any number, says its base
        #: runs with a delayed retry, and the time limit for it (monotonic seconds)
        self._waiting: dict[str, float] = {}
        #: seconds to look back at the next search, and when that is (monotonic seconds)
        self._recall_seconds, self._recall_at = RECALL_SECONDS, 0.0

    @property
    @override
    def handle_updated_runs_fns(self) -> Sequence[Callable[..., Iterator[Any]]]:
        return [self._retry_failed]

    @override
    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext[Any]) -> DaemonIterator:
        if time.monotonic() >= self._recall_at:
            self._recall(workspace_process_context.instance)
            self._recall_seconds = RECALL_AGAIN_SECONDS
            self._recall_at = time.monotonic() + RECALL_POLL_SECONDS
        for run_id in list(self._waiting):
            yield None
            run = workspace_process_context.instance.get_run_by_id(run_id)
            if run is None:
                del self._waiting[run_id]
            elif end := self._job_ended_otherwise(workspace_process_context.instance, run):
                self._give_up(run, workspace_process_context.instance, f"Not retried: its job has ended {end}.")
            else:
                self._retry(run, workspace_process_context)
        yield from super().run_iteration(workspace_process_context)

    def _recall(self, instance: DagsterInstance) -> None:
        """Find the retries that were decided on, and not created or not submitted."""
        since = datetime.now(UTC) - timedelta(seconds=self._recall_seconds)
        created = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED], created_after=since))
        not_submitted = {run.parent_run_id for run in created if RETRY_NUMBER_TAG in run.tags}
        decided = RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"}, updated_after=since)
        for run in instance.get_runs(decided):
            if AUTO_RETRY_RUN_ID_TAG not in run.tags or run.run_id in not_submitted:
                self._waiting.setdefault(run.run_id, time.monotonic() + RETRY_SECONDS)

    def _give_up(self, run: DagsterRun, instance: DagsterInstance, reason: str) -> None:
        self._waiting.pop(run.run_id, None)
        instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})
        instance.report_engine_event(reason, run)

    def _job_ended_otherwise(self, instance: DagsterInstance, run: DagsterRun) -> JobStatus | None:
        """Return how the run's job ended while its retry was delayed; None when the retry still has something to do.

        A finished job without a newer run to report it gets its retry: it makes nothing, and ends as the job did.
        """
        job_id = job_of(run)
        end = self._jobs.job_end(job_id) if job_id is not None and self._jobs is not None else None
        if job_id is None or end is None:
            return None
        runs = runs_of(instance, [job_id]).get(job_id, ())
        newest = next((found for found in runs if found.tags.get(OUTCOME_TAG) != REFUSED), run)
        ended_by_the_job = end in (JobStatus.FAILED, JobStatus.CANCELLED)
        return end if ended_by_the_job or newest.run_id != run.run_id else None

    @cached_property
    def _jobs(self) -> LeaseBoard | None:
        url = Settings.of_process().database_url
        return LeaseBoard(url.get_secret_value()) if url else None

    def _retry_failed(
        self,
        workspace_process_context: IWorkspaceProcessContext[Any],
        run_records: Sequence[RunRecord],
        _logger: logging.Logger,
    ) -> Iterator[Any]:
        runs = [record.dagster_run for record in run_records]
        dead = list(filter_runs_to_should_retry(runs, workspace_process_context.instance))
        # a killed process leaves many dead runs; making a retry is mostly waiting for PostgreSQL
        with ThreadPoolExecutor(RETRY_THREADS, thread_name_prefix="retry") as threads:
            for _ in threads.map(lambda run: self._retry(run, workspace_process_context), dead):
                yield

    def _retry(self, run: DagsterRun, context: IWorkspaceProcessContext[Any]) -> None:
        failures = int(run.tags.get(STEP_FAILURES_TAG, 0))
        if run.tags.get(RUN_FAILURE_REASON_TAG) == RunFailureReason.STEP_FAILURE.value:
            failures += 1
        if failures > MOST_STEP_FAILURES:
            self._give_up(run, context.instance, f"A step failed {failures} times; the run is not retried.")
            return
        try:
            # A retry from failure would leave out those units of a dead run that had not begun.
            tags = {RETRY_STRATEGY_TAG: ReexecutionStrategy.ALL_STEPS.name, STEP_FAILURES_TAG: str(failures)}
            context.instance.add_run_tags(run.run_id, tags)
            retry_run(context.instance.get_run_by_id(run.run_id) or run, context)
        except Exception:
            known = run.run_id in self._waiting
            until = self._waiting.setdefault(run.run_id, time.monotonic() + RETRY_SECONDS)
            if time.monotonic() >= until:
                self._logger.exception("Run %s could not be retried and is given up", run.run_id)
                self._give_up(run, context.instance, "Its retry could not be made; given up.")
            elif not known:
                self._logger.exception("Run %s could not be retried yet; trying again", run.run_id)
                context.instance.report_engine_event("Its retry cannot be created now; trying again.", run)
        else:
            self._waiting.pop(run.run_id, None)


class PromptRunQueueDaemon(QueuedRunCoordinatorDaemon):
    """The run queue's daemon: woken when there is a reason, with its own start order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._start_order = StartOrder()
        self._in_progress: dict[str, RunRecord] = {}
        #: when a submission woke the queue last (monotonic seconds)
        self._woken = 0.0

    @override
    def core_loop(
        self, workspace_process_context: IWorkspaceProcessContext[Any], shutdown_event: threading.Event
    ) -> DaemonIterator:
        instance = workspace_process_context.instance
        while True:
            run_submitted.clear()
            yield SpanMarker.START_SPAN
            try:
                yield from self.run_iteration(workspace_process_context)
            except Exception:
                self._logger.exception("An iteration of the run queue failed")
                yield serializable_error_info_from_exc_info(sys.exc_info())
            yield SpanMarker.END_SPAN
            self._wait(instance, shutdown_event)
            yield None

    @override
    def _dequeue_run(self, instance: DagsterInstance, *args: Any, **options: Any) -> bool:
        """Launch a run, unless the broker refused one in this iteration."""
        launcher = instance.run_launcher
        if isinstance(launcher, QuelRunLauncher) and not launcher.takes_runs():
            return False
        with read_back.active():
            return bool(super()._dequeue_run(instance, *args, **options))

    @override
    def _get_runs_to_dequeue(self, *args: Any, **options: Any) -> list[DagsterRun]:
        runs = super()._get_runs_to_dequeue(*args, **options)
        self._start_order.end_iteration()
        if not runs or (pauser := self._pauser()) is None:
            return runs
        begun = [run for run in runs if continues_work(run)]
        new = [run for run in runs if not continues_work(run)]
        return [*begun, *(new[:1] if new and pauser is Pauser.GEMINI and self._may_probe() else ())]

    @override
    def _get_in_progress_run_records(self, instance: DagsterInstance) -> Sequence[RunRecord]:
        """Return the launched runs that have not ended, each as it was when it was first seen.

        Only their number and their tags are used. Every launch asks for them, and reading hundreds of runs again costs
        more than the launch.
        """
        run_ids = instance.run_storage.get_run_ids(RunsFilter(statuses=ACTIVE_RUN_STATUSES))
        known = {run_id: self._in_progress[run_id] for run_id in run_ids if run_id in self._in_progress}
        if unknown := [run_id for run_id in run_ids if run_id not in known]:
            records = instance.get_run_records(RunsFilter(run_ids=unknown))
            known |= {record.dagster_run.run_id: record for record in records}
        self._in_progress = known
        return list(known.values())

    def _pauser(self) -> Pauser | None:
        """Return the party that pauses the intake, if any."""
        try:
            pause = intake_paused(self._redis) if self._redis is not None else None
        except RedisError:
            return None  # the queue sensor, which feeds this queue, reports that Redis is unreachable
        return pause.pauser if pause else None

    def _may_probe(self) -> bool:
        try:
            return self._redis is not None and admits_a_probe(self._redis)
        except RedisError:
            return False

    @cached_property
    def _redis(self) -> Redis | None:
        url = Settings.of_process().redis()
        return open_redis(Redis, url) if url else None

    @override
    def _priority_sort(self, runs: Iterable[DagsterRun]) -> list[DagsterRun]:
        return self._start_order.sort(runs)

    def _wait(self, instance: DagsterInstance, shutdown_event: threading.Event) -> None:
        """Return after the dequeue interval, or sooner: a run was submitted, or one ended that another waits for."""
        until = time.monotonic() + self.interval_seconds
        waiting = not run_submitted.is_set() and _count(instance, DagsterRunStatus.QUEUED) > 0
        active = _count(instance, *ACTIVE_RUN_STATUSES) if waiting else 0
        while (left := until - time.monotonic()) > 0 and not shutdown_event.is_set():
            if run_submitted.wait(min(left, SLOT_POLL_SECONDS)):
                pace = QUEUE_SECONDS + QUEUE_SECONDS_PER_RUN * len(self._in_progress)
                shutdown_event.wait(max(0.0, self._woken + pace - time.monotonic()))
                self._woken = time.monotonic()
                return
            if waiting and _count(instance, *ACTIVE_RUN_STATUSES) < active:
                return


def _count(instance: DagsterInstance, *statuses: DagsterRunStatus) -> int:
    return instance.get_runs_count(RunsFilter(statuses=list(statuses)))


if __name__ == "__main__":
    check_internals()
    replace_loops()
    keep_plans()
    main()
