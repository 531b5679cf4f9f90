"""Finding the runs of a job, for programs beside Dagster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

JOB_ID_TAG = "quel/job_id"


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
