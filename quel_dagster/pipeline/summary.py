"""Daily summary as an asset with one partition per day: jobs, pictures, credits, reasons, waiting times.

The schedule adds a partition when its day is over, so that an installation has the days since its start and none is
missing. Summarize an earlier day by hand: *Materialize*, then *Add a partition* named like `2026-11-22`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta

from dagster import (
    AssetExecutionContext,
    AssetSelection,
    DefaultScheduleStatus,
    DynamicPartitionsDefinition,
    Failure,
    MaterializeResult,
    RunRequest,
    ScheduleEvaluationContext,
    asset,
    define_asset_job,
    schedule,
)

from quel_dagster.adapters.database.figures import Group, Span, span
from quel_dagster.pipeline.assets import PIPELINE_OWNER
from quel_dagster.pipeline.metadata import entries
from quel_dagster.pipeline.names import CREDITS_KEY, DAILY_SUMMARY, PRODUCTIONS_KEY
from quel_dagster.pipeline.resources import DatabaseResource

DAYS_NAME = "summary_days"
DAYS = DynamicPartitionsDefinition(name=DAYS_NAME)
#: Maximum of days to catch up after a pause of the daemon.
LONGEST_PAUSE_DAYS = 31
#: Maximum of reasons in a table.
REASONS = 30

_PLACES = re.compile(r"^\d+ of \d+ pictures failed\. ")
# possessive quantifiers: a digit can end a number or begin a name, and backtracking over that is exponential
_WHERE = re.compile(r"^(?:[A-Za-z0-9_]++ #\d++(?:, | …)?+)++: ")
#: between the reasons of two pictures; a remedy follows "; " too and stays with its reason
_NEXT = re.compile(r"; (?=[A-Za-z0-9_]++ #\d)")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@asset(
    key=DAILY_SUMMARY,
    deps=[PRODUCTIONS_KEY, CREDITS_KEY],
    partitions_def=DAYS,
    group_name="reports",
    kinds={"report"},
    owners=[PIPELINE_OWNER],
    description="The jobs created on one day (UTC) by their current state: how they ended, pictures, credits charged "
    "that day, why pictures are missing, and how long users waited (p50 and p95). Materialize a day again to refresh "
    "it, or add the partition of an earlier day, such as 2026-11-22.",
)
def daily_summary(context: AssetExecutionContext, database: DatabaseResource) -> MaterializeResult[None]:
    begin = start_of_day(context.partition_key)
    day = database.run(lambda opened: span(opened, begin, begin + timedelta(days=1)))
    return MaterializeResult(metadata=of_day(day))


def start_of_day(partition_key: str) -> datetime:
    """Return the start of this day (UTC). Raises Failure when it is not a day."""
    try:
        return datetime.combine(date.fromisoformat(partition_key), time(), UTC)
    except ValueError:
        raise Failure(
            f"Partition {partition_key!r:.80} is not a day; add one such as 2026-11-22.", allow_retries=False
        ) from None


def of_day(day: Span) -> entries.Entries:
    """Return the summary of a day; its figures feed the plots."""
    by_status = Counter[str]()
    for group in day.groups:
        by_status[group.status] += group.jobs
    waited = [seconds for group in day.groups for seconds in group.waited]
    figures: entries.Entries = {
        "jobs": sum(by_status.values()),
        "jobs_completed": by_status["completed"],
        "jobs_with_pictures_missing": sum(group.partial for group in day.groups),
        "jobs_failed": by_status["failed"],
        "jobs_cancelled": by_status["cancelled"] + by_status["user_cancelled"],
        "jobs_open": by_status["pending"] + by_status["processing"],
        "pictures": sum(group.pictures for group in day.groups),
        "pictures_missing": sum(group.failed for group in day.groups),
        "credits_charged": day.credits,
        "gemini_usd": round(sum(usage.usd for usage in day.gemini), 4),
    }
    if day.gemini:
        figures["by_model"] = entries.table(
            ("model", "pictures", "calls", "usd", "of_unknown_price"),
            (
                {
                    "model": usage.model,
                    "pictures": usage.pictures,
                    "calls": usage.calls,
                    "usd": round(usage.usd, 4),
                    "of_unknown_price": usage.unpriced,
                }
                for usage in day.gemini
            ),
        )
    if waited:
        figures |= {"p50_seconds": percentile(waited, 50), "p95_seconds": percentile(waited, 95)}
    figures["by_category"] = entries.table(
        ("category", "jobs", "completed", "failed", "pictures", "p50_s", "p95_s", "p50_at_work_s", "p95_at_work_s"),
        [_category(name, groups) for name, groups in sorted(_by_category(day.groups).items())],
    )
    if day.reasons:
        figures["reasons"] = entries.table(
            ("jobs", "reason"),
            ({"jobs": jobs, "reason": why} for why, jobs in reasons(day.reasons).most_common(REASONS)),
        )
    return figures


def _by_category(groups: Iterable[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.category, []).append(group)
    return found


def _category(name: str, groups: Sequence[Group]) -> dict[str, str | int | float]:
    waited = [seconds for group in groups for seconds in group.waited]
    worked = [seconds for group in groups for seconds in group.worked]
    row: dict[str, str | int | float] = {
        "category": name,
        "jobs": sum(group.jobs for group in groups),
        "completed": sum(group.jobs for group in groups if group.status == "completed"),
        "failed": sum(group.jobs for group in groups if group.status == "failed"),
        "pictures": sum(group.pictures for group in groups),
    }
    if waited:
        row |= {"p50_s": percentile(waited, 50), "p95_s": percentile(waited, 95)}
    if worked:
        row |= {"p50_at_work_s": percentile(worked, 50), "p95_at_work_s": percentile(worked, 95)}
    return row


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` percent of them do not exceed."""
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)], 2)


