"""Dagster's daemon, quick enough for a queue that people wait for (docs/decisions/daemon-loop.md).

    python -m quel_dagster.pipeline.daemon run …      the same command line as dagster-daemon

Three of its loops sleep where they could know better, or serve in the wrong order:

- The sensor daemon looks for due sensors every 5 s, whatever their own interval. A tick of our queue sensor blocks
  on Redis, so the first id of a quiet queue is seen at once; but then the rest of those 5 s follows, and an id that
  comes meanwhile waits. The pause is a constant of a private module: this lowers it.
- The run queue is looked at every second or more. Runs are submitted by a thread of this very process, so it can be
  woken; and while runs wait for a slot, a look at whether a run has ended costs one small query. A run that goes on
  with another's work does not stand behind all who came after that one.
- Runs that died are retried by a loop of 5 s, a constant as well; runs that never began are not looked at.

All of it reaches into private modules of an exactly pinned Dagster; where an upgrade has moved them, a warning says
what is slower from then on and everything else works as shipped.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterInvalidSubsetError
from dagster._core.execution.plan.resume_retry import ReexecutionStrategy
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES, DagsterRun, RunRecord
from dagster._core.storage.tags import RETRY_STRATEGY_TAG, WILL_RETRY_TAG
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._daemon import controller, sensor
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import filter_runs_to_should_retry, retry_run
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.cli import main
from dagster._daemon.daemon import DaemonIterator, MonitoringDaemon, SpanMarker
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._utils.error import serializable_error_info_from_exc_info
from typing_extensions import override

from quel_dagster.pipeline.lost_starts import LostStarts
from quel_dagster.pipeline.run_queue import StartOrder

#: seconds from the start of one look for due sensors to the start of the next
SENSOR_LOOP_SECONDS = 0.2
#: seconds between two looks at whether a run has ended, while others wait for its slot
SLOT_LOOK_SECONDS = 0.2
#: seconds between two looks for runs that died and are to be retried
RETRY_LOOK_SECONDS = 1.0
#: a retry that cannot be made, say while the code server is away, is tried again for so long
RETRY_PATIENCE_SECONDS = 600.0
_run_submitted = threading.Event()
_log = logging.getLogger(__name__)


def quicken_sensor_loop(seconds: float = SENSOR_LOOP_SECONDS) -> bool:
    """Set the pause of the sensor daemon's loop; False, with a warning, when this Dagster has no such constant."""
    if not isinstance(getattr(sensor, "MIN_INTERVAL_LOOP_TIME", None), int | float):
        _log.warning(
            "dagster._daemon.sensor.MIN_INTERVAL_LOOP_TIME is gone in this version of Dagster, so its own pause "
            "between sensor ticks stays: an id pushed right after another may wait about 5 s."
        )
        return False
    sensor.MIN_INTERVAL_LOOP_TIME = seconds  # type: ignore[assignment]  # declared by its value, an int
    return True


def quicken_run_queue() -> bool:
    """Let submitted runs wake the run queue; False, with a warning, when this Dagster is built another way."""
    if getattr(controller, "QueuedRunCoordinatorDaemon", None) is not QueuedRunCoordinatorDaemon:
        _log.warning(
            "dagster._daemon.controller has no QueuedRunCoordinatorDaemon in this version of Dagster, so the run "
            "queue is looked at once per dequeue interval: runs start up to that much later, and large jobs only when "
            "no small one waits."
        )
        return False
    controller.QueuedRunCoordinatorDaemon = PromptRunQueueDaemon  # type: ignore[attr-defined,assignment]
    submit_run = QueuedRunCoordinator.submit_run

    def submit_and_wake(self: Any, context: SubmitRunContext) -> DagsterRun:
        run = submit_run(self, context)
        _run_submitted.set()
        return run

    QueuedRunCoordinator.submit_run = submit_and_wake  # type: ignore[method-assign]
    return True


def quicken_retries() -> bool:
    """Look for runs to retry more often; False, with a warning, when this Dagster is built another way."""
    if getattr(controller, "EventLogConsumerDaemon", None) is not EventLogConsumerDaemon:
        _log.warning(
            "dagster._daemon.controller has no EventLogConsumerDaemon in this version of Dagster, so runs that died "
            "are looked for every 5 s: their retries start up to that much later."
        )
        return False
    controller.EventLogConsumerDaemon = PromptRetryDaemon  # type: ignore[attr-defined,assignment]
    return True


def watch_lost_starts() -> bool:
    """Let run monitoring see runs that never began; False, with a warning, when this Dagster is built another way."""
    if getattr(controller, "MonitoringDaemon", None) is not MonitoringDaemon:
        _log.warning(
            "dagster._daemon.controller has no MonitoringDaemon in this version of Dagster, so a run whose worker died "
            "before it began is failed by its start timeout alone."
        )
        return False
    controller.MonitoringDaemon = WatchfulMonitoringDaemon  # type: ignore[attr-defined,assignment]
    return True


