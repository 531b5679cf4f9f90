"""Members, their organizations, and what they received and paid, for `quel member` and the page at /quel."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.job_list import is_beginning_of_uuid, uuid_range
from quel_dagster.adapters.database.ledger import LedgerRow, ledger_of_member
from quel_dagster.adapters.database.rows import read, read_one
from quel_dagster.adapters.database.store import Database
from quel_dagster.jobs.model import Value

_MEMBERS = text(
    """
    select quel_member_id as member_id, quel_name as name, quel_email as email, quel_member_status as status,
           quel_member_credit as credit
    from public.quel_member
    where lower(quel_email) = lower(cast(:word as text)) or lower(quel_name) = lower(cast(:word as text))
       or position(lower(cast(:word as text)) in lower(coalesce(quel_email, ''))) > 0
       or position(lower(cast(:word as text)) in lower(coalesce(quel_name, ''))) > 0
       or quel_member_id between cast(:first as uuid) and cast(:last as uuid)
    order by lower(quel_email) = lower(cast(:word as text)) desc,
             lower(coalesce(quel_name, '')) = lower(cast(:word as text)) desc, quel_email
    limit :most
    """
)
_MEMBER_PAYMENTS = text(
    """
    select coalesce(-sum(amount) filter (where transaction_type = 'DEDUCT' and org_id is null), 0)::bigint as paid,
           coalesce(-sum(amount) filter (where transaction_type = 'DEDUCT' and org_id is not null), 0)::bigint
               as paid_by_organizations,
           coalesce(sum(amount) filter (where transaction_type = 'refund'), 0)::bigint as refunded,
           coalesce(sum(amount) filter (where transaction_type = 'purchase'), 0)::bigint as purchased,
           count(*) filter (where transaction_type = 'DEDUCT') as pictures
    from public.quel_credits
    where user_id = cast(:member_id as uuid)
      and (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
    """
)
_MEMBER_ORGANIZATIONS = text(
    """
    select o.org_id, o.org_name as name, o.org_status as status, o.org_credit as credit,
           case when o.owner_id = cast(:member_id as uuid) then 'owner' else om.role end as role,
           coalesce(om.status, 'owner') as membership
    from public.quel_organization o
    left join public.quel_organization_member om on om.org_id = o.org_id and om.member_id = cast(:member_id as uuid)
    where o.owner_id = cast(:member_id as uuid) or om.member_id is not null
    order by o.org_name
    """
)
_MEMBER_JOBS = text(
    """
    select coalesce(job_status::text, 'pending') as status, count(*) as jobs,
           coalesce(sum(completed_images), 0)::bigint as pictures
    from public.quel_production_jobs
    where quel_member_id = cast(:member_id as uuid)
      and (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
    group by 1 order by 2 desc
    """
)


class Member(Value):
    """A member as `quel member` names it."""

    member_id: UUID
    name: str | None
    email: str
    status: str
    credit: int | None


class Organization(Value):
    """An organization of a member."""

    org_id: UUID
    name: str
    status: str
    credit: int | None
    role: str | None
    #: active, left, banned, owner
    membership: str


class _Payments(Value):
    """The sums of a member's ledger rows."""

    paid: int
    paid_by_organizations: int
    refunded: int
    purchased: int
    #: that were paid for
    pictures: int


class MemberAccount(Value):
    """A member's pictures, payments and balance."""

    member: Member
    organizations: tuple[Organization, ...]
    #: jobs and pictures by status, of the span asked for
    jobs: tuple[tuple[str, int, int], ...]
    pictures: int
    paid: int
    paid_by_organizations: int
    refunded: int
    purchased: int
    #: newest first
    ledger: tuple[LedgerRow, ...] = ()


async def search_members(database: Database, word: str, *, most: int = 10) -> list[Member]:
    """Return the members with this prefix of the id, or this text in name or e-mail address; exact matches first."""
    first, last = uuid_range(word) if is_beginning_of_uuid(word) else (UUID(int=0), UUID(int=0))
    return await read(database, Member, _MEMBERS, word=word, first=first, last=last, most=most)


async def member_account(
    database: Database, member: Member, *, since: datetime | None = None, rows: int = 20
) -> MemberAccount:
    """Return a member's pictures, payments and balance: jobs and sums since then, the latest ledger rows of any age."""
    payments = await read_one(database, _Payments, _MEMBER_PAYMENTS, member_id=member.member_id, since=since)
    return MemberAccount(
        member=member,
        organizations=tuple(await read(database, Organization, _MEMBER_ORGANIZATIONS, member_id=member.member_id)),
        jobs=tuple(
            (row.status, row.jobs, row.pictures)
            for row in await database.ask(_MEMBER_JOBS, member_id=member.member_id, since=since)
        ),
        ledger=tuple(await ledger_of_member(database, member.member_id, most=rows)),
        **dict(payments),
    )
