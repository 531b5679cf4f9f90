"""The audit as asset checks, once an hour: does what lies in PostgreSQL, Redis, the store and Dagster belong together?

Looks at the jobs of the last day and at a sample of their pictures, so that it takes seconds; `quel audit` looks at
everything. (An op that yields has no return annotation: Dagster would take that of an async generator for outputs.)
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetSelection,
    DefaultScheduleStatus,
    ScheduleDefinition,
    define_asset_job,
    multi_asset_check,
)

from quel_dagster.adapters.storage.store import open_store
from quel_dagster.errors import SettingsError
from quel_dagster.pipeline import metadata
from quel_dagster.pipeline.audit import AuditReport, Finding, Sources, audit
from quel_dagster.pipeline.names import CREDITS_KEY, IMAGES_KEY, JOBS_TABLE, PRODUCTIONS_KEY
from quel_dagster.pipeline.resources import QueueResource
from quel_dagster.settings import Settings

#: How far back the hourly audit looks, and how many pictures it reads.
AUDITED = timedelta(days=1)
SAMPLED_PICTURES = 20
#: Which invariants a check tells of.
_CHECKS: dict[str, tuple[AssetKey, tuple[str, ...], str]] = {
    "ledger_agrees_with_pictures": (
        CREDITS_KEY,
        ("I1", "I2", "I3", "I4"),
        "Every picture is charged exactly once, every charge has its picture, and balances are what the ledger says.",
    ),
    "rows_agree_with_each_other": (
        IMAGES_KEY,
        ("I5", "I6", "I8", "I13"),
        "Jobs count their pictures right, no picture belongs to two jobs, none came after the user's cancel.",
    ),
    "objects_exist_and_decode": (
        IMAGES_KEY,
        ("I12",),
        f"Of the last day's pictures {SAMPLED_PICTURES} are read: they are there, have their size, and are pictures.",
    ),
    "productions_agree_with_jobs": (
        PRODUCTIONS_KEY,
        ("I7", "I9", "I14"),
        "Productions hold the pictures of their jobs, ended jobs are complete, runs ended as their jobs did.",
    ),
    "no_job_is_lost": (
        JOBS_TABLE,
        ("I10", "I11"),
        "Whatever is in processing is worked on, and every id taken from the queue became a run or a dead letter.",
    ),
}
AUDIT_SPECS = [
    AssetCheckSpec(
        name, asset=key, description=f"{says} ERROR: a breach, with the remedy; WARN: not all was looked at."
    )
    for name, (key, _, says) in _CHECKS.items()
]


@multi_asset_check(
    name="audit",
    specs=AUDIT_SPECS,
    can_subset=True,
    description="Looks at the invariants I1 to I14 for the jobs of the last day. Changes nothing.",
)
async def audit_checks(context: AssetCheckExecutionContext, queue: QueueResource):  # type: ignore[no-untyped-def]
    settings = Settings.read()
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL is not set.")
    store, job_queue = open_store(settings), queue.open()
    try:
        report = await audit(
            Sources(settings.database_url.get_secret_value(), job_queue, store, context.instance),
            since=datetime.now(UTC) - AUDITED,
            pictures=SAMPLED_PICTURES,
        )
    finally:
        job_queue.close()
        await store.aclose()
    wanted = context.op_execution_context.selected_asset_check_keys
    for result in results_of(report):
        if any(key.name == result.check_name for key in wanted):
            yield result


def results_of(report: AuditReport) -> list[AssetCheckResult]:
    """One result for each check, from the findings that it tells of."""
    return [_result(name, key, [report[code] for code in codes]) for name, (key, codes, _) in _CHECKS.items()]


def _result(name: str, key: AssetKey, findings: Sequence[Finding]) -> AssetCheckResult:
    breaches = sum(finding.total for finding in findings)
    undone = [f"{finding.code}: {finding.not_done}" for finding in findings if finding.not_done]
    lines = [breach.line for finding in findings for breach in finding.breaches]
    looked = ", ".join(f"{finding.code} {finding.checked}" for finding in findings)
    facts: metadata.Entries = {
        "breaches": breaches,
        "looked_at": sum(finding.checked for finding in findings),
        "by_invariant": looked,
    }
    if lines:
        facts["found"] = metadata.table(
            ("invariant", "breach"),
            ({"invariant": breach.code, "breach": breach.line} for finding in findings for breach in finding.breaches),
        )
    if undone:
        facts["not_looked_at"] = "; ".join(undone)
    if lines:
        said = f"{breaches} breach{'es' * (breaches != 1)}. {lines[0]}"
    else:
        said = f"Not looked at: {undone[0]}" if undone else "No breach"
    return AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=not breaches and not undone,
        severity=AssetCheckSeverity.ERROR if breaches else AssetCheckSeverity.WARN,
        description=said,
        metadata=facts,
    )


audit_job = define_asset_job(
    "audit_job",
    selection=AssetSelection.checks(*(spec.key for spec in AUDIT_SPECS)),
    description="The audit of the last day, as asset checks. `quel audit` looks at everything.",
)
audit_schedule = ScheduleDefinition(
    name="hourly_audit",
    job=audit_job,
    cron_schedule="17 * * * *",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Looks at the invariants every hour; what it finds is a failed check of an asset, with the remedy.",
)