class WatchfulMonitoringDaemon(MonitoringDaemon):
    """Run monitoring that knows of lost starts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lost_starts = LostStarts()

    @override
    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext[Any]) -> DaemonIterator:
        for line in self._lost_starts.look(workspace_process_context.instance):
            self._logger.warning(line)
            yield None
        yield from super().run_iteration(workspace_process_context)


class PromptRetryDaemon(EventLogConsumerDaemon):
    """Retries runs that died, soon; a retry that cannot be made now, say without a code server, is made later.

    Dagster tries once, and then gives the run up for good. Retries that wait here are forgotten when the daemon ends;
    the sweep finds their jobs.
    """

    def __init__(self) -> None:
        super().__init__(interval_seconds=RETRY_LOOK_SECONDS)  # type: ignore[arg-type]  # any number, says its base
        #: runs whose retry could not be made, until when (monotonic seconds) that is tried
        self._waiting: dict[str, float] = {}

    @property
    @override
    def handle_updated_runs_fns(self) -> Sequence[Callable[..., Iterator[Any]]]:
        return [self._retry_failed]

    @override
    def run_iteration(self, workspace_process_context: IWorkspaceProcessContext[Any]) -> DaemonIterator:
        for run_id in list(self._waiting):
            yield None
            run = workspace_process_context.instance.get_run_by_id(run_id)
            if run is None:
                del self._waiting[run_id]
            else:
                self._retry(run, workspace_process_context)
        yield from super().run_iteration(workspace_process_context)

    def _retry_failed(
        self,
        workspace_process_context: IWorkspaceProcessContext[Any],
        run_records: Sequence[RunRecord],
        _logger: logging.Logger,
    ) -> Iterator[Any]:
        runs = [record.dagster_run for record in run_records]
        for run in filter_runs_to_should_retry(runs, workspace_process_context.instance):
            yield
            self._retry(run, workspace_process_context)

    def _retry(self, run: DagsterRun, context: IWorkspaceProcessContext[Any]) -> None:
        try:
            retry_run(run, context)
        except DagsterInvalidSubsetError:
            # Every step was done, only the run's end was not told: nothing is left but to look once more at all of it.
            context.instance.add_run_tags(run.run_id, {RETRY_STRATEGY_TAG: ReexecutionStrategy.ALL_STEPS.name})
            self._waiting.setdefault(run.run_id, time.monotonic() + RETRY_PATIENCE_SECONDS)
        except Exception:
            known = run.run_id in self._waiting
            until = self._waiting.setdefault(run.run_id, time.monotonic() + RETRY_PATIENCE_SECONDS)
            if time.monotonic() >= until:
                del self._waiting[run.run_id]
                self._logger.exception("Run %s could not be retried and is given up", run.run_id)
                context.instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})
                context.instance.report_engine_event("Its retry could not be made; given up.", run)
            elif not known:
                self._logger.exception("Run %s could not be retried yet; trying again", run.run_id)
                context.instance.report_engine_event("Its retry cannot be made now; it is tried again.", run)
        else:
            self._waiting.pop(run.run_id, None)


class PromptRunQueueDaemon(QueuedRunCoordinatorDaemon):
    """The run queue's daemon, looking again as soon as there is a reason to, and with an order of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._start_order = StartOrder()

    @override
    def core_loop(
        self, workspace_process_context: IWorkspaceProcessContext[Any], shutdown_event: threading.Event
    ) -> DaemonIterator:
        instance = workspace_process_context.instance
        while True:
            _run_submitted.clear()
            yield SpanMarker.START_SPAN
            try:
                yield from self.run_iteration(workspace_process_context)
            except Exception:
                self._logger.exception("The look at the run queue failed")
                yield serializable_error_info_from_exc_info(sys.exc_info())
            yield SpanMarker.END_SPAN
            self._wait(instance, shutdown_event)
            yield None

    @override
    def _get_runs_to_dequeue(self, *args: Any, **options: Any) -> list[DagsterRun]:
        runs = super()._get_runs_to_dequeue(*args, **options)
        self._start_order.end_look()
        return runs

    @override
    def _priority_sort(self, runs: Iterable[DagsterRun]) -> list[DagsterRun]:
        return self._start_order.sort(runs)

    def _wait(self, instance: DagsterInstance, shutdown_event: threading.Event) -> None:
        """Return after the dequeue interval, or sooner: a run was submitted, or one ended for which another waits."""
        until = time.monotonic() + self.interval_seconds
        waiting = _count(instance, DagsterRunStatus.QUEUED) > 0
        active = _count(instance, *ACTIVE_RUN_STATUSES)
        while (left := until - time.monotonic()) > 0 and not shutdown_event.is_set():
            if _run_submitted.wait(min(left, SLOT_LOOK_SECONDS)):
                return
            if waiting and _count(instance, *ACTIVE_RUN_STATUSES) < active:
                return


def _count(instance: DagsterInstance, *statuses: DagsterRunStatus) -> int:
    return instance.get_runs_count(RunsFilter(statuses=list(statuses)))


if __name__ == "__main__":
    quicken_sensor_loop()
    quicken_run_queue()
    quicken_retries()
    watch_lost_starts()
    main()
