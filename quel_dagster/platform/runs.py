"""Find the runs of a job, and tell whether a failed run will be retried."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from dagster import DagsterInstance, DagsterRun, RunsFilter

from quel_dagster.platform.internals import (
    NOT_FINISHED_STATUSES,
    RETRY_NUMBER_TAG,
    RUN_KEY_TAG,
    WILL_RETRY_TAG,
    auto_reexecution_should_retry_run,
)
from quel_dagster.platform.tags import JOB_ID_TAG

#: Seconds that Dagster may take to record on a failed run whether it is retried.
DECISION_SECONDS = 10.0


def will_be_retried(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Dagster records its decision on a failed run shortly after the failure event."""
    until = time.monotonic() + DECISION_SECONDS
    while True:
        current = instance.get_run_by_id(run.run_id) or run
        decision = current.tags.get(WILL_RETRY_TAG)
        if decision is not None:
            return decision == "true"
        if not instance.run_retries_enabled or time.monotonic() > until:
            return bool(auto_reexecution_should_retry_run(instance, current, None))
        time.sleep(0.1)


def is_by_hand(run: DagsterRun) -> bool:
    """Return whether a person launched or re-executed this run; False for one of the queue or an automatic retry."""
    if RETRY_NUMBER_TAG in run.tags:
        return False
    return run.parent_run_id is not None or RUN_KEY_TAG not in run.tags


def job_of(run: DagsterRun) -> UUID | None:
    """Return the job that a run works on; None for another kind of run, and for a dry run.

    A run launched by hand has no tag before `load_job` writes it, but its config has the id.
    """
    tag = run.tags.get(JOB_ID_TAG)
    text = _configured_job(run.run_config) if tag is None else tag
    try:
        return UUID(text.strip()) if text else None
    except ValueError:
        return None


def _configured_job(run_config: object) -> str | None:
    """Return the `job_id` of the ops' config, at the graph or at `load_job` in it."""
    ops = run_config.get("ops") if isinstance(run_config, Mapping) else None
    for op in ops.values() if isinstance(ops, Mapping) else ():
        if not isinstance(op, Mapping):
            continue
        config = op.get("config")
        if isinstance(config, Mapping) and isinstance(config.get("job_id"), str):
            return None if config.get("dry_run") else str(config["job_id"])
        if found := _configured_job(op):
            return found
    return None


def runs_of(instance: DagsterInstance, job_ids: Iterable[UUID]) -> dict[UUID, list[DagsterRun]]:
    """Return the runs of each job, newest first; jobs without a run are left out."""
    wanted = [str(job_id) for job_id in job_ids]
    found: dict[UUID, list[DagsterRun]] = {}
    if wanted:
        for run in instance.get_runs(RunsFilter(tags={JOB_ID_TAG: wanted})):
            found.setdefault(UUID(run.tags[JOB_ID_TAG]), []).append(run)
    return found


def live_jobs(instance: DagsterInstance, job_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of these jobs with a run that is queued, started, or ending."""
    wanted = [str(job_id) for job_id in job_ids]
    if not wanted:
        return set()
    runs = instance.get_runs(RunsFilter(tags={JOB_ID_TAG: wanted}, statuses=list(NOT_FINISHED_STATUSES)))
    return {UUID(run.tags[JOB_ID_TAG]) for run in runs}
