"""Finding the runs of a job, and whether one that failed goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from uuid import UUID

from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import WILL_RETRY_TAG

from quel_dagster.pipeline.tags import JOB_ID_TAG

#: How long Dagster may take to write on a failed run whether it is retried.
DECISION_SECONDS = 10.0


def will_be_retried(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Dagster writes its decision on a failed run a moment after the event that tells of the failure."""
    until = time.monotonic() + DECISION_SECONDS
    while True:
        current = instance.get_run_by_id(run.run_id) or run
        decision = current.tags.get(WILL_RETRY_TAG)
        if decision is not None:
            return decision == "true"
        if not instance.run_retries_enabled or time.monotonic() > until:
            return bool(auto_reexecution_should_retry_run(instance, current, None))
        time.sleep(0.1)


def runs_of(instance: DagsterInstance, job_ids: Iterable[UUID]) -> dict[UUID, list[DagsterRun]]:
    """The runs of each job, newest first; jobs without a run are left out."""
    wanted = [str(job_id) for job_id in job_ids]
    found: dict[UUID, list[DagsterRun]] = {}
    if wanted:
        for run in instance.get_runs(RunsFilter(tags={JOB_ID_TAG: wanted})):
            found.setdefault(UUID(run.tags[JOB_ID_TAG]), []).append(run)
    return found


def live_jobs(instance: DagsterInstance, job_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these jobs for which a run is queued, started, or ending."""
    wanted = [str(job_id) for job_id in job_ids]
    if not wanted:
        return set()
    runs = instance.get_runs(RunsFilter(tags={JOB_ID_TAG: wanted}, statuses=list(NOT_FINISHED_STATUSES)))
    return {UUID(run.tags[JOB_ID_TAG]) for run in runs}
