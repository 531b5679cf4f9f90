"""The ops of a run: load_job → plan_units → generate (one step per unit) → settle.

Responsibilities: inputs and outputs of a step, and how its end shows in Dagster. Not here: making a picture or
settling a job (`engine`), displaying it (`metadata`), checking it (`checks`).

Ops are plain functions: each has its own thread and waits there for the engine's event loop.
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

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.engine.outcomes import ClaimedJob, Planned, UnitOutcome, UnitTask
from quel_dagster.engine.rehearsal import look_up, rehearse
from quel_dagster.errors import HandedOverError, JobCancelledError, JobNotFoundError, LeaseHeldError, QuelError
from quel_dagster.jobs.model import Job, JobStatus
from quel_dagster.pipeline import checks
from quel_dagster.pipeline.metadata import results, steps
from quel_dagster.pipeline.names import CREDITS, GENERATED_IMAGES, PRODUCTION_PHOTO
from quel_dagster.pipeline.resources import DatabaseResource, EngineResource, QueueResource, permanent_failure
from quel_dagster.pipeline.run_tags import dry_run_tags, launch_tag, outcome_tag, run_tags
from quel_dagster.platform.failures import PlainFailureError
from quel_dagster.platform.stops import stops
from quel_dagster.platform.tags import DRY_RUN_TAG, JOB_ID_TAG, LAUNCH_TAG, OUTCOME_TAG, REFUSED, UNFINISHED

JOB_ID_DESCRIPTION = "The job_id of a row in quel_production_jobs (a UUID), as the web app pushes it onto jobs:queue."
UNITS_DESCRIPTION = (
    "Make only these units, by the keys that plan_units shows, such as [combo0_front_full]. The job then ends with "
    "the pictures it has; a run without this option makes the rest. Empty: all units."
)
DRY_RUN_DESCRIPTION = (
    "Plan the job, compose its texts, estimate its credits, and show that on the page of plan_units. Does not call "
    "Gemini, claim the job or change a row."
)


class LoadJobConfig(Config):
    """Which job to make, and which part of it."""

    job_id: str = Field(description=JOB_ID_DESCRIPTION)
    units: list[str] = Field(default=[], description=UNITS_DESCRIPTION)
    dry_run: bool = Field(default=False, description=DRY_RUN_DESCRIPTION)


def parse_job_id(context: OpExecutionContext, text: str) -> UUID:
    """Parse a job id. Raises Failure when it is not a UUID."""
    try:
        return UUID(text.strip())
    except ValueError:
        raise permanent_failure(
            context, f"job_id: {text!r:.80} is not a UUID; copy the job_id of a row in quel_production_jobs."
        ) from None


@op(
    ins={"source_tables": In(Nothing)},
    out=Out(ClaimedJob, description="The job's row, claimed for this run."),
    description="Claims the job with a lease, so that no other run works on it, and reads its row.",
)
def load_job(
    context: OpExecutionContext, config: LoadJobConfig, engine: EngineResource, database: DatabaseResource
) -> Output[ClaimedJob]:
    if config.dry_run:
        _mark_dry_run(context, {DRY_RUN_TAG: config.job_id})
    job_id = parse_job_id(context, config.job_id)
    units = tuple(dict.fromkeys(config.units))
    context.log.info(f"Received new job: {job_id}")
    described = _described(context, database, job_id)
    try:
        if config.dry_run or units:  # check the units before claiming, so that a wrong name costs no lease
            job = _look_up(context, engine, job_id, units)
        if config.dry_run:
            _mark_dry_run(context, dry_run_tags(job))
            claimed = ClaimedJob(job_id=job_id, job=job, units=units, dry_run=True)
            return Output(claimed, metadata=steps.of_claimed_job(claimed))
        session = engine.session(context, job_id)
    except LeaseHeldError as held:
        context.instance.add_run_tags(context.run_id, run_tags(described))  # makes the run findable by its job
        claimed = ClaimedJob(job_id=job_id, refused=_refused(context, held))
    except JobNotFoundError as missing:
        raise permanent_failure(context, str(missing)) from None
    else:
        claimed = ClaimedJob(job_id=job_id, job=session.job, took_over_from=session.took_over_from, units=units)
        _tag(context, session.job, session.took_over_from)
        if session.took_over_from and session.took_over_from != context.run_id:
            context.log.warning(f"Continuing the work of run {session.took_over_from}.")
    return Output(claimed, metadata=steps.of_claimed_job(claimed))


def _described(context: OpExecutionContext, database: DatabaseResource, job_id: UUID) -> JobDescription:
    """Return the job's row before claiming it. Raises Failure when there is none for this project."""
    described = database.describe_jobs([job_id]).get(job_id)
    if described is None:
        raise permanent_failure(context, str(JobNotFoundError.of(job_id)))
    if described.foreign_kind is not None:
        raise permanent_failure(context, f"Job {job_id} is a {described.foreign_kind.reason}; its row stays as it is.")
    return described