def reasons(messages: Iterable[tuple[str, int]]) -> Counter[str]:
    """Count jobs by reason. Slots, ids and numbers do not make different reasons."""
    found = Counter[str]()
    for message, jobs in messages:
        for part in _NEXT.split(_PLACES.sub("", message)):
            why = _NUMBER.sub("N", _ID.sub("ID", _WHERE.sub("", part))).strip()
            if why:
                found[why[: entries.CELL]] += jobs
    return found


daily_summary_job = define_asset_job(
    "daily_summary_job",
    selection=AssetSelection.assets(DAILY_SUMMARY),
    description="Summarizes one day.",
)


@schedule(
    name="daily_summary",
    job=daily_summary_job,
    cron_schedule="30 0 * * *",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Summarizes the previous day (UTC), half an hour after its end, and any days missed during a pause.",
)
def daily_summary_schedule(context: ScheduleEvaluationContext) -> Iterator[RunRequest]:
    known = context.instance.get_dynamic_partitions(DAYS_NAME)
    yesterday = context.scheduled_execution_time.astimezone(UTC).date() - timedelta(days=1)
    days = [day.isoformat() for day in days_to_summarize(known, yesterday)]
    context.instance.add_dynamic_partitions(DAYS_NAME, days)
    for day in days:
        yield RunRequest(run_key=day, partition_key=day)


def days_to_summarize(known: Sequence[str], yesterday: date) -> list[date]:
    """Return yesterday and the days before it since the last known one."""
    before = [day for day in map(_day, known) if day is not None and day < yesterday]
    first = max(before) + timedelta(days=1) if before else yesterday
    first = max(first, yesterday - timedelta(days=LONGEST_PAUSE_DAYS - 1))
    return [first + timedelta(days=number) for number in range((yesterday - first).days + 1)]


def _day(partition_key: str) -> date | None:
    try:
        return date.fromisoformat(partition_key)
    except ValueError:
        return None
