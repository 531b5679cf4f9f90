"""What brings back or ends a job that nobody works on: the settle sensors and the sweep.

A run that dies is retried by Dagster, and its retry goes on where it stopped. These sensors see to the rest: a run
that is not retried, a run that was cancelled before it began, a job whose id is in no queue any more.

A run status sensor that returns something has seen one run and waits for its next tick; one that returns nothing goes
on with the next run. So what the settle sensors have to say is in the log of their tick.
"""

from collections.abc import Iterable
from uuid import UUID

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    RunStatusSensorContext,
    SensorEvaluationContext,
    SkipReason,
    run_status_sensor,
    sensor,
)
from dagster._core.events import RunFailureReason
from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG, RUN_FAILURE_REASON_TAG
from redis import RedisError

from quel_dagster.adapters.queue import unreachable
from quel_dagster.jobs.model import JobStatus
from quel_dagster.pipeline.assets import image_job, run_config
from quel_dagster.pipeline.metadata import run_tags
from quel_dagster.pipeline.resources import QueueResource, StudioResource
from quel_dagster.pipeline.runs import live_jobs, runs_of, will_be_retried
from quel_dagster.pipeline.tags import JOB_ID_TAG, LAUNCH_TAG, OUTCOME_TAG, REFUSED, UNFINISHED

#: The web app writes the row before it pushes the id, and a tick takes a moment: no job is stranded before this.
STRANDED_AFTER_SECONDS = 60.0
#: A dead run is noticed, failed and retried in less; only then is its job stranded.
RETRY_GRACE_SECONDS = 60.0
#: Recoveries of one job in 72 hours; then it is given up.
RECOVERIES = 3
SWEEP_SECONDS = 20
SETTLE_SECONDS = 5
#: Ends of a job with which this end of its run does not agree (I14).
DISAGREE = {
    DagsterRunStatus.FAILURE: (JobStatus.COMPLETED, JobStatus.USER_CANCELLED),
    DagsterRunStatus.CANCELED: (JobStatus.COMPLETED,),
}


@run_status_sensor(
    run_status=DagsterRunStatus.FAILURE,
    monitored_jobs=[image_job],
    request_job=image_job,
    minimum_interval_seconds=SETTLE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Ends the job of a run that failed for good: status failed, the reason, pictures kept. A run that died "
    "when its job was done already gets another run, which makes nothing and tells the story.",
)
def settle_failed_runs(context: RunStatusSensorContext, studio: StudioResource) -> RunRequest | None:
    run = context.dagster_run
    if will_be_retried(context.instance, run):
        context.log.info(f"Run {run.run_id} is retried.")
        return None
    reason = context.dagster_event.message or "its worker is gone"
    _settle(context, studio, JobStatus.FAILED, f"Run {run.run_id} failed for good: {reason}")
    return _closing_run(context, studio)


@run_status_sensor(
    run_status=DagsterRunStatus.CANCELED,
    monitored_jobs=[image_job],
    request_job=image_job,
    minimum_interval_seconds=SETTLE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Ends the job of a run that an operator stopped, where the run itself could not. A run that was "
    "stopped when its job was done already gets another run, which makes nothing and tells the story.",
)
def settle_cancelled_runs(context: RunStatusSensorContext, studio: StudioResource) -> RunRequest | None:
    _tag_outcome(context, JobStatus.CANCELLED)
    _settle(context, studio, JobStatus.CANCELLED, f"Stopped by an operator (run {context.dagster_run.run_id}).")
    return _closing_run(context, studio)


def _closing_run(context: RunStatusSensorContext, studio: StudioResource) -> RunRequest | None:
    """The run that materializes and ends well what another had done, but could not tell any more."""
    record = context.instance.get_run_record_by_id(context.dagster_run.run_id)
    run = record.dagster_run if record else context.dagster_run
    text = run.tags.get(JOB_ID_TAG)
    stopped_before_it_began = run.status is DagsterRunStatus.CANCELED and (record is None or record.start_time is None)
    if not text or _told_why(run) or stopped_before_it_began:
        return None
    job_id = UUID(text)
    at_work = (found for found in runs_of(context.instance, [job_id])[job_id] if found.tags.get(OUTCOME_TAG) != REFUSED)
    job = studio.describe_jobs([job_id]).get(job_id)
    newest = next(at_work, None)
    if job is None or job.job_status not in DISAGREE[run.status] or newest is None or newest.run_id != run.run_id:
        return None
    return RunRequest(
        run_key=f"close/{run.run_id}",
        run_config=run_config(job_id),
        tags={**run_tags(job), LAUNCH_TAG: f"closes {run.run_id[:8]}"},
    )


