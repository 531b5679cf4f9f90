"""Recover or end jobs that have no worker: the settle sensors and the sweep.

Dagster retries a run that dies, and the retry continues where it stopped. These sensors handle the rest: a run that
is not retried, a run cancelled before it began, a job in no queue any more.

A run status sensor that returns a value handles one run and waits for its next tick; one that returns nothing
continues with the next run. So the settle sensors log their results in the tick instead of returning a reason.
"""

from collections.abc import Iterable
from contextlib import closing, suppress
from uuid import UUID

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunStatusSensorContext,
    SensorEvaluationContext,
    SkipReason,
    run_status_sensor,
    sensor,
)
from redis import RedisError

from quel_dagster.adapters.database.records import Refusal, Settled
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.errors import DatabaseRefusedError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.pipeline.assets import image_job, run_config
from quel_dagster.pipeline.resources import DatabaseResource, QueueResource
from quel_dagster.pipeline.run_tags import run_tags
from quel_dagster.platform.internals import RETRY_ON_ASSET_OR_OP_FAILURE_TAG, RUN_FAILURE_REASON_TAG, RunFailureReason
from quel_dagster.platform.runs import job_of, live_jobs, runs_of, will_be_retried
from quel_dagster.platform.tags import LAUNCH_TAG, OUTCOME_TAG, REFUSED, UNFINISHED

#: The web app writes the row before it pushes the id, and a tick takes a moment: younger jobs are not stranded.
STRANDED_AFTER_SECONDS = 60.0
#: Seconds in which a dead run is noticed, failed and retried; only after them its job is stranded.
RETRY_GRACE_SECONDS = 60.0
#: Maximum of recoveries in 72 hours of a job with a row that PostgreSQL refuses to write; then it is given up.
REFUSED_RECOVERIES = 3
SWEEP_SECONDS = 20
SETTLE_SECONDS = 5
#: Ends of a job that do not match the end of its run (I14).
DISAGREE = {
    DagsterRunStatus.FAILURE: (JobStatus.COMPLETED, JobStatus.USER_CANCELLED),
    DagsterRunStatus.CANCELED: (JobStatus.COMPLETED,),
}


@run_status_sensor(
    run_status=DagsterRunStatus.FAILURE,
    request_job=image_job,
    minimum_interval_seconds=SETTLE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Ends the job of a run that failed permanently: status failed, the reason, pictures kept. If the job "
    "had all its pictures when the run died, launches a run that makes nothing and reports the result.",
)
def settle_failed_runs(context: RunStatusSensorContext, database: DatabaseResource) -> RunRequest | None:
    run = context.dagster_run
    if job_of(_as_it_is(context)) is None:
        return None
    if will_be_retried(context.instance, run):
        context.log.info(f"Run {run.run_id} is retried.")
        return None
    reason = context.dagster_event.message or "its worker died"
    _settle(context, database, JobStatus.FAILED, f"Run {run.run_id} failed permanently: {reason}")
    return _closing_run(context, database)


@run_status_sensor(
    run_status=DagsterRunStatus.CANCELED,
    request_job=image_job,
    minimum_interval_seconds=SETTLE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Ends the job of a run that an operator stopped, if the run itself could not. If the job had all its "
    "pictures when the run was stopped, launches a run that makes nothing and reports the result.",
)
def settle_cancelled_runs(context: RunStatusSensorContext, database: DatabaseResource) -> RunRequest | None:
    if job_of(_as_it_is(context)) is None:
        return None
    _tag_outcome(context, JobStatus.CANCELLED)
    _settle(context, database, JobStatus.CANCELLED, f"Stopped by an operator (run {context.dagster_run.run_id}).")
    return _closing_run(context, database)


def _closing_run(context: RunStatusSensorContext, database: DatabaseResource) -> RunRequest | None:
    """Return a run that reports the result of a finished job, for its run that died before reporting it."""
    record = context.instance.get_run_record_by_id(context.dagster_run.run_id)
    run = record.dagster_run if record else context.dagster_run
    job_id = job_of(run)
    stopped_before_it_began = run.status is DagsterRunStatus.CANCELED and (record is None or record.start_time is None)
    if job_id is None or _ended_its_job(run) or stopped_before_it_began:
        return None
    runs = runs_of(context.instance, [job_id]).get(job_id, ())
    at_work = (found for found in runs if found.tags.get(OUTCOME_TAG) != REFUSED)
    job = database.describe_jobs([job_id]).get(job_id)
    newest = next(at_work, None)
    if job is None or job.job_status not in DISAGREE[run.status] or newest is None or newest.run_id != run.run_id:
        return None
    return RunRequest(
        run_key=f"close/{run.run_id}",
        run_config=run_config(job_id),
        tags={**run_tags(job), LAUNCH_TAG: f"closes {run.run_id[:8]}"},
    )


def _ended_its_job(run: DagsterRun) -> bool:
    """Return whether an op of this run failed with a reason, and so ended its job."""
    in_an_op = run.tags.get(RUN_FAILURE_REASON_TAG) == RunFailureReason.STEP_FAILURE.value
    return in_an_op and run.tags.get(RETRY_ON_ASSET_OR_OP_FAILURE_TAG) == "false"


def _tag_outcome(context: RunStatusSensorContext, status: JobStatus) -> None:
    """Set the outcome tag of a run that could not set it itself."""
    run = _as_it_is(context)
    if run.tags.get(OUTCOME_TAG, UNFINISHED) == UNFINISHED:
        context.instance.add_run_tags(run.run_id, {OUTCOME_TAG: status.value})


def _as_it_is(context: RunStatusSensorContext) -> DagsterRun:
    """Return the run with its current tags: a dry run has removed the job tag that it inherited."""
    return context.instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run


