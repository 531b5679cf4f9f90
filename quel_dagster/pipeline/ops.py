"""The ops of a run: load_job → plan_units → generate (one step per unit) → settle.

Belongs here: what a step takes and gives, and how its end shows in Dagster. Does not belong here: how a picture is
made or a job settled (`studio`), how it is displayed (`metadata`), what is checked (`checks`).

An op that yields has no return annotation: Dagster would take that of an async generator for an output's type.
"""

from contextlib import closing
from typing import Any
from uuid import UUID

from dagster import (
    AssetExecutionContext,
    Config,
    DynamicOut,
    DynamicOutput,
    In,
    Nothing,
    OpExecutionContext,
    Out,
    Output,
    op,
)
from pydantic import Field

from quel_dagster.errors import HandedOverError, JobCancelledError, JobNotFoundError, LeaseHeldError, QuelError
from quel_dagster.jobs.model import Job, JobStatus
from quel_dagster.pipeline import checks, metadata
from quel_dagster.pipeline.names import CREDITS, GENERATED_IMAGES, PRODUCTION_PHOTO
from quel_dagster.pipeline.resources import QueueResource, StudioResource, in_words
from quel_dagster.pipeline.tags import DRY_RUN_TAG, JOB_ID_TAG, LAUNCH_TAG, OUTCOME_TAG, REFUSED, UNFINISHED
from quel_dagster.studio.outcomes import Planned, Ticket, UnitOutcome, UnitTask
from quel_dagster.studio.rehearsal import look_up, rehearse

JOB_ID_DESCRIPTION = "The job_id of a row in quel_production_jobs (a UUID), as the web app pushes it onto jobs:queue."
UNITS_DESCRIPTION = (
    "Make only these units, by the keys that plan_units shows, such as [combo0_front_full]. The job then ends as what "
    "it has; a run without this makes the rest. Empty: all units."
)
DRY_RUN_DESCRIPTION = (
    "Plan the job, compose its texts, estimate its credits, and show all that on the page of plan_units. Calls "
    "nobody, claims nothing, changes no row."
)


class LoadJobConfig(Config):
    """Which job to make, and how much of it."""

    job_id: str = Field(description=JOB_ID_DESCRIPTION)
    units: list[str] = Field(default=[], description=UNITS_DESCRIPTION)
    dry_run: bool = Field(default=False, description=DRY_RUN_DESCRIPTION)


def parse_job_id(context: OpExecutionContext, text: str) -> UUID:
    """Raises Failure, in words, when this is no UUID."""
    try:
        return UUID(text.strip())
    except ValueError:
        raise in_words(
            context, f"job_id: {text!r:.80} is not a UUID; copy the job_id of a row in quel_production_jobs."
        ) from None


@op(
    ins={"source_tables": In(Nothing)},
    out=Out(Ticket, description="The job's row, claimed for this run."),
    description="Claims the job with a lease, so that no other run works on it, and reads its row.",
)
async def load_job(context: OpExecutionContext, config: LoadJobConfig, studio: StudioResource) -> Output[Ticket]:
    if config.dry_run:
        _mark_dry_run(context, {DRY_RUN_TAG: config.job_id})
    job_id = parse_job_id(context, config.job_id)
    units = tuple(dict.fromkeys(config.units))
    context.log.info(f"Received new job: {job_id}")
    try:
        if config.dry_run or units:  # a unit that does not exist must not cost the job its lease
            job = await _look_up(context, studio, job_id, units)
        if config.dry_run:
            _mark_dry_run(context, metadata.dry_run_tags(job))
            ticket = Ticket(job_id=job_id, job=job, units=units, dry_run=True)
            return Output(ticket, metadata=metadata.of_ticket(ticket))
        session = await studio.session(context, job_id)
    except LeaseHeldError as held:
        ticket = Ticket(job_id=job_id, refused=_refused(context, held))
    except JobNotFoundError as missing:
        raise in_words(context, str(missing)) from None
    else:
        ticket = Ticket(job_id=job_id, job=session.job, took_over_from=session.took_over_from, units=units)
        _tag(context, session.job, session.took_over_from)
        if session.took_over_from and session.took_over_from != context.run_id:
            context.log.warning(f"Going on with the work of run {session.took_over_from}.")
    return Output(ticket, metadata=metadata.of_ticket(ticket))