def _told_why(run: DagsterRun) -> bool:
    """Did an op of this run fail in words, and so end its job?"""
    in_an_op = run.tags.get(RUN_FAILURE_REASON_TAG) == RunFailureReason.STEP_FAILURE.value
    return in_an_op and run.tags.get(RETRY_ON_ASSET_OR_OP_FAILURE_TAG) == "false"


def _tag_outcome(context: RunStatusSensorContext, status: JobStatus) -> None:
    """A run that could not say how it ended is found by that all the same."""
    run = context.instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
    if run.tags.get(JOB_ID_TAG) and run.tags.get(OUTCOME_TAG, UNFINISHED) == UNFINISHED:
        context.instance.add_run_tags(run.run_id, {OUTCOME_TAG: status.value})


def _settle(context: RunStatusSensorContext, studio: StudioResource, status: JobStatus, reason: str) -> None:
    """End the run's job, unless another run has it, is about to, or has ended it."""
    run = context.dagster_run
    # as it is now: a dry run gives up the tag that it inherited
    text = (context.instance.get_run_by_id(run.run_id) or run).tags.get(JOB_ID_TAG)
    if not text:
        context.log.info(f"Run {run.run_id} never got to a job.")
        return
    job_id = UUID(text)
    if job_id in live_jobs(context.instance, [job_id]):
        context.log.info(f"Job {job_id} has another run.")
        return
    dead = [found.run_id for found in context.instance.get_runs(RunsFilter(tags={JOB_ID_TAG: text}))]
    database = studio.process.studio.parts.database
    settled = studio.process.run(
        lambda: database.end_abandoned(job_id, status=status, error=reason[:2000], run_ids=dead)
    )
    if settled is None:
        context.log.info(f"Job {job_id} had ended, or another run is at work on it.")
    else:
        context.log.warning(f"Job {job_id} ended {settled.status}: {reason}")


@sensor(
    minimum_interval_seconds=SWEEP_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Keeps users' cancels, and pushes jobs again that are in no queue and that nobody works on.",
)
def stranded_jobs_sensor(context: SensorEvaluationContext, queue: QueueResource, studio: StudioResource) -> SkipReason:
    try:
        said = [*keep_cancels(context.instance, queue, studio), *push_stranded(context.instance, queue, studio)]
    except RedisError as error:
        raise unreachable(error) from None
    for line in said:
        context.log.warning(line)
    return SkipReason("; ".join(said) or "No job is stranded, no cancel is new.")


def keep_cancels(instance: DagsterInstance, queue: QueueResource, studio: StudioResource) -> Iterable[str]:
    """Keep the cancel flags of open jobs, which expire after an hour; end those jobs that still wait."""
    process = studio.process
    database = process.studio.parts.database
    job_queue = queue.open()
    try:
        asked = job_queue.cancelled(process.run(database.open_jobs))
    finally:
        job_queue.close()
    for job_id in asked:
        process.run(lambda job_id=job_id: database.keep_cancel(job_id))  # type: ignore[misc]
        settled = process.run(
            lambda job_id=job_id: database.end_abandoned(  # type: ignore[misc]
                job_id, status=JobStatus.CANCELLED, error="Cancelled by the user."
            )
        )
        if settled is not None:
            yield f"Job {job_id} was cancelled before it began"


def push_stranded(instance: DagsterInstance, queue: QueueResource, studio: StudioResource) -> Iterable[str]:
    """Push jobs again whose id got lost, say with the memory of Redis."""
    process = studio.process
    database = process.studio.parts.database
    suspects = process.run(
        lambda: database.stranded_jobs(pending_seconds=STRANDED_AFTER_SECONDS, grace_seconds=RETRY_GRACE_SECONDS)
    )
    if not suspects:
        return
    job_queue = queue.open()
    try:
        waiting = job_queue.waiting()
        running = live_jobs(instance, suspects)
        for job_id in suspects:
            if job_id in running or str(job_id).encode() in waiting:
                continue
            times = process.run(lambda job_id=job_id: database.count_recovery(job_id))  # type: ignore[misc]
            if times > RECOVERIES:
                reason = f"recovered {RECOVERIES} times within 72 hours, and stranded again"
                job_queue.bury_job(job_id, reason)
                process.run(
                    lambda job_id=job_id, reason=reason: database.end_abandoned(  # type: ignore[misc]
                        job_id, status=JobStatus.FAILED, error=f"Given up: {reason}."
                    )
                )
                yield f"Job {job_id} went to jobs:dead: {reason}"
            else:
                job_queue.push(job_id)
                yield f"Job {job_id} was in no queue and nobody worked on it: pushed again ({times} of {RECOVERIES})"
    finally:
        job_queue.close()
