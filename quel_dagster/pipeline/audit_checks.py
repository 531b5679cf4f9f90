"""The audit as asset checks, once an hour.

Checks the jobs of the last day and a sample of their pictures, so that it takes seconds; `quel audit` checks
everything. (An op that yields has no return annotation: Dagster would read that of an async generator as outputs.)
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
from quel_dagster.pipeline.audit import AuditReport, Finding, Sources, audit
from quel_dagster.pipeline.metadata import entries
from quel_dagster.pipeline.names import CREDITS_KEY, IMAGES_KEY, JOBS_TABLE, PRODUCTIONS_KEY
from quel_dagster.pipeline.resources import QueueResource
from quel_dagster.settings import Settings

#: The period that the hourly audit covers, and the number of pictures that it reads.
AUDITED = timedelta(days=1)
SAMPLED_PICTURES = 20
#: the invariants that each check reports
_CHECKS: dict[str, tuple[AssetKey, tuple[str, ...], str]] = {
    "ledger_agrees_with_pictures": (
        CREDITS_KEY,
        ("I1", "I2", "I3", "I4"),
        "Every picture is charged exactly once, every charge has its picture, and balances match the ledger.",
    ),
    "rows_agree_with_each_other": (
        IMAGES_KEY,
        ("I5", "I6", "I8", "I13"),
        "Jobs count their pictures correctly, no picture has two jobs, none was committed after the user's cancel.",
    ),
    "objects_exist_and_decode": (
        IMAGES_KEY,
        ("I12",),
        f"{SAMPLED_PICTURES} of the last day's pictures are read: they exist, have the recorded size, and decode.",
    ),
    "productions_agree_with_jobs": (
        PRODUCTIONS_KEY,
        ("I7", "I9", "I14"),
        "Productions hold the pictures of their jobs, ended jobs are complete, runs and jobs ended alike.",
    ),
    "no_job_is_lost": (
        JOBS_TABLE,
        ("I10", "I11"),
        "Every job in processing has a worker, and every id taken from the queue became a run or a dead letter.",
    ),
}
AUDIT_SPECS = [
    AssetCheckSpec(
        name, asset=key, description=f"{says} ERROR: a breach, with the remedy; WARN: not everything was checked."
    )
    for name, (key, _, says) in _CHECKS.items()
]


@multi_asset_check(
    name="audit",
    specs=AUDIT_SPECS,
    can_subset=True,
    description="Checks the invariants I1 to I14 for the jobs of the last day. Changes nothing.",
)
async def audit_checks(context: AssetCheckExecutionContext, queue: QueueResource):  # type: ignore[no-untyped-def]
    settings = Settings.of_process()
    database_url = settings.required_database_url()
    store, job_queue = open_store(settings), queue.open()
    try:
        report = await audit(
            Sources(database_url, job_queue, store, context.instance),
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
    """Return one result per check, from the findings of its invariants."""
    return [_result(name, key, [report[code] for code in codes]) for name, (key, codes, _) in _CHECKS.items()]


def _result(name: str, key: AssetKey, findings: Sequence[Finding]) -> AssetCheckResult:
    breaches = sum(finding.total for finding in findings)
    undone = [f"{finding.code}: {finding.not_done}" for finding in findings if finding.not_done]
    lines = [breach.line for finding in findings for breach in finding.breaches]
    looked = ", ".join(f"{finding.code} {finding.checked}" for finding in findings)
    facts: entries.Entries = {
        "breaches": breaches,
        "looked_at": sum(finding.checked for finding in findings),
        "by_invariant": looked,
    }
    if lines:
        facts["found"] = entries.table(
            ("invariant", "breach"),
            ({"invariant": breach.code, "breach": breach.line} for finding in findings for breach in finding.breaches),
        )
    if undone:
        facts["not_checked"] = "; ".join(undone)
    if lines:
        message = f"{breaches} breach{'es' * (breaches != 1)}. {lines[0]}"
    else:
        message = f"Not checked: {undone[0]}" if undone else "No breach"
    return AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=not breaches and not undone,
        severity=AssetCheckSeverity.ERROR if breaches else AssetCheckSeverity.WARN,
        description=message,
        metadata=facts,
    )


audit_job = define_asset_job(
    "audit_job",
    selection=AssetSelection.checks(*(spec.key for spec in AUDIT_SPECS)),
    description="The audit of the last day, as asset checks. `quel audit` checks everything.",
)
audit_schedule = ScheduleDefinition(
    name="hourly_audit",
    job=audit_job,
    cron_schedule="17 * * * *",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Checks the invariants every hour; a breach shows as a failed check of an asset, with the remedy.",
)
