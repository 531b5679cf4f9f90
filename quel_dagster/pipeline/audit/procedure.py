"""Every invariant is looked at, and what looks wrong a second time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from redis import RedisError

from quel_dagster.adapters.database import audit as sql
from quel_dagster.adapters.database.audit import AuditReader, JobScope
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.adapters.queue import unreachable
from quel_dagster.pipeline.audit.checks import Check, Look, Sources, Table
from quel_dagster.pipeline.audit.ledger import Ledger
from quel_dagster.pipeline.audit.objects import Objects
from quel_dagster.pipeline.audit.report import INVARIANTS, AuditReport, Breach, Finding
from quel_dagster.pipeline.audit.underway import Processing, Queue, RunEnds


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
    """Look at every invariant. Changes nothing anywhere.

    Args:
        job_ids: only these jobs, with their payers and productions.
        since: only jobs created, and ledger rows written, from then on: what an older program left stays out.
        price: credits per picture, if it was the same for all of them; else only the sign of a charge is looked at.
        pictures: read this many objects, chosen at random; all by default.
        grace_seconds: how long a job may be without a lease or run while it is being recovered.
        entry_seconds: how long an entry may lie in `jobs:processing` without a run.
        confirm_seconds: pause before the second look.

    Raises:
        QuelError: PostgreSQL does not answer, or has no schema quel_dagster.
    """
    started = time.monotonic()
    url = sources.database.url if isinstance(sources.database, Database) else DatabaseUrl.parse(sources.database)
    reader = AuditReader(url, JobScope(job_ids=job_ids, since=since))
    await reader.check()
    checks: Sequence[Check] = (
        Table("I1", reader, sql.BALANCES_MATCH_LEDGER),
        Ledger("I2", reader),
        Table("I3", reader, sql.PICTURES_ARE_CHARGED_ONCE, price=price),
        Table("I4", reader, sql.CHARGES_HAVE_PICTURES),
        Table("I5", reader, sql.JOBS_COUNT_RIGHT),
        Table("I6", reader, sql.ROWS_AND_JOBS_MATCH),
        Table("I7", reader, sql.PRODUCTIONS_HOLD_THEIR_PICTURES),
        Table("I8", reader, sql.PICTURES_HAVE_ONE_JOB),
        Table("I9", reader, sql.ENDS_ARE_COMPLETE),
        Processing("I10", reader, sources, grace_seconds),
        Queue("I11", reader, sources, grace_seconds, entry_seconds, job_ids),
        Objects("I12", reader, sources, pictures),
        Table("I13", reader, sql.NOTHING_AFTER_CANCEL),
        RunEnds("I14", reader, sources, grace_seconds, job_ids, since),
    )
    first = [await _look(check) for check in checks]
    if any(look.breaches for look in first):
        await asyncio.sleep(confirm_seconds)
    findings = [
        await _confirmed(check, look) if look.breaches else _finding(check, look, look)
        for check, look in zip(checks, first, strict=True)
    ]
    return AuditReport(findings=tuple(findings), seconds=round(time.monotonic() - started, 3))


async def _look(check: Check, suspects: Sequence[Breach] | None = None) -> Look:
    try:
        return await check.look(suspects)
    except RedisError as error:
        return Look(not_done=str(unreachable(error)))


async def _confirmed(check: Check, first: Look) -> Finding:
    return _finding(check, first, await _look(check, first.breaches))


def _finding(check: Check, first: Look, second: Look) -> Finding:
    """What both looks showed."""
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