def _refused(context: OpExecutionContext, held: LeaseHeldError) -> str:
    """Report that another run works on the job. Any op may find that: a re-execution skips completed steps."""
    context.log.warning(f"{held} This run has nothing to do.")
    return str(held)


def _look_up(context: OpExecutionContext, engine: EngineResource, job_id: UUID, units: tuple[str, ...]) -> Job:
    process = engine.process
    try:
        return process.run(lambda: look_up(process.engine.dependencies, job_id, units))
    except JobNotFoundError:
        raise
    except QuelError as error:
        raise permanent_failure(context, str(error)) from None


def _tag(context: OpExecutionContext, job: Job, took_over_from: str | None) -> None:
    """Tag the run with its job, also when launched by hand, and with how it was launched."""
    tags = {**run_tags(job), LAUNCH_TAG: launch_tag(context.run, took_over_from)}
    if OUTCOME_TAG in context.run.tags:  # inherited from the run that this one repeats
        tags[OUTCOME_TAG] = UNFINISHED
    new = {name: value for name, value in tags.items() if context.run.tags.get(name) != value}
    if new:
        context.instance.add_run_tags(context.run_id, new)


def _tag_rerun(context: OpExecutionContext) -> None:
    """Tag a rerun from failure, which skips `load_job` and starts with the tags of the failed run."""
    run = context.run
    skipped = run.step_keys_to_execute is not None and not any("load_job" in key for key in run.step_keys_to_execute)
    if skipped and run.tags.get(LAUNCH_TAG) != (launch := launch_tag(run, None)):
        context.instance.add_run_tags(run.run_id, {LAUNCH_TAG: launch, OUTCOME_TAG: UNFINISHED})


def _mark_dry_run(context: OpExecutionContext, tags: dict[str, str]) -> None:
    """Mark a dry run, so that a search for the job's runs does not find it, nor ends the job with it."""
    inherited = {JOB_ID_TAG: ""} if context.run.tags.get(JOB_ID_TAG) else {}
    context.instance.add_run_tags(context.run_id, {**tags, **inherited})


@op(
    out={
        "plan": Out(Planned, description="The planned pictures, and the payer."),
        "units": DynamicOut(UnitTask, description="One per stage or combination."),
    },
    description="Reads job_input_data, plans exactly total_images pictures, and reads the payer's balance.",
)
def plan_units(context: OpExecutionContext, claimed: ClaimedJob, engine: EngineResource):  # type: ignore[no-untyped-def]
    if claimed.refused is not None:
        yield Output(Planned(job_id=claimed.job_id, refused=claimed.refused), "plan")
        return
    if claimed.dry_run:
        plan = _rehearse(context, claimed, engine)
        yield Output(plan, "plan", metadata=steps.of_plan(plan))
        return
    with engine.failing_op(context):
        try:
            session = engine.session(context, claimed.job_id)
        except LeaseHeldError as held:
            yield Output(Planned(job_id=claimed.job_id, refused=_refused(context, held)), "plan")
            return
        try:
            plan = engine.work(context, lambda log: session.plan(log, claimed.units))
        except (JobCancelledError, HandedOverError) as cancelled:
            context.log.warning(str(cancelled))
            yield Output(Planned(job_id=claimed.job_id, stopped=str(cancelled)), "plan")
            return
    yield Output(plan, "plan", metadata=steps.of_plan(plan))
    for unit in plan.units:
        task = UnitTask(job_id=plan.job_id, unit=unit)
        yield DynamicOutput(task, unit.key, output_name="units", metadata=steps.of_unit(unit))


