"""Recover runs that were launched and never began: their process died, or their message was lost.

Such a run has done nothing yet, so it is queued again unchanged, at no cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from dagster import DagsterEvent, DagsterInstance, DagsterRunStatus, RunsFilter

from quel_dagster.platform.broker import BROKER_ERRORS
from quel_dagster.platform.launcher import QuelRunLauncher
from quel_dagster.platform.tags import LOST_STARTS_TAG

#: Seconds that a run must look lost: it is briefly invisible between the broker and a process's record.
SURE_SECONDS = 8.0
#: After this many lost starts a run fails, because it may kill every process that begins it.
MOST_LOST_STARTS = 20


class LostStarts:
    """Watches the starting runs of one instance; lives as long as the daemon, on its own clock."""

    def __init__(self) -> None:
        #: run → time when it first looked lost (monotonic seconds)
        self._suspected: dict[str, float] = {}

    def requeue(self, instance: DagsterInstance) -> Iterator[str]:
        """Queue lost runs again; yield a line about each."""
        launcher = instance.run_launcher
        if not isinstance(launcher, QuelRunLauncher):
            return
        starting = {run.run_id for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING]))}
        if not starting:
            self._suspected.clear()
            return
        try:
            lost = launcher.lost_starts(starting)
        except BROKER_ERRORS:
            return  # the state of the runs is unknown
        now = time.monotonic()
        self._suspected = {run_id: self._suspected.get(run_id, now) for run_id in lost}
        for run_id, reason in lost.items():
            if now - self._suspected[run_id] < SURE_SECONDS:
                continue
            run = instance.get_run_by_id(run_id)
            if run is None or run.status is not DagsterRunStatus.STARTING:
                continue
            del self._suspected[run_id]
            times = int(run.tags.get(LOST_STARTS_TAG, 0)) + 1
            if times > MOST_LOST_STARTS:
                instance.report_run_failed(run, reason)
                yield f"Run {run_id} never began, {MOST_LOST_STARTS} times: {reason}"
                continue
            instance.add_run_tags(run_id, {LOST_STARTS_TAG: str(times)})
            instance.report_engine_event(f"{reason} Queued again ({times}).", run)
            instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run_id)
            yield f"Run {run_id} never began: {reason} Queued again."
