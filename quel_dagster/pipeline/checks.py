"""What is checked of an asset without reading a picture: by every run for its own job, each minute for the queue.

A run yields its evaluations from what it knows already: nothing is planned for them before it starts, nothing read at
its end. Executed by hand, the same checks look at the jobs of the last day. What takes longer is in `audit_checks`.

WARN: somebody should look when there is time. ERROR: users get no pictures, or money is wrong.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    multi_asset_check,
)

from quel_dagster.adapters.database.figures import Backlog, backlog, low_balances, outcomes
from quel_dagster.jobs.model import Job, JobStatus
from quel_dagster.pipeline import metadata
from quel_dagster.pipeline.names import CREDITS_KEY, IMAGES_KEY, JOBS_TABLE
from quel_dagster.pipeline.resources import QueueResource, StudioResource
from quel_dagster.settings import Settings
from quel_dagster.studio.outcomes import JobOutcome

EVERY_PICTURE_MADE = AssetCheckSpec(
    "every_picture_made",
    asset=IMAGES_KEY,
    description="Every planned picture was made. WARN: some are missing, or somebody stopped the job; ERROR: none was "
    "made. Each run checks its own job; executed by hand, the jobs of the last day.",
)
BALANCE_IS_ENOUGH = AssetCheckSpec(
    "balance_is_enough",
    asset=CREDITS_KEY,
    description="The payer has QUEL_WARN_BALANCE credits or more. WARN below that; ERROR when not one more picture "
    "could be paid. Each run checks who paid for its job; executed by hand, the payers of the last day.",
)
QUEUE_KEEPS_MOVING = AssetCheckSpec(
    "queue_keeps_moving",
    asset=JOBS_TABLE,
    description="No job waits longer than QUEL_WARN_QUEUE_SECONDS. WARN above that; ERROR above four times that. "
    "Evaluated each minute by queue_observer.",
)
NO_DEAD_LETTERS = AssetCheckSpec(
    "no_dead_letters",
    asset=JOBS_TABLE,
    description="jobs:dead is empty: every id that was pushed could run. Evaluated each minute by queue_observer.",
)
#: so many times the warning's age is an error
TOO_LONG = 4

Verdict = tuple[AssetCheckSpec, bool, AssetCheckSeverity, str, dict[str, Any]]


def _evaluation(verdict: Verdict) -> AssetCheckEvaluation:
    spec, passed, severity, said, facts = verdict
    return AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=passed,
        severity=severity,
        description=said,
        metadata=facts,
    )


def _result(verdict: Verdict) -> AssetCheckResult:
    spec, passed, severity, said, facts = verdict
    return AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=passed,
        severity=severity,
        description=said,
        metadata=facts,
    )


# --- of a job, by its run ----------------------------------------------------------------------------


def of_job(outcome: JobOutcome, job: Job, left_out: Sequence[str] = ()) -> Iterator[AssetCheckEvaluation]:
    """What a run can say of its own job, from what it knows."""
    if outcome.balance is not None:
        least = Settings.read().warn_balance
        facts = {"job_id": str(outcome.job_id), "payer": outcome.payer, "balance": outcome.balance, "warn_below": least}
        yield _evaluation(_balance(outcome.payer, outcome.balance, price=outcome.price, least=least, facts=facts))
    yield _evaluation(_every_picture(outcome, job, left_out))


def _every_picture(outcome: JobOutcome, job: Job, left_out: Sequence[str]) -> Verdict:
    stopped = outcome.status in {JobStatus.CANCELLED, JobStatus.USER_CANCELLED}
    warn = outcome.completed or stopped or left_out
    said = f"{outcome.completed} of {outcome.completed + outcome.failed} pictures"
    facts = {
        "job_id": str(outcome.job_id),
        "category": job.production_path or "fashion",
        "job_status": outcome.status.value,
        "completed_images": outcome.completed,
        "failed_images": outcome.failed,
    }
    if outcome.error:
        facts["why"] = outcome.error
    return (
        EVERY_PICTURE_MADE,
        outcome.failed == 0,
        AssetCheckSeverity.WARN if warn else AssetCheckSeverity.ERROR,
        f"{said}. {outcome.error}" if outcome.error else said,
        facts,
    )


def _balance(payer: str, balance: int, *, price: int, least: int, facts: dict[str, Any]) -> Verdict:
    return (
        BALANCE_IS_ENOUGH,
        balance >= max(price, least),
        AssetCheckSeverity.ERROR if balance < price else AssetCheckSeverity.WARN,
        f"The {payer} has {balance} credits, enough for {balance // price if price else 'any number of'} pictures",
        facts,
    )


# --- of the last day, by hand ------------------------------------------------------------------------


@multi_asset_check(
    name="recent_jobs",
    specs=[EVERY_PICTURE_MADE, BALANCE_IS_ENOUGH],
    can_subset=True,
    description="Looks at the jobs of the last day.",
)
def recent_jobs(context: AssetCheckExecutionContext, studio: StudioResource) -> Iterator[AssetCheckResult]:
    process, settings, now = studio.process, Settings.read(), datetime.now(UTC)
    database = process.studio.parts.database
    chosen = context.op_execution_context.selected_asset_check_keys
    if EVERY_PICTURE_MADE.key in chosen:
        groups = process.run(lambda: outcomes(database, now - timedelta(days=1), now))
        ended = [group for group in groups if group.status in {"completed", "failed"}]
        failed, lacking = sum(group.jobs for group in ended if group.status == "failed"), sum(g.partial for g in ended)
        facts = {"jobs": sum(g.jobs for g in ended), "jobs_failed": failed, "jobs_with_pictures_missing": lacking}
        severity = AssetCheckSeverity.ERROR if failed else AssetCheckSeverity.WARN
        said = f"Last 24 hours: {facts['jobs']} jobs ended, {lacking} with pictures missing, {failed} with none"
        yield _result((EVERY_PICTURE_MADE, not failed and not lacking, severity, said, facts))
    if BALANCE_IS_ENOUGH.key in chosen:
        price = process.studio.parts.price
        least = max(price, settings.warn_balance)
        low = process.run(lambda: low_balances(database, since=now - timedelta(days=1), least=least))
        broke = any(balance < price for _, balance in low)
        found = metadata.table(("payer", "balance"), ({"payer": payer, "balance": left} for payer, left in low))
        severity = AssetCheckSeverity.ERROR if broke else AssetCheckSeverity.WARN
        said = f"{len(low)} payers of the last 24 hours have fewer than {least} credits"
        yield _result((BALANCE_IS_ENOUGH, not low, severity, said, {"payers": len(low), "low": found}))


# --- of the queue ------------------------------------------------------------------------------------


def of_queue(waiting: Backlog, dead: int, *, warn_seconds: float) -> Iterator[AssetCheckEvaluation]:
    """What the figures of one minute say."""
    return (_evaluation(verdict) for verdict in _queue_verdicts(waiting, dead, warn_seconds))


def _queue_verdicts(waiting: Backlog, dead: int, warn_seconds: float) -> Iterator[Verdict]:
    age = waiting.oldest_waiting_seconds or 0.0
    yield (
        QUEUE_KEEPS_MOVING,
        age <= warn_seconds,
        AssetCheckSeverity.ERROR if age > TOO_LONG * warn_seconds else AssetCheckSeverity.WARN,
        f"Job {waiting.oldest_waiting_job} has waited for {age:.0f} s, {waiting.pending} wait in all"
        if waiting.pending
        else "No job waits",
        {
            "pending": waiting.pending,
            "oldest_waiting_seconds": round(age, 1),
            "oldest_waiting_job": waiting.oldest_waiting_job or "none",
        },
    )
    yield (
        NO_DEAD_LETTERS,
        dead == 0,
        AssetCheckSeverity.WARN,
        f"{dead} ids could not run; `quel dead` lists them with the reasons" if dead else "No dead letters",
        {"dead_letters": dead},
    )


@multi_asset_check(
    name="queue_now",
    specs=[QUEUE_KEEPS_MOVING, NO_DEAD_LETTERS],
    can_subset=True,
    description="Looks at the queue now.",
)
def queue_now(
    context: AssetCheckExecutionContext, studio: StudioResource, queue: QueueResource
) -> Iterator[AssetCheckResult]:
    process = studio.process
    waiting = process.run(lambda: backlog(process.studio.parts.database))
    job_queue = queue.open()
    try:
        dead = job_queue.depths()["dead"]
    finally:
        job_queue.close()
    chosen = context.op_execution_context.selected_asset_check_keys
    for verdict in _queue_verdicts(waiting, dead, Settings.read().warn_queue_seconds):
        if verdict[0].key in chosen:
            yield _result(verdict)