def _settle(context: RunStatusSensorContext, database: DatabaseResource, status: JobStatus, reason: str) -> None:
    """End the run's job, unless another run works on it, is about to, or has ended it."""
    job_id = job_of(_as_it_is(context))
    if job_id is None:
        return
    if job_id in live_jobs(context.instance, [job_id]):
        context.log.info(f"Job {job_id} has another run.")
        return
    row = database.describe_jobs([job_id]).get(job_id)
    if row is None or row.foreign_kind:
        context.log.info(f"Job {job_id} is {row.foreign_kind.reason if row and row.foreign_kind else 'deleted'}.")
        return
    dead = [found.run_id for found in runs_of(context.instance, [job_id]).get(job_id, ())]
    if context.dagster_run.run_id not in dead:
        dead.append(context.dagster_run.run_id)
    try:
        settled = database.run(
            lambda opened: opened.recovery.end_abandoned(job_id, status=status, error=reason[:2000], run_ids=dead)
        )
    except DatabaseRefusedError as refused:
        context.log.warning(f"Job {job_id} could not be ended as {status}: {refused}")
        return
    if settled is None:
        context.log.info(f"Job {job_id} had ended, or another run works on it.")
    else:
        context.log.warning(f"Job {job_id} ended {settled.status}: {reason}")


@sensor(
    minimum_interval_seconds=SWEEP_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Keeps users' cancels, and pushes jobs again that are in no queue and have no run.",
)
def stranded_jobs_sensor(
    context: SensorEvaluationContext, queue: QueueResource, database: DatabaseResource
) -> SkipReason:
    try:
        messages = [*keep_cancels(context.instance, queue, database), *push_stranded(context.instance, queue, database)]
    except RedisError as error:
        raise unreachable(error) from None
    for line in messages:
        context.log.warning(line)
    return SkipReason("; ".join(messages) or "No job is stranded, no cancel is new.")


def keep_cancels(instance: DagsterInstance, queue: QueueResource, database: DatabaseResource) -> Iterable[str]:
    """Store the cancel flags of open jobs, which expire after an hour; end those jobs that still wait."""
    with closing(queue.open()) as job_queue:
        cancelled = job_queue.cancelled(database.run(lambda opened: opened.recovery.open_jobs()))
    for job_id in cancelled:
        try:
            settled = database.run(lambda opened, job_id=job_id: _end_cancelled(opened, job_id))  # type: ignore[misc]
        except DatabaseRefusedError as refused:
            yield f"Job {job_id} was cancelled, and could not be ended: {refused}"
            continue
        if settled is not None:
            yield f"Job {job_id} was cancelled before it began"


async def _end_cancelled(database: Database, job_id: UUID) -> Settled | None:
    await database.work.keep_cancel(job_id)
    return await database.recovery.end_abandoned(job_id, status=JobStatus.CANCELLED, error="Cancelled by the user.")


def push_stranded(instance: DagsterInstance, queue: QueueResource, database: DatabaseResource) -> Iterable[str]:
    """Push jobs again after their id was lost, for example with the data of Redis.

    A lost id, host or server is no fault of the job: it is pushed again as often as that happens. A job with a row that
    PostgreSQL refuses to write is given up after REFUSED_RECOVERIES, and stays so until its dead letter is requeued.
    A job that kills its worker processes is given up where it is claimed.
    """
    suspects = database.run(
        lambda opened: opened.recovery.stranded_jobs(
            pending_seconds=STRANDED_AFTER_SECONDS, grace_seconds=RETRY_GRACE_SECONDS
        )
    )
    if not suspects:
        return
    with closing(queue.open()) as job_queue:
        waiting = job_queue.waiting()
        given_up = {letter.job_id for letter in job_queue.letters()}
        running = live_jobs(instance, suspects)
        refusals = database.run(lambda opened: opened.recovery.refusals(suspects))
        for job_id in suspects:
            if job_id in running or str(job_id).encode() in waiting:
                continue
            refusal = refusals.get(job_id)
            if refusal is None:
                _note_recovery(database, job_id)
                job_queue.push_again(job_id)
                yield f"Job {job_id} was in no queue and had no run: pushed again"
            elif refusal.times < REFUSED_RECOVERIES:
                _note_recovery(database, job_id, refusal)
                job_queue.push_again(job_id)
                times = f"{refusal.times + 1} of {REFUSED_RECOVERIES}"
                yield f"Job {job_id} was pushed again ({times}): {refusal.trouble}"
            elif refusal.times == REFUSED_RECOVERIES and job_id not in given_up:
                reason = f"its row could not be written, tried {REFUSED_RECOVERIES + 1} times. {refusal.trouble}"
                database.run(lambda opened, job_id=job_id, reason=reason: _give_up(opened, job_id, reason))  # type: ignore[misc]
                job_queue.dead_letter_job(job_id, reason)
                # Count once more than recoveries were made, so that dropping the letter does not give it up again.
                _note_recovery(database, job_id, refusal)
                yield f"Job {job_id} went to jobs:dead: {reason}"


def _note_recovery(database: DatabaseResource, job_id: UUID, refusal: Refusal | None = None) -> None:
    trouble = refusal.trouble if refusal else None
    database.run(lambda opened: opened.recovery.note_recovery(job_id, trouble))


async def _give_up(database: Database, job_id: UUID, reason: str) -> None:
    """End a job with rows that could not be written, if PostgreSQL accepts that; its dead letter gives the reason."""
    with suppress(DatabaseRefusedError):
        await database.recovery.end_abandoned(job_id, status=JobStatus.FAILED, error=f"Given up: {reason}")
