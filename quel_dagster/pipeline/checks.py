"""Asset checks that read no picture: by every run for its own job, each minute for the queue.

A run yields the evaluation of its payer from facts it already has. Executed by hand, the same checks read recent jobs.
Slower checks are in `audit_checks`.

WARN: look when there is time. ERROR: users get no pictures, or money is wrong.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    multi_asset_check,
)

from quel_dagster.adapters.database.figures import Backlog, Group, backlog, low_balances, outcomes
from quel_dagster.engine.outcomes import JobOutcome
from quel_dagster.pipeline.metadata import entries
from quel_dagster.pipeline.names import CREDITS_KEY, IMAGES_KEY, JOBS_TABLE
from quel_dagster.pipeline.resources import DatabaseResource, QueueResource
from quel_dagster.settings import Settings

EVERY_PICTURE_MADE = AssetCheckSpec(
    "every_picture_made",
    asset=IMAGES_KEY,
    description="Every picture of the jobs of the last hour was made. WARN: some are missing; ERROR: more than a fifth "
    "of the jobs got none. Evaluated each minute by queue_observer.",
)
BALANCE_IS_ENOUGH = AssetCheckSpec(
    "balance_is_enough",
    asset=CREDITS_KEY,
    description="The payer has at least QUEL_WARN_BALANCE credits. WARN: less; ERROR: not enough for one more "
    "picture. Each run checks the payer of its job; executed by hand, the payers of the last day.",
)
QUEUE_KEEPS_MOVING = AssetCheckSpec(
    "queue_keeps_moving",
    asset=JOBS_TABLE,
    description="No job waits longer than QUEL_WARN_QUEUE_SECONDS. WARN: longer; ERROR: more than four times as long. "
    "Evaluated each minute by queue_observer.",
)
NO_DEAD_LETTERS = AssetCheckSpec(
    "no_dead_letters",
    asset=JOBS_TABLE,
    description="jobs:dead is empty: every id that was pushed could run. Evaluated each minute by queue_observer.",
)
#: the period that every_picture_made covers
LAST_HOUR = timedelta(hours=1)
#: a larger share of jobs without a picture is an error
MANY_FAILED = 0.2
#: a job waiting this many times the warning age is an error
TOO_LONG = 4

Verdict = tuple[AssetCheckSpec, bool, AssetCheckSeverity, str, dict[str, Any]]
#: a run and a sensor report evaluations, a check that is executed by hand reports a result
Shown = TypeVar("Shown", AssetCheckEvaluation, AssetCheckResult)


def _shown(kind: type[Shown], verdict: Verdict) -> Shown:
    spec, passed, severity, message, facts = verdict
    return kind(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=passed,
        severity=severity,
        description=message,
        metadata=facts,
    )


# --- of a job, by its run ----------------------------------------------------------------------------


def of_job(outcome: JobOutcome) -> Iterator[AssetCheckEvaluation]:
    """Yield the evaluations of a run's own job."""
    if outcome.balance is not None:
        least = Settings.of_process().warn_balance
        facts = {"job_id": str(outcome.job_id), "payer": outcome.payer, "balance": outcome.balance, "warn_below": least}
        yield _shown(
            AssetCheckEvaluation,
            _balance(outcome.payer, outcome.balance, price=outcome.price, least=least, facts=facts),
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
    description="Checks the jobs of the last day.",
)
def recent_jobs(context: AssetCheckExecutionContext, database: DatabaseResource) -> Iterator[AssetCheckResult]:
    settings, now = Settings.of_process(), datetime.now(UTC)
    chosen = context.op_execution_context.selected_asset_check_keys
    if EVERY_PICTURE_MADE.key in chosen:
        groups = database.run(lambda opened: outcomes(opened, now - LAST_HOUR, now))
        yield _shown(AssetCheckResult, _every_picture(groups))
    if BALANCE_IS_ENOUGH.key in chosen:
        price = settings.image_per_price
        least = max(price, settings.warn_balance)
        low = database.run(lambda opened: low_balances(opened, since=now - timedelta(days=1), least=least))
        broke = any(balance < price for _, balance in low)
        found = entries.table(("payer", "balance"), ({"payer": payer, "balance": left} for payer, left in low))
        severity = AssetCheckSeverity.ERROR if broke else AssetCheckSeverity.WARN
        message = f"{len(low)} payers of the last 24 hours have fewer than {least} credits"
        verdict = (BALANCE_IS_ENOUGH, not low, severity, message, {"payers": len(low), "low": found})
        yield _shown(AssetCheckResult, verdict)


# --- of the last hour, each minute -------------------------------------------------------------------


def of_last_hour(groups: Sequence[Group]) -> AssetCheckEvaluation:
    """Return the evaluation of the last hour's jobs, so that it does not depend on the last job alone."""
    return _shown(AssetCheckEvaluation, _every_picture(groups))


def _every_picture(groups: Sequence[Group]) -> Verdict:
    ended = [group for group in groups if group.status in {"completed", "failed"}]
    jobs = sum(group.jobs for group in ended)
    failed = sum(group.jobs for group in ended if group.status == "failed")
    lacking = sum(group.partial for group in ended)
    noun = "job" if jobs == 1 else "jobs"
    message = f"Last hour: {jobs} {noun} ended, {lacking} with pictures missing, {failed} with none"
    return (
        EVERY_PICTURE_MADE,
        not failed and not lacking,
        AssetCheckSeverity.ERROR if failed > MANY_FAILED * jobs else AssetCheckSeverity.WARN,
        message if jobs else "Last hour: no job ended",
        {
            "jobs": jobs,
            "jobs_failed": failed,
            "jobs_with_pictures_missing": lacking,
            "which": entries.page_link("/jobs?ended=1h&status=failed&status=partial"),
        },
    )


# --- of the queue ------------------------------------------------------------------------------------


def of_queue(waiting: Backlog, dead: int, *, warn_seconds: float) -> Iterator[AssetCheckEvaluation]:
    """Yield the evaluations of one minute's figures."""
    return (_shown(AssetCheckEvaluation, verdict) for verdict in _queue_verdicts(waiting, dead, warn_seconds))


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
    description="Checks the queue now.",
)
def queue_now(
    context: AssetCheckExecutionContext, database: DatabaseResource, queue: QueueResource
) -> Iterator[AssetCheckResult]:
    waiting = database.run(backlog)
    with closing(queue.open()) as job_queue:
        dead = job_queue.depths()["dead"]
    chosen = context.op_execution_context.selected_asset_check_keys
    for verdict in _queue_verdicts(waiting, dead, Settings.of_process().warn_queue_seconds):
        if verdict[0].key in chosen:
            yield _shown(AssetCheckResult, verdict)