def _refused(context: OpExecutionContext, held: LeaseHeldError) -> str:
    """Another run is at work on the job. Any op may find that: a re-execution leaves out those that were done."""
    context.log.warning(f"{held} This run has nothing to do.")
    return str(held)


async def _look_up(context: OpExecutionContext, studio: StudioResource, job_id: UUID, units: tuple[str, ...]) -> Job:
    process = studio.process
    try:
        return await process.call(lambda: look_up(process.studio.parts, job_id, units))
    except JobNotFoundError:
        raise
    except QuelError as error:
        raise in_words(context, str(error)) from None


def _tag(context: OpExecutionContext, job: Job, took_over_from: str | None) -> None:
    """A run launched by hand is found by its job as well, and every run says how it came about."""
    tags = {**metadata.run_tags(job), LAUNCH_TAG: metadata.launch_tag(context.run, took_over_from)}
    if OUTCOME_TAG in context.run.tags:  # of the run that this one repeats
        tags[OUTCOME_TAG] = UNFINISHED
    new = {name: value for name, value in tags.items() if context.run.tags.get(name) != value}
    if new:
        context.instance.add_run_tags(context.run_id, new)


def _tag_rerun(context: OpExecutionContext) -> None:
    """A rerun from failure skips `load_job`, and begins with the tags of the run that failed."""
    run = context.run
    skipped = run.step_keys_to_execute is not None and not any("load_job" in key for key in run.step_keys_to_execute)
    if skipped and run.tags.get(LAUNCH_TAG) != (launch := metadata.launch_tag(run, None)):
        context.instance.add_run_tags(run.run_id, {LAUNCH_TAG: launch, OUTCOME_TAG: UNFINISHED})


def _mark_dry_run(context: OpExecutionContext, tags: dict[str, str]) -> None:
    """A dry run is none of the job's runs: whoever looks for those must not find it, nor end the job with it."""
    inherited = {JOB_ID_TAG: ""} if context.run.tags.get(JOB_ID_TAG) else {}
    context.instance.add_run_tags(context.run_id, {**tags, **inherited})


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
    if ticket.dry_run:
        plan = await _rehearse(context, ticket, studio)
        yield Output(plan, "plan", metadata=metadata.of_plan(plan))
        return
    async with studio.failure_in_words(context):
        try:
            session = await studio.session(context, ticket.job_id)
        except LeaseHeldError as held:
            yield Output(Planned(job_id=ticket.job_id, refused=_refused(context, held)), "plan")
            return
        try:
            plan = await studio.work(context, lambda say: session.plan(say, ticket.units))
        except (JobCancelledError, HandedOverError) as cancelled:
            context.log.warning(str(cancelled))
            yield Output(Planned(job_id=ticket.job_id, stopped=str(cancelled)), "plan")
            return
    yield Output(plan, "plan", metadata=metadata.of_plan(plan))
    for unit in plan.units:
        task = UnitTask(job_id=plan.job_id, unit=unit)
        yield DynamicOutput(task, unit.key, output_name="units", metadata=metadata.of_unit(unit))


async def _rehearse(context: OpExecutionContext, ticket: Ticket, studio: StudioResource) -> Planned:
    process, job = studio.process, ticket.job
    assert job is not None  # noqa: S101  load_job found it
    try:
        plan = await process.call(lambda: rehearse(process.studio.parts, job, ticket.units))
    except QuelError as error:
        raise in_words(context, str(error)) from None
    for repair in plan.repairs:
        context.log.info(f"Would repair {repair}")
    if plan.rehearsal:
        context.log.info(f"Dry run: {plan.rehearsal.verdict}")
    return plan