def _rehearse(context: OpExecutionContext, claimed: ClaimedJob, engine: EngineResource) -> Planned:
    process, job = engine.process, claimed.job
    assert job is not None  # noqa: S101  load_job found it
    try:
        plan = process.run(lambda: rehearse(process.engine.dependencies, job, claimed.units))
    except QuelError as error:
        raise permanent_failure(context, str(error)) from None
    for repair in plan.repairs:
        context.log.info(f"Would repair {repair}")
    if plan.rehearsal:
        context.log.info(f"Dry run: {plan.rehearsal.verdict}")
    return plan


@op(
    out=Out(UnitOutcome, description="The pictures of the unit, and its errors."),
    description="Makes the missing pictures of one stage or combination; each is charged as it is stored.",
)
def generate(context: OpExecutionContext, task: UnitTask, engine: EngineResource):  # type: ignore[no-untyped-def]
    _tag_rerun(context)
    with engine.failing_op(context):
        try:
            session = engine.session(context, task.job_id)
        except LeaseHeldError as held:
            refused = UnitOutcome(unit=task.unit, run_id=context.run_id, refused=_refused(context, held))
            yield Output(refused, metadata=steps.of_outcome(refused))
            return
        outcome = engine.work(context, lambda log: session.make(task.unit, log))
    yield Output(outcome, metadata=steps.of_outcome(outcome))
    called_off = isinstance(session.stop.reason, JobCancelledError | HandedOverError)
    if outcome.failed and not outcome.made and not called_off and stops.watches(context.run_id):
        reasons = " ".join(dict.fromkeys(failed.reason for failed in outcome.failed))
        raise PlainFailureError(f"No picture of this unit was made. {reasons}", run_continues=True)


@op(
    out={name: Out(Nothing, is_required=False) for name in (GENERATED_IMAGES, PRODUCTION_PHOTO, CREDITS)},
    description="Ends the job and its production, unless its last picture did: status, counts, ids in order, times. "
    "Then reports assets and checks.",
)
def settle(  # type: ignore[no-untyped-def]
    context: OpExecutionContext,
    plan: Planned,
    outcomes: list[UnitOutcome],
    engine: EngineResource,
    queue: QueueResource,
):
    _tag_rerun(context)
    if plan.rehearsal is not None:
        context.log.info("A dry run settles nothing; its result is on the page of plan_units.")
        return
    refused = plan.refused or next((outcome.refused for outcome in outcomes if outcome.refused), None)
    if refused is not None:
        _nothing_to_settle(context, refused)
        return
    with engine.failing_op(context):
        try:
            session = engine.session(context, plan.job_id)
        except LeaseHeldError as held:
            _nothing_to_settle(context, _refused(context, held))
            return
        try:
            outcome, outcomes_now = engine.work(context, lambda log: session.settle(outcomes, log, plan.left_out))
        except HandedOverError as handed_over:
            context.log.warning(str(handed_over))
            context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: "handed_over"})
            with closing(queue.open()) as job_queue:
                engine.hand_over(context, job_queue, plan.job_id)
            return
    # the job has ended in the tables; the rest is display
    context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: outcome_tag(outcome)})
    context.log.info(
        f"Job {outcome.job_id} ended {outcome.status}: {outcome.completed} pictures, {outcome.failed} failed"
    )
    # in the order of the lineage, which Dagster requires
    everything: dict[str, dict[str, Any]] = {
        GENERATED_IMAGES: results.of_images(outcome, outcomes_now, session.job),
        PRODUCTION_PHOTO: results.of_production(outcome, outcomes_now, plan, session.job, _times(context)),
        CREDITS: results.of_credits(outcome, plan, session.job, outcomes_now),
    }
    asset_context = AssetExecutionContext(context)
    for name, entries in everything.items():
        if name == PRODUCTION_PHOTO or outcome.completed:
            # not as metadata of the output, which would store it twice
            asset_context.add_asset_metadata(entries, asset_key=name)
            yield Output(None, name)
    yield from checks.of_job(outcome)
    if outcome.status is JobStatus.FAILED:
        raise permanent_failure(context, outcome.error or "No picture was made.")


def _nothing_to_settle(context: OpExecutionContext, refused: str) -> None:
    context.log.info(f"Nothing to settle: {refused}")
    context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: REFUSED})


def _times(context: OpExecutionContext) -> results.RunTimes | None:
    record = context.instance.get_run_record_by_id(context.run_id)
    return results.RunTimes(record.create_timestamp.timestamp(), record.start_time) if record else None
