"""The tags of a run, by which people find the runs of a job, and see how a run was launched and ended."""

from __future__ import annotations

from dagster import DagsterRun

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.engine.outcomes import JobOutcome
from quel_dagster.jobs.model import Job, JobStatus
from quel_dagster.platform.internals import RETRY_NUMBER_TAG, RUN_KEY_TAG
from quel_dagster.platform.tags import (
    CATEGORY_TAG,
    DRY_RUN_TAG,
    JOB_ID_TAG,
    JOB_TYPE_TAG,
    LAUNCH_TAG,
    MEMBER_TAG,
    ORG_TAG,
    OUTCOME_TAG,
    PRODUCTION_ID_TAG,
)


def run_tags(job: JobDescription | Job) -> dict[str, str]:
    """Return the tags for finding the runs of a job."""
    tags = {
        JOB_ID_TAG: job.job_id,
        PRODUCTION_ID_TAG: job.production_id,
        JOB_TYPE_TAG: job.job_type,
        CATEGORY_TAG: job.category.value,
        MEMBER_TAG: job.member_id,
        ORG_TAG: job.org_id,
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def dry_run_tags(job: Job) -> dict[str, str]:
    """Return the same tags for a dry run."""
    tags = {name: value for name, value in run_tags(job).items() if name != JOB_ID_TAG}
    return {**tags, DRY_RUN_TAG: str(job.job_id), LAUNCH_TAG: "dry run", OUTCOME_TAG: "dry run"}


def launch_tag(run: DagsterRun, took_over_from: str | None) -> str:
    """Return how the run was launched: `queue`, `by hand`, `retry 1`, `rerun of …`, `takes over from …`, `closes …`."""
    if retry := run.tags.get(RETRY_NUMBER_TAG):
        return f"retry {retry}"
    if run.parent_run_id:
        return f"rerun of {run.parent_run_id[:8]}"
    if took_over_from and took_over_from != run.run_id:
        return f"takes over from {took_over_from[:8]}"
    return run.tags.get(LAUNCH_TAG, "queue") if RUN_KEY_TAG in run.tags else "by hand"


def outcome_tag(outcome: JobOutcome) -> str:
    """Return `completed`, `partial`, `failed`, `user_cancelled` or `cancelled`."""
    return "partial" if outcome.status is JobStatus.COMPLETED and outcome.failed else outcome.status.value
