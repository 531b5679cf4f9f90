"""Run the queries of the audit on PostgreSQL.

Every query has its own transaction, read-only and REPEATABLE READ, so it sees one instant and blocks no writer.
Queries are set-based: on 100,000 jobs each is a handful of sequential scans and hash joins.

Not here: the queries (`audit_ledger`, `audit_rows`); their messages (`pipeline/audit`).
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

from quel_dagster.adapters.database.rows import V, value_of
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.errors import QuelError
from quel_dagster.jobs.json_text import read_json

#: What a question is about: the jobs in scope, and the pictures that they name. A CTE that a question does not use
#: costs nothing.
_SCOPE = """
with jobs as (
    select job_id, production_id, coalesce(job_status::text, 'pending') as status, total_images,
           coalesce(completed_images, 0) as completed_images, coalesce(failed_images, 0) as failed_images,
           nullif(btrim(error_message), '') as error_message, generated_attach_ids, created_at, started_at,
           completed_at, updated_at
    from public.quel_production_jobs
    where (cast(:job_ids as uuid[]) is null or job_id = any(cast(:job_ids as uuid[])))
      and (cast(:since as timestamptz) is null or created_at >= cast(:since as timestamptz))
), ids as (
    select j.job_id, j.production_id, i.attach_id
    from jobs j cross join lateral quel_dagster.attach_ids(j.generated_attach_ids) i
), all_ids as (
    select j.job_id, i.attach_id
    from public.quel_production_jobs j cross join lateral quel_dagster.attach_ids(j.generated_attach_ids) i
), payers as (
    -- who pays for a job is a fact of its rows; whether they may pay now does not matter here
    select j.job_id, p.member_id, p.org_id from jobs j cross join lateral quel_dagster.payer_v1(j.job_id) p
), own as (
    -- Pictures, each with its slot, which the older worker's do not have. A picture in the list of another job than its
    -- slot's is reported once (I8).
    select i.job_id, i.production_id, i.attach_id, s.price, s.object_key
    from ids i left join quel_dagster.picture_slot s on s.attach_id = i.attach_id
    where s.job_id is null or s.job_id = i.job_id
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


def question(body: str) -> TextClause:
    """A query with an `Answer`: `body` defines `looked_at` and `found`."""
    return text(_SCOPE + body + _ANSWER)


def listing(body: str) -> TextClause:
    """A query with its rows as the answer."""
    return text(_SCOPE + body)


_SCHEMA_IS_THERE = text("select to_regnamespace('quel_dagster') is not null")


@dataclass(frozen=True)
class JobScope:
    """The jobs of a query; payers, productions and charges follow from them."""

    job_ids: Collection[UUID] | None = None
    #: jobs created, and ledger rows written, from this instant on
    since: datetime | None = None

    def parameters(self) -> dict[str, Any]:
        job_ids = None if self.job_ids is None else [str(job_id) for job_id in self.job_ids]
        return {"job_ids": job_ids, "since": self.since}


@dataclass(frozen=True)
class Answer:
    """The result of a query."""

    #: things looked at
    checked: int
    #: breaches there are, of which `found` holds the first
    total: int
    #: kind of breach, and its facts by name
    found: tuple[tuple[str, dict[str, Any]], ...]


class AuditReader:
    """Runs the queries, with one connection each; changes nothing."""

    def __init__(self, url: DatabaseUrl, scope: JobScope) -> None:
        self._scope = scope.parameters()
        self._engine = create_async_engine(
            url.url,
            poolclass=NullPool,
            isolation_level="REPEATABLE READ",
            json_deserializer=read_json,
            connect_args={
                "connect_timeout": 10,
                "prepare_threshold": None,
                "application_name": "quel_dagster audit",
            },
        ).execution_options(postgresql_readonly=True)

    async def check(self) -> None:
        """Raise QuelError when PostgreSQL is unreachable or has no schema quel_dagster."""
        if not (await self.rows(_SCHEMA_IS_THERE))[0][0]:
            raise QuelError("The database has no schema quel_dagster; start `quel up` on it once, then audit again.")

    async def ask(self, question: TextClause, *, limit: int, **parameters: Any) -> Answer:
        """Return the answer to a query, with at most `limit` breaches."""
        rows = await self.rows(question, limit=limit, **parameters)
        found = tuple((row.kind, row.facts) for row in rows if row.kind is not None)
        return Answer(checked=rows[0].checked, total=rows[0].total, found=found)

    async def read(self, kind: type[V], statement: TextClause, **parameters: Any) -> list[V]:
        """Return the rows as values.

        Raises:
            RowShapeError: a row does not fit `kind`.
        """
        return [value_of(kind, row._asdict()) for row in await self.rows(statement, **parameters)]

    async def rows(self, statement: TextClause, **parameters: Any) -> Sequence[Row[Any]]:
        async with self._snapshot() as connection:
            return (await connection.execute(statement, self._for(statement, parameters))).all()

    async def stream(self, kind: type[V], statement: TextClause, **parameters: Any) -> AsyncGenerator[V]:
        """Yield the rows as values, one by one.

        Raises:
            RowShapeError: a row does not fit `kind`.
        """
        async with self._snapshot() as connection:
            async for row in await connection.stream(statement, self._for(statement, parameters)):
                yield value_of(kind, row._asdict())

    def _for(self, statement: TextClause, parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**self._scope, **parameters}.items() if name in statement._bindparams}

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state and state[:2] == "22":  # a row holds a value that the question cannot read
                words = getattr(getattr(error.orig, "diag", None), "message_primary", None)
                raise QuelError(f"a row holds a value that cannot be read: {words} (SQLSTATE {state})") from error
            raise QuelError(
                f"PostgreSQL did not answer the audit ({type(error.orig).__name__}"
                f"{f', SQLSTATE {state}' if state else ''}); check DATABASE_URL, then audit again."
            ) from error
