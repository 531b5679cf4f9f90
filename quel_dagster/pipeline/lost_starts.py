"""Runs that were launched and never began: the worker that had taken them died, or their message with it.

Run monitoring asks nobody about such a run and fails it after its start timeout, minutes later, while it holds a slot.
It has done nothing yet, so it goes back to the queue as it is, which costs none of its retries.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from dagster import DagsterEvent, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from quel_dagster.pipeline.launcher import QuelRunLauncher
from quel_dagster.pipeline.tags import LOST_STARTS_TAG

#: A worker that is busy may be late with its answer: only what looks lost for so long is.
SURE_SECONDS = 3.0
#: A run that kills whoever begins it ends as any other that died.
MOST_LOST_STARTS = 5


class LostStarts:
    """Watches the runs of one instance that are starting; lives as long as the daemon, on its own clock."""

    def __init__(self) -> None:
        #: run and task → when it was first seen starting (monotonic seconds)
        self._seen: dict[tuple[str, str], float] = {}
        #: likewise, when it first looked lost
        self._suspected: dict[tuple[str, str], float] = {}

    def look(self, instance: DagsterInstance) -> Iterator[str]:
        """Queue again what is lost; a line about each."""
        launcher = instance.run_launcher
        if not isinstance(launcher, QuelRunLauncher):
            return
        starting = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING]))
        now = time.monotonic()
        self._seen = {key: self._seen.get(key, now) for key in map(_key, starting)}
        self._suspected = {key: since for key, since in self._suspected.items() if key in self._seen}
        for run in starting:
            reason = launcher.lost_start(run, now - self._seen[_key(run)])
            if reason is None:
                self._suspected.pop(_key(run), None)
                continue
            if now - self._suspected.setdefault(_key(run), now) < SURE_SECONDS:
                continue
            current = instance.get_run_by_id(run.run_id)
            if current is None or current.status is not DagsterRunStatus.STARTING:
                continue
            times = int(run.tags.get(LOST_STARTS_TAG, 0)) + 1
            if times > MOST_LOST_STARTS:
                instance.report_run_failed(run, reason)
                yield f"Run {run.run_id} never began, {MOST_LOST_STARTS} times: {reason}"
                continue
            instance.add_run_tags(run.run_id, {LOST_STARTS_TAG: str(times)})
            instance.report_engine_event(f"{reason} Queued again ({times} of {MOST_LOST_STARTS}).", run)
            instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)
            yield f"Run {run.run_id} never began: {reason} Queued again."


def _key(run: DagsterRun) -> tuple[str, str]:
    return run.run_id, run.tags.get(DAGSTER_CELERY_TASK_ID_TAG, "")
