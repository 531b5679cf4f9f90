"""Run the audit: check every invariant, and check suspected breaches a second time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from redis import RedisError

from quel_dagster.adapters.database import audit_ledger, audit_rows
from quel_dagster.adapters.database.audit import AuditReader, JobScope
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.errors import QuelError
from quel_dagster.pipeline.audit.checks import Check, CheckResult, Sources, Table
from quel_dagster.pipeline.audit.ledger import Ledger
from quel_dagster.pipeline.audit.objects import Objects
from quel_dagster.pipeline.audit.report import INVARIANTS, AuditReport, Breach, Finding
from quel_dagster.pipeline.audit.underway import Processing, Queue, RunEnds

_log = logging.getLogger(__name__)


async def audit(
    sources: Sources,
    *,
    job_ids: Collection[UUID] | None = None,
    since: datetime | None = None,
    price: int | None = None,
    pictures: int | None = None,
    grace_seconds: float = 60.0,
    entry_seconds: float = 20.0,
    confirm_seconds: float = 2.0,
) -> AuditReport:
    """Check every invariant. Changes nothing.

    Args:
        job_ids: only these jobs, with their payers and productions.
        since: only jobs created, and ledger rows written, from then on. Excludes what an older program left.
        price: credits per picture, if it was the same for all; else only the sign of a charge is checked.
        pictures: read this many objects, chosen at random; all by default.
        grace_seconds: how long a job may be without a lease or run while it is being recovered.
        entry_seconds: how long an entry may stay in `jobs:processing` without a run.
        confirm_seconds: pause before the second check.

    Raises:
        QuelError: PostgreSQL does not answer, or has no schema quel_dagster.
    """
    started = time.monotonic()
    url = sources.database.url if isinstance(sources.database, Database) else DatabaseUrl.parse(sources.database)
    reader = AuditReader(url, JobScope(job_ids=job_ids, since=since))
    await reader.check()
    checks: Sequence[Check] = (
        Table("I1", reader, audit_ledger.BALANCES_MATCH_LEDGER),
        Ledger("I2", reader),
        Table("I3", reader, audit_ledger.PICTURES_ARE_CHARGED_ONCE, price=price),
        Table("I4", reader, audit_ledger.CHARGES_HAVE_PICTURES),
        Table("I5", reader, audit_rows.JOBS_COUNT_RIGHT),
        Table("I6", reader, audit_rows.ROWS_AND_JOBS_MATCH),
        Table("I7", reader, audit_rows.PRODUCTIONS_HOLD_THEIR_PICTURES),
        Table("I8", reader, audit_rows.PICTURES_HAVE_ONE_JOB),
        Table("I9", reader, audit_rows.ENDS_ARE_COMPLETE),
        Processing("I10", reader, sources, grace_seconds),
        Queue("I11", reader, sources, grace_seconds, entry_seconds, job_ids),
        Objects("I12", reader, sources, sample=pictures, job_ids=job_ids, since=since, grace=grace_seconds),
        Table("I13", reader, audit_rows.NOTHING_AFTER_CANCEL),
        RunEnds("I14", reader, sources, grace_seconds, job_ids, since),
    )
    first = [await _run(check) for check in checks]
    if any(result.breaches for result in first):
        await asyncio.sleep(confirm_seconds)
    findings = [
        await _confirmed(check, result) if result.breaches else _finding(check, result, result)
        for check, result in zip(checks, first, strict=True)
    ]
    return AuditReport(findings=tuple(findings), seconds=round(time.monotonic() - started, 3))


async def _run(check: Check, suspects: Sequence[Breach] | None = None) -> CheckResult:
    """Check one invariant. An error marks this invariant as not checked and leaves the others unaffected."""
    try:
        return await check.run(suspects)
    except RedisError as error:
        return CheckResult(not_done=str(unreachable(error)))
    except QuelError as error:
        return CheckResult(not_done=str(error).removesuffix("."))
    except Exception as error:  # noqa: BLE001  one bad row must not end the audit; the finding names the error
        _log.exception("The check of %s did not finish", check.code)
        return CheckResult(not_done=f"unexpected {type(error).__name__}; the log has its traceback")


async def _confirmed(check: Check, first: CheckResult) -> Finding:
    return _finding(check, first, await _run(check, first.breaches))


def _finding(check: Check, first: CheckResult, second: CheckResult) -> Finding:
    """Combine the results of both checks."""
    seen = {(breach.kind, tuple(sorted(breach.ids.items()))) for breach in first.breaches}
    lasting = tuple(breach for breach in second.breaches if (breach.kind, tuple(sorted(breach.ids.items()))) in seen)
    return Finding(
        code=check.code,
        sentence=INVARIANTS[check.code],
        checked=first.checked,
        breaches=lasting,
        total=max(len(lasting), min(first.total, second.total)) if lasting else 0,
        not_done=first.not_done or second.not_done,
    )
