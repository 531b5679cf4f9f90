"""Count over many jobs: jobs that wait now, results of a day, payers with a low balance.

Every query uses an index of the web app's tables (domain.md §2), except where it says otherwise, so that it can run
each minute on tables of any size.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text

from quel_dagster.adapters.database.kinds import CATEGORY, FOREIGN_KIND
from quel_dagster.adapters.database.rows import read, read_one
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.usage import ModelUsage, usage_of_span
from quel_dagster.jobs.model import Value

#: Open jobs of this project, by (job_status); jobs of the last hour, by (created_at).
_BACKLOG = text(
    f"""
    with open as (
        select j.job_id, j.job_status, j.created_at
        from public.quel_production_jobs j
        join public.quel_production_photo p using (production_id)
        where j.job_status in ('pending', 'processing') and {FOREIGN_KIND} is null
    )
    select (select count(*) from open where job_status = 'pending') as pending,
           (select count(*) from open where job_status = 'processing') as processing,
           (select extract(epoch from now() - min(created_at))::float8
            from open where job_status = 'pending') as oldest_waiting_seconds,
           (select job_id::text
            from open where job_status = 'pending' order by created_at limit 1) as oldest_waiting_job,
           (select count(*) from quel_dagster.job_lease where expires_at > clock_timestamp()) as leases,
           (select max(attach_id) from public.quel_attach) as newest_attach_id
    """  # noqa: S608  nothing of outside is in it
)

#: Jobs written in a span of time, as they stand now, with what was charged for their productions' pictures.
_SPAN = text(
    f"""
    with jobs as (
        select j.job_id, {CATEGORY} as category,
               coalesce(j.job_status::text, 'pending') as status, coalesce(j.completed_images, 0) as completed,
               coalesce(j.failed_images, 0) as failed,
               extract(epoch from j.completed_at - j.created_at)::float8 as waited,
               extract(epoch from j.completed_at - j.started_at)::float8 as worked
        from public.quel_production_jobs j
        join public.quel_production_photo p using (production_id)
        where j.created_at >= cast(:begin as timestamptz) and j.created_at < cast(:end as timestamptz)
    )
    select category, status, count(*) as jobs, count(*) filter (where status = 'completed' and failed > 0) as partial,
           sum(completed) as pictures,
           sum(case when status in ('pending', 'processing') then 0 else failed end) as failed,
           coalesce(array_agg(waited) filter (where waited is not null), '{{}}') as waited,
           coalesce(array_agg(worked) filter (where worked is not null), '{{}}') as worked
    from jobs group by category, status
    """  # noqa: S608  nothing of outside is in it
)
_SPAN_REASONS = text(
    """
    select error_message as reason, count(*) as jobs
    from public.quel_production_jobs
    where created_at >= cast(:begin as timestamptz) and created_at < cast(:end as timestamptz)
      and error_message is not null and job_status in ('completed', 'failed', 'cancelled')
    group by error_message order by count(*) desc limit 2000
    """
)
#: The ledger has no index on its time: this is one scan, for once a day.
_SPAN_CREDITS = text(
    """
    select coalesce(-sum(amount), 0)::bigint as credits, count(*) as charges
    from public.quel_credits
    where transaction_type = 'DEDUCT' and coalesce(api_provider, 'gemini-banana') = 'gemini-banana'
      and created_at >= cast(:begin as timestamptz) and created_at < cast(:end as timestamptz)
    """
)
#: Payers of the jobs of a span who have less than so much left.
_LOW_BALANCES = text(
    """
    with payers as (
        select distinct o.org_id, case when o.org_id is null then j.quel_member_id end as member_id
        from public.quel_production_jobs j
        left join public.quel_organization o on o.org_id = j.org_id and o.org_status = 'active'
        where j.created_at >= cast(:begin as timestamptz)
    )
    select case when p.org_id is not null then 'organization ' || p.org_id else 'member ' || p.member_id end as payer,
           coalesce(o.org_credit, m.quel_member_credit, 0) as balance
    from payers p
    left join public.quel_organization o on o.org_id = p.org_id
    left join public.quel_member m on m.quel_member_id = p.member_id
    where (p.org_id is not null or p.member_id is not null)
      and coalesce(o.org_credit, m.quel_member_credit, 0) < :least
    order by balance limit 100
    """
)
_FORGET_OP_OUTPUT = text(
    "delete from quel_dagster.op_output where ctid = any(array("
    "select ctid from quel_dagster.op_output where created_at < cast(:before as timestamptz) limit :most))"
)


class Backlog(Value):
    """Return the jobs that wait and the jobs at work now."""

    pending: int
    processing: int
    #: age of the pending job that was written first; None when none is pending
    oldest_waiting_seconds: float | None
    oldest_waiting_job: str | None
    #: leases that live: runs that are at work
    leases: int
    newest_attach_id: int | None


class Group(Value):
    """The jobs of a span of time with one category and status."""

    category: str
    status: str
    jobs: int
    #: completed ones with pictures missing
    partial: int
    pictures: int
    #: pictures that ended jobs lack
    failed: int
    #: seconds from written to ended, and from begun to ended, of every ended job
    waited: tuple[float, ...]
    worked: tuple[float, ...]


class Span(Value):
    """The results of the jobs written in a span of time."""

    groups: tuple[Group, ...]
    #: credits charged in that time, for any job
    credits: int
    charges: int
    #: what Gemini cost in that time, by model
    gemini: tuple[ModelUsage, ...] = ()
    #: error_message, and how many jobs ended with it
    reasons: tuple[tuple[str, int], ...]


async def backlog(database: Database) -> Backlog:
    """Return the jobs that wait and the jobs at work now."""
    return await read_one(database, Backlog, _BACKLOG)


async def span(database: Database, begin: datetime, end: datetime) -> Span:
    """Return the present results of the jobs written from `begin` until before `end`."""
    money = (await database.ask(_SPAN_CREDITS, begin=begin, end=end))[0]
    reasons = await database.ask(_SPAN_REASONS, begin=begin, end=end)
    return Span(
        groups=await outcomes(database, begin, end),
        credits=money.credits,
        charges=money.charges,
        gemini=await usage_of_span(database, begin, end),
        reasons=tuple((row.reason, row.jobs) for row in reasons),
    )


async def outcomes(database: Database, begin: datetime, end: datetime) -> tuple[Group, ...]:
    """Return the jobs of a span alone: cheap enough for every minute."""
    return tuple(await read(database, Group, _SPAN, begin=begin, end=end))


async def low_balances(database: Database, *, since: datetime, least: int) -> list[tuple[str, int]]:
    """Return the payers of jobs written since then with fewer than `least` credits, lowest balance first."""
    return [(row.payer, row.balance) for row in await database.ask(_LOW_BALANCES, begin=since, least=least)]


async def forget_op_outputs(database: Database, *, before: datetime, most: int) -> int:
    """Delete up to `most` op outputs written before then; return the number deleted."""
    return await database.execute(_FORGET_OP_OUTPUT, before=before, most=most)
