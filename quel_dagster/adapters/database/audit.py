"""The questions of the audit to PostgreSQL, named and described; `pipeline/audit` turns the answers into words.

Every question is asked in a transaction of its own that is read-only and REPEATABLE READ, so it sees one instant and
holds up nobody. Questions are set-based: on 100,000 jobs each is a handful of sequential scans and hash joins.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.errors import QuelError

#: What a question is about: the jobs in scope, and the pictures that they name. A CTE that a question does not use
#: costs nothing.
_SCOPE = """
with jobs as (
    select job_id, production_id, coalesce(job_status::text, 'pending') as status, total_images, completed_images,
           generated_attach_ids, created_at, started_at, completed_at, updated_at
    from public.quel_production_jobs
    where (cast(:job_ids as uuid[]) is null or job_id = any(cast(:job_ids as uuid[])))
      and (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
), ids as (
    select j.job_id, j.production_id, i.attach_id
    from jobs j cross join lateral quel_dagster.attach_ids(j.generated_attach_ids) i
), all_ids as (
    select j.job_id, i.attach_id
    from public.quel_production_jobs j cross join lateral quel_dagster.attach_ids(j.generated_attach_ids) i
), ledger as (
    -- An organization's rows carry its id; those without are the member's own (domain.md §8).
    select c.id, coalesce(c.org_id, c.user_id) as payer, c.org_id is not null as is_org,
           c.amount::bigint as amount, c.balance_after::bigint as balance_after, c.created_at,
           -- rows of one instant: charges go down, purchases go up
           case when c.amount <= 0 then -c.balance_after else c.balance_after end as tie
    from public.quel_credits c
    where (cast(:since as timestamptz) is null or c.created_at >= cast(:since as timestamptz))
      and (cast(:job_ids as uuid[]) is null or (coalesce(c.org_id, c.user_id)) in (
          select coalesce(s.org_id, s.user_id) from public.quel_credits s
          where s.production_idx in (select production_id from jobs)))
)
"""

#: A question defines `looked_at (n)` and `found (kind, facts)`; its answer is one row at least.
_ANSWER = """
select (select n from looked_at) as checked, (select count(*) from found) as total, f.kind, f.facts
from (select 1) one
left join (select kind, facts from found order by kind, facts limit :limit) f on true
"""


def _question(body: str) -> TextClause:
    return text(_SCOPE + body + _ANSWER)


def _listing(body: str) -> TextClause:
    return text(_SCOPE + body)


#: I1. Opening = what the first ledger row started from; of several rows at the same instant, any may be the first.
BALANCES_MATCH_LEDGER = _question(
    """
, ranked as (
    select payer, is_org, balance_after - amount as opening, amount,
           rank() over (partition by payer, is_org order by created_at) as place
    from ledger
), payers as (
    select payer, is_org, sum(amount) as total, array_agg(opening) filter (where place = 1) as openings
    from ranked group by payer, is_org
), balances as (
    select p.payer, p.is_org, p.total, p.openings,
           coalesce(case when p.is_org then o.org_credit else m.quel_member_credit end, 0) as balance
    from payers p
    left join public.quel_organization o on p.is_org and o.org_id = p.payer
    left join public.quel_member m on not p.is_org and m.quel_member_id = p.payer
), looked_at as (
    select count(*) as n from payers
), found as (
    select 'off' as kind,
           jsonb_build_object(case when is_org then 'organization' else 'member' end, payer,
                              'balance', balance, 'expected', openings[1] + total) as facts
    from balances where not (balance - total) = any (openings)
)
"""
)

#: I2, first look: ledgers in which some row does not go on from the one before, whole and in ledger order.
#: Which of them are really broken is decided row by row (`pipeline/audit/ledger.py`).
LEDGERS_OUT_OF_LINE = _listing(
    """
, running as (
    select *, first_value(balance_after - amount) over w + sum(amount) over w as expected
    from ledger
    window w as (partition by payer, is_org order by created_at, tie, id rows unbounded preceding)
), judged as (
    select *, bool_or(expected <> balance_after) over (partition by payer, is_org) as out_of_line from running
)
select id as ledger, payer, is_org, amount, balance_after, created_at from judged
where out_of_line order by payer, is_org, created_at, tie, id
"""
)
LEDGER_SIZE = _listing("select count(*) from ledger")

#: I3. With `price`, a charge of anything else is wrong; without, any charge of zero or less will do.
PICTURES_ARE_CHARGED_ONCE = _question(
    """
, charges as (
    select attach_idx, count(*) as n, min(amount) as amount from public.quel_credits
    where transaction_type = 'DEDUCT' and attach_idx is not null group by attach_idx
), looked_at as (
    select count(*) as n from ids
), found as (
    select case when c.n is null then 'unpaid' when c.n > 1 then 'repeated' else 'amount' end as kind,
           jsonb_build_object('job', i.job_id, 'attach', i.attach_id, 'n', c.n, 'amount', c.amount) as facts
    from ids i left join charges c on c.attach_idx = i.attach_id
    where c.n is distinct from 1 or c.amount > 0 or c.amount <> -cast(:price as int)
)
"""
)

#: I4. A charge that names another provider pays for something else than our pictures.
CHARGES_HAVE_PICTURES = _question(
    """
, charges as (
    select id, attach_idx, production_idx, org_id, user_id, amount from public.quel_credits
    where transaction_type = 'DEDUCT' and coalesce(api_provider, 'gemini-banana') = 'gemini-banana'
      and (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
      and (cast(:job_ids as uuid[]) is null or production_idx in (select production_id from jobs))
), looked_at as (
    select count(*) as n from charges
), found as (
    select case when c.attach_idx is null then 'no_picture' else 'unearned' end as kind,
           jsonb_strip_nulls(jsonb_build_object(
               'ledger', c.id, 'attach', c.attach_idx, 'production', c.production_idx, 'amount', c.amount,
               'organization', c.org_id, 'member', case when c.org_id is null then c.user_id end)) as facts
    from charges c
    where not exists (select 1 from all_ids a where a.attach_id = c.attach_idx)
)
"""
)

#: I5. A job whose `total_images` is not positive plans what its input says, so it has no limit here (domain.md §4).
JOBS_COUNT_RIGHT = _question(
    """
, counted as (
    select j.job_id, coalesce(j.completed_images, 0) as completed, j.total_images,
           count(i.attach_id) as n, count(distinct i.attach_id) as different
    from jobs j left join lateral quel_dagster.attach_ids(j.generated_attach_ids) i on true
    group by 1, 2, 3
), looked_at as (
    select count(*) as n from counted
), found as (
    select k.kind, jsonb_build_object('job', c.job_id, 'n', c.n, 'different', c.different,
                                      'completed', c.completed, 'total', c.total_images) as facts
    from counted c
    cross join lateral (values ('repeated', c.n <> c.different), ('miscounted', c.n <> c.completed),
                               ('too_many', c.total_images > 0 and c.n > c.total_images)) as k (kind, broken)
    where k.broken
)
"""
)

#: I6. One scan of quel_attach finds the generated rows, by key: there is no index on the path.
ROWS_AND_JOBS_MATCH = _question(
    r"""
, generated as (
    select attach_id, attach_file_path as key, created_at,
           substring(attach_file_path from '([0-9a-f-]{36})_u\d{4,}_p\d{4,}\.webp$') as job_id
    from public.quel_attach
    where attach_file_path like 'generated-images/%'
      and (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
), own as (
    -- a row of another worker does not say which job it is of
    select * from generated where cast(:job_ids as uuid[]) is null or job_id = any(cast(:job_ids as text[]))
), keys as (
    select i.job_id, i.attach_id, a.attach_id is not null as present,
           coalesce(nullif(btrim(a.attach_file_path), ''), nullif(btrim(a.attach_directory), '')) as key
    from ids i left join public.quel_attach a on a.attach_id = i.attach_id
), looked_at as (
    select (select count(*) from ids) + (select count(*) from own) as n
), found as (
    select 'no_row' as kind, jsonb_build_object('job', job_id, 'attach', attach_id) as facts
    from keys where not present
    union all
    select 'same_key',
           jsonb_build_object('job', job_id, 'attach', string_agg(distinct attach_id::text, ', '), 'key', key)
    from keys where key is not null group by job_id, key having count(distinct attach_id) > 1
    union all
    select 'no_job', jsonb_strip_nulls(jsonb_build_object('attach', o.attach_id, 'key', o.key, 'job', o.job_id))
    from own o where not exists (select 1 from all_ids a where a.attach_id = o.attach_id)
)
"""
)

#: I7. A production takes over the ids of a job when the job ends. That earlier ids are kept needs no history: an id
#: that its job lost as well is found by I4 and I6.
PRODUCTIONS_HOLD_THEIR_PICTURES = _question(
    """
, shown as (
    select p.production_id, i.attach_id
    from public.quel_production_photo p cross join lateral quel_dagster.attach_ids(p.attach_ids) i
    where p.production_id in (select production_id from jobs)
), looked_at as (
    select count(distinct production_id) as n from jobs
), found as (
    select 'repeated' as kind, jsonb_build_object('production', production_id, 'attach', attach_id) as facts
    from shown group by production_id, attach_id having count(*) > 1
    union all
    select 'missing', jsonb_build_object('production', i.production_id, 'attach', i.attach_id, 'job', i.job_id)
    from ids i join jobs j using (job_id)
    where j.status not in ('pending', 'processing')
      and not exists (
          select 1 from shown s where s.production_id = i.production_id and s.attach_id = i.attach_id)
)
"""
)

#: I8
PICTURES_HAVE_ONE_JOB = _question(
    """
, looked_at as (
    select count(distinct attach_id) as n from ids
), found as (
    select 'shared' as kind,
           jsonb_build_object('attach', attach_id, 'jobs', string_agg(distinct job_id::text, ', ')) as facts
    from all_ids where attach_id in (select attach_id from ids)
    group by attach_id having count(distinct job_id) > 1
)
"""
)

#: I9
ENDS_ARE_COMPLETE = _question(
    """
, ended as (
    select j.*, (select count(*) from quel_dagster.attach_ids(j.generated_attach_ids)) as made
    from jobs j where j.status not in ('pending', 'processing')
), looked_at as (
    select count(*) as n from ended
), found as (
    select k.kind, jsonb_build_object('job', e.job_id, 'status', e.status) as facts
    from ended e
    cross join lateral (values ('no_time', e.completed_at is null),
                               ('empty', e.status = 'completed' and e.made = 0)) as k (kind, broken)
    where k.broken
)
"""
)

#: I13. The cancel was kept, and the job ended, under the lock of the job that a commit takes too, by the same clock.
NOTHING_AFTER_CANCEL = _question(
    """
, cancelled as (
    select j.job_id, least(c.seen_at, case when j.status = 'user_cancelled' then j.completed_at end) as at
    from jobs j left join quel_dagster.job_cancel c on c.job_id = j.job_id
    where j.status = 'user_cancelled' or c.job_id is not null
), looked_at as (
    select count(*) as n from cancelled
), found as (
    select 'late' as kind,
           jsonb_build_object('job', k.job_id, 'attach', i.attach_id, 'cancelled', k.at,
                              'committed', greatest(a.created_at, max(l.created_at))) as facts
    from cancelled k
    join ids i on i.job_id = k.job_id
    left join public.quel_attach a on a.attach_id = i.attach_id
    left join public.quel_credits l on l.attach_idx = i.attach_id and l.transaction_type = 'DEDUCT'
    group by k.job_id, i.attach_id, k.at, a.created_at
    having greatest(a.created_at, max(l.created_at)) > k.at
)
"""
)

#: I10, I11. Jobs that have not ended, with their lease, and for how many seconds nothing happened to either.
OPEN_JOBS = _listing(
    """
select j.job_id, j.status, l.run_id, coalesce(l.expires_at > clock_timestamp(), false) as lease_is_live,
       extract(epoch from clock_timestamp() - l.claimed_at)::float8 as lease_age,
       extract(epoch from clock_timestamp()
               - greatest(j.created_at, j.started_at, j.updated_at, l.expires_at))::float8 as silence
from jobs j left join quel_dagster.job_lease l on l.job_id = j.job_id
where j.status in ('pending', 'processing')
order by j.job_id
"""
)

#: I12. The pictures of jobs, with where they lie; a random sample of `sample` of them, if it is given.
STORED_PICTURES = _listing(
    """
select i.job_id, a.attach_id, a.attach_file_path as path, a.attach_directory as directory, a.attach_file_size as size,
       count(*) over () as everything
from ids i join public.quel_attach a on a.attach_id = i.attach_id
where cast(:attach_ids as bigint[]) is null or a.attach_id = any(cast(:attach_ids as bigint[]))
order by case when cast(:sample as int) is null then 0 else random() end, a.attach_id
limit cast(:sample as int)
"""
)

#: I14. Jobs that have ended, and when.
ENDED_JOBS = _listing(
    """
select job_id, status, extract(epoch from completed_at)::float8 as completed_at
from jobs where status not in ('pending', 'processing')
"""
)

_SCHEMA_IS_THERE = text("select to_regnamespace('quel_dagster') is not null")


@dataclass(frozen=True)
class JobScope:
    """Which jobs a question is about; payers, productions and charges follow from them."""

    job_ids: Collection[UUID] | None = None
    #: jobs created, and ledger rows written, from this instant on
    since: datetime | None = None

    def parameters(self) -> dict[str, Any]:
        job_ids = None if self.job_ids is None else [str(job_id) for job_id in self.job_ids]
        return {"job_ids": job_ids, "since": self.since}


@dataclass(frozen=True)
class Answer:
    """What a question found."""

    #: things looked at
    checked: int
    #: breaches there are, of which `found` holds the first
    total: int
    #: kind of breach, and its facts by name
    found: tuple[tuple[str, dict[str, Any]], ...]


class AuditReader:
    """Asks the questions; opens a connection for each, and changes nothing."""

    def __init__(self, url: DatabaseUrl, scope: JobScope) -> None:
        self._scope = scope.parameters()
        self._engine = create_async_engine(
            url.url,
            poolclass=NullPool,
            isolation_level="REPEATABLE READ",
            connect_args={
                "connect_timeout": 10,
                "prepare_threshold": None,
                "application_name": "quel_dagster audit",
            },
        ).execution_options(postgresql_readonly=True)

    async def check(self) -> None:
        """Raises QuelError when PostgreSQL is away, or is not prepared for this project."""
        if not (await self.rows(_SCHEMA_IS_THERE))[0][0]:
            raise QuelError("The database has no schema quel_dagster; start `quel up` on it once, then audit again.")

    async def ask(self, question: TextClause, *, limit: int, **parameters: Any) -> Answer:
        """The answer to a question, with at most `limit` breaches."""
        rows = await self.rows(question, limit=limit, **parameters)
        found = tuple((row.kind, row.facts) for row in rows if row.kind is not None)
        return Answer(checked=rows[0].checked, total=rows[0].total, found=found)

    async def rows(self, statement: TextClause, **parameters: Any) -> Sequence[Row[Any]]:
        async with self._snapshot() as connection:
            return (await connection.execute(statement, self._for(statement, parameters))).all()

    async def stream(self, statement: TextClause, **parameters: Any) -> AsyncGenerator[Row[Any]]:
        """The rows one by one, however many there are."""
        async with self._snapshot() as connection:
            async for row in await connection.stream(statement, self._for(statement, parameters)):
                yield row

    def _for(self, statement: TextClause, parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**self._scope, **parameters}.items() if name in statement._bindparams}

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            raise QuelError(
                f"PostgreSQL did not answer the audit ({type(error.orig).__name__}"
                f"{f', SQLSTATE {state}' if state else ''}); check DATABASE_URL, then audit again."
            ) from error
