"""Read the web app's ledger, quel_credits: rows of a job or a member, sums over a span of time."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.rows import read, read_one
from quel_dagster.adapters.database.store import Database
from quel_dagster.jobs.model import Value

_CREDITS_SINCE = text(
    """
    select coalesce(-sum(amount) filter (where transaction_type = 'DEDUCT'), 0)::bigint as charged,
           coalesce(sum(amount) filter (where transaction_type = 'refund'), 0)::bigint as refunded
    from public.quel_credits
    where coalesce(api_provider, 'gemini-banana') = 'gemini-banana' and created_at >= cast(:since as timestamptz)
    """
)
_MEMBER_LEDGER = text(
    """
    select c.created_at, c.transaction_type, c.amount, c.balance_after, c.attach_idx, c.description, o.org_name
    from public.quel_credits c left join public.quel_organization o on o.org_id = c.org_id
    where c.user_id = cast(:member_id as uuid) order by c.created_at desc, c.id limit :most
    """
)
_JOB_LEDGER = text(
    """
    select c.created_at, c.transaction_type, c.amount, c.balance_after, c.attach_idx, c.description, c.org_id
    from public.quel_production_jobs j
    cross join lateral quel_dagster.attach_ids(j.generated_attach_ids) i
    join public.quel_credits c on c.attach_idx = i.attach_id
    where j.job_id = :job_id order by c.created_at, c.id
    """
)
_JOB_OF_PICTURE = text("select job_id from quel_dagster.picture_slot where attach_id = :attach_id")


class LedgerRow(Value):
    """A row of quel_credits."""

    created_at: datetime
    transaction_type: str
    amount: int
    balance_after: int
    attach_idx: int | None
    description: str | None
    org_id: UUID | None = None
    org_name: str | None = None


class Money(Value):
    """Credits that moved in a span of time."""

    charged: int
    refunded: int


async def credits_since(database: Database, since: datetime) -> Money:
    """Return the credits charged and refunded since then. Scans the ledger."""
    return await read_one(database, Money, _CREDITS_SINCE, since=since)


async def ledger_of_job(database: Database, job_id: UUID) -> list[LedgerRow]:
    """Return the ledger rows of a job's pictures, oldest first."""
    return await read(database, LedgerRow, _JOB_LEDGER, job_id=job_id)


async def ledger_of_member(database: Database, member_id: UUID, *, most: int) -> list[LedgerRow]:
    """Return the last ledger rows of a member, newest first."""
    return await read(database, LedgerRow, _MEMBER_LEDGER, member_id=member_id, most=most)


async def job_of_picture(database: Database, attach_id: int) -> UUID | None:
    """Return the job that made a picture; None for one of another worker."""
    rows = await database.ask(_JOB_OF_PICTURE, attach_id=attach_id)
    return rows[0].job_id if rows else None