@op(
    out=Out(UnitOutcome, description="The pictures of the unit, and what went wrong."),
    description="Makes the missing pictures of one stage or combination; each is charged as it is stored.",
)
async def generate(context: OpExecutionContext, task: UnitTask, studio: StudioResource) -> Output[UnitOutcome]:
    _tag_rerun(context)
    async with studio.failure_in_words(context):
        try:
            session = await studio.session(context, task.job_id)
        except LeaseHeldError as held:
            refused = UnitOutcome(unit=task.unit, run_id=context.run_id, refused=_refused(context, held))
            return Output(refused, metadata=metadata.of_outcome(refused))
        outcome = await studio.work(context, lambda say: session.make(task.unit, say))
    return Output(outcome, metadata=metadata.of_outcome(outcome))


@op(
    out={name: Out(Nothing, is_required=False) for name in (GENERATED_IMAGES, PRODUCTION_PHOTO, CREDITS)},
    description="Ends the job and its production, unless its last picture did: status, counts, ids in order, times. "
    "Then shows what was made: assets and checks.",
)
async def settle(  # type: ignore[no-untyped-def]
    context: OpExecutionContext,
    plan: Planned,
    outcomes: list[UnitOutcome],
    studio: StudioResource,
    queue: QueueResource,
):
    _tag_rerun(context)
    if plan.rehearsal is not None:
        context.log.info("A dry run settles nothing; its findings are on the page of plan_units.")
        return
    refused = plan.refused or next((outcome.refused for outcome in outcomes if outcome.refused), None)
    if refused is not None:
        _nothing_to_settle(context, refused)
        return
    async with studio.failure_in_words(context):
        try:
            session = await studio.session(context, plan.job_id)
        except LeaseHeldError as held:
            _nothing_to_settle(context, _refused(context, held))
            return
        try:
            outcome, outcomes_now = await studio.work(context, lambda say: session.settle(outcomes, say, plan.left_out))
        except HandedOverError as handed_over:
            context.log.warning(str(handed_over))
            context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: "handed_over"})
            with closing(queue.open()) as job_queue:
                await studio.hand_over(context, job_queue, plan.job_id)
            return
    # the job has ended in the tables; what follows is for people
    context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: metadata.outcome_tag(outcome)})
    context.log.info(
        f"Job {outcome.job_id} ended {outcome.status}: {outcome.completed} pictures, {outcome.failed} failed"
    )
    # in the order of the lineage, which Dagster insists on
    everything: dict[str, dict[str, Any]] = {
        GENERATED_IMAGES: metadata.of_images(outcome, outcomes_now, session.job),
        PRODUCTION_PHOTO: metadata.of_production(outcome, outcomes_now, plan, session.job, _times(context)),
        CREDITS: metadata.of_credits(outcome, plan, session.job, outcomes_now),
    }
    asset_context = AssetExecutionContext(context)
    for name, entries in everything.items():
        if name == PRODUCTION_PHOTO or outcome.completed:
            # as metadata of the output it would be written down twice
            asset_context.add_asset_metadata(entries, asset_key=name)
            yield Output(None, name)
    for evaluation in checks.of_job(outcome, session.job, plan.left_out):
        yield evaluation
    if outcome.status is JobStatus.FAILED:
        raise in_words(context, outcome.error or "No picture was made.")


def _nothing_to_settle(context: OpExecutionContext, refused: str) -> None:
    context.log.info(f"Nothing to settle: {refused}")
    context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: REFUSED})


def _times(context: OpExecutionContext) -> metadata.RunTimes | None:
    record = context.instance.get_run_record_by_id(context.run_id)
    return metadata.RunTimes(record.create_timestamp.timestamp(), record.start_time) if record else None
