"""The ops of a run: load_job → plan_units → generate (one step per unit) → settle.

Belongs here: what a step takes and gives, and how its end shows in Dagster. Does not belong here: how a picture is
made or a job settled (`studio`), how it is displayed (`metadata`).

An op that yields has no return annotation: Dagster would take that of an async generator for an output's type.
"""

from typing import Any
from uuid import UUID

from dagster import Config, DynamicOut, DynamicOutput, Failure, In, Nothing, OpExecutionContext, Out, Output, op
from pydantic import Field

from quel_dagster.errors import HandedOverError, JobCancelledError, JobNotFoundError, LeaseHeldError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.pipeline import metadata
from quel_dagster.pipeline.resources import QueueResource, StudioResource
from quel_dagster.studio.outcomes import Planned, Ticket, UnitOutcome, UnitTask

JOB_ID_DESCRIPTION = "The job_id of a row in quel_production_jobs (a UUID), as the web app pushes it onto jobs:queue."

#: Names of settle's outputs, each an asset.
GENERATED_IMAGES = "generated_images"
PRODUCTION_PHOTO = "quel_production_photo"
CREDITS = "quel_credits"

OUTCOME_TAG = "quel/outcome"


class LoadJobConfig(Config):
    """Which job to make."""

    job_id: str = Field(description=JOB_ID_DESCRIPTION)


def parse_job_id(text: str) -> UUID:
    """Raises Failure, in words, when this is no UUID."""
    try:
        return UUID(text.strip())
    except ValueError:
        raise Failure(
            f"job_id: {text!r:.80} is not a UUID; copy the job_id of a row in quel_production_jobs.",
            allow_retries=False,
        ) from None


@op(
    ins={"source_tables": In(Nothing)},
    out=Out(Ticket, description="The job's row, claimed for this run."),
    description="Claims the job with a lease, so that no other run works on it, and reads its row.",
)
async def load_job(context: OpExecutionContext, config: LoadJobConfig, studio: StudioResource) -> Output[Ticket]:
    job_id = parse_job_id(config.job_id)
    context.log.info(f"Received new job: {job_id}")
    try:
        session = await studio.session(context, job_id)
    except LeaseHeldError as held:
        context.log.warning(f"{held} This run has nothing to do.")
        ticket = Ticket(job_id=job_id, refused=str(held))
    except JobNotFoundError as missing:
        raise Failure(str(missing), allow_retries=False) from None
    else:
        ticket = Ticket(job_id=job_id, job=session.job, took_over_from=session.took_over_from)
        # a run launched by hand is found by its job as well
        context.instance.add_run_tags(context.run_id, metadata.run_tags(session.job))
        if session.took_over_from and session.took_over_from != context.run_id:
            context.log.warning(f"Going on with the work of run {session.took_over_from}.")
    return Output(ticket, metadata=metadata.of_ticket(ticket))


@op(
    out={
        "plan": Out(Planned, description="What the job will make, and who pays."),
        "units": DynamicOut(UnitTask, description="One per stage or combination."),
    },
    description="Reads job_input_data, plans exactly total_images pictures, and looks at the payer's balance.",
)
async def plan_units(context: OpExecutionContext, ticket: Ticket, studio: StudioResource):  # type: ignore[no-untyped-def]
    if ticket.refused is not None:
        yield Output(Planned(job_id=ticket.job_id, refused=ticket.refused), "plan")
        return
    async with studio.failure_in_words(context):
        session = await studio.session(context, ticket.job_id)
        try:
            plan = await studio.work(context, session.plan)
        except (JobCancelledError, HandedOverError) as cancelled:
            context.log.warning(str(cancelled))
            yield Output(Planned(job_id=ticket.job_id, stopped=str(cancelled)), "plan")
            return
    yield Output(plan, "plan", metadata=metadata.of_plan(plan))
    for unit in plan.units:
        task = UnitTask(job_id=plan.job_id, unit=unit)
        yield DynamicOutput(task, unit.key, output_name="units", metadata=metadata.of_unit(unit))


@op(
    out=Out(UnitOutcome, description="The pictures of the unit, and what went wrong."),
    description="Makes the missing pictures of one stage or combination; each is charged as it is stored.",
)
async def generate(context: OpExecutionContext, task: UnitTask, studio: StudioResource) -> Output[UnitOutcome]:
    async with studio.failure_in_words(context):
        session = await studio.session(context, task.job_id)
        outcome = await studio.work(context, lambda say: session.make(task.unit, say))
    return Output(outcome, metadata=metadata.of_outcome(outcome))


@op(
    out={name: Out(Nothing, is_required=False) for name in (GENERATED_IMAGES, PRODUCTION_PHOTO, CREDITS)},
    description="Ends the job and its production: status, counts, ids in order, times.",
)
async def settle(  # type: ignore[no-untyped-def]
    context: OpExecutionContext,
    plan: Planned,
    outcomes: list[UnitOutcome],
    studio: StudioResource,
    queue: QueueResource,
):
    if plan.refused is not None:
        context.log.info(f"Nothing to settle: {plan.refused}")
        context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: "refused"})
        return
    async with studio.failure_in_words(context):
        session = await studio.session(context, plan.job_id)
        try:
            outcome, outcomes_now = await studio.work(context, lambda say: session.settle(outcomes, say))
        except HandedOverError as handed_over:
            context.log.warning(str(handed_over))
            context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: "handed_over"})
            await studio.hand_over(context, queue.open(), plan.job_id)
            return
    context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: metadata.outcome_tag(outcome)})
    context.log.info(
        f"Job {outcome.job_id} ended {outcome.status}: {outcome.completed} pictures, {outcome.failed} failed"
    )
    everything: dict[str, dict[str, Any]] = {
        GENERATED_IMAGES: metadata.of_images(outcome, outcomes_now),
        PRODUCTION_PHOTO: metadata.of_production(outcome, session.job),
        CREDITS: metadata.of_credits(outcome, outcomes_now, plan),
    }
    for name, entries in everything.items():
        if name == PRODUCTION_PHOTO or outcome.completed:
            yield Output(None, name, metadata=entries)
    if outcome.status is JobStatus.FAILED:
        raise Failure(outcome.error or "No picture was made.", allow_retries=False)
