"""The production tables, the lease, and the one transaction that a picture is (design: nothing twice, nobody unpaid).

`Database` is async, for one event loop per process, and usable from many tasks. Every call is one round trip
and may be repeated: when a connection breaks, the call is tried again on another one for up to
`RETRY_SECONDS`, because each function checks what is already done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause
from sqlalchemy.engine import Row
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from quel_dagster.adapters.database import statements as sql
from quel_dagster.adapters.database.records import Claim, Committed, JobDescription, NewJob, Payer, Settled
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.errors import (
    InsufficientCreditsError,
    JobCancelledError,
    JobNotFoundError,
    LeaseHeldError,
    LeaseLostError,
    QuelError,
)
from quel_dagster.jobs.model import Attach, Category, Job, JobStatus

#: How long a call outlasts a database that is away: a restart, a failover.
RETRY_SECONDS = 60.0
#: A lease is lost when nobody renewed it for this long, by the database's clock.
#: Short, so that a worker host that is gone is noticed within 15 s (docs/decisions/lease.md).
LEASE_SECONDS = 10.0
#: Raise with every change of schema/quel_dagster.sql that another running version must not undo.
SCHEMA_VERSION = 1


def schema_sql(name: str) -> str:
    """The text of `schema/<name>.sql`."""
    return (files("quel_dagster.adapters.database") / "schema" / f"{name}.sql").read_text(encoding="utf-8")


class Database:
    """The tables of domain.md §2 and our own schema."""

    def __init__(self, url: str, *, pool_size: int = 2, retry_seconds: float = RETRY_SECONDS) -> None:
        """
        Args:
            url: `postgresql://…`; any driver part is replaced.
            pool_size: connections kept open; up to eight more are opened under load.
            retry_seconds: how long a call outlasts a database that is away; a person at a prompt waits less.

        Raises:
            SettingsError: not a PostgreSQL URL.
        """
        self.url = DatabaseUrl.parse(url)
        self._retry_seconds = retry_seconds
        self._engine: AsyncEngine = create_async_engine(
            self.url.url,
            isolation_level="AUTOCOMMIT",  # a call is one statement: no BEGIN and COMMIT round trips
            pool_size=pool_size,
            max_overflow=8,
            pool_recycle=1800,
            connect_args={
                "connect_timeout": 10,
                # unnamed statements only, so that a transaction-pooling proxy may stand between
                "prepare_threshold": None,
                "application_name": "quel_dagster",
            },
        )

    async def aclose(self) -> None:
        await self._engine.dispose()

    # --- plumbing ------------------------------------------------------------------------------------

    async def _rows(self, statement: TextClause, **parameters: Any) -> Sequence[Row[Any]]:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_connection_broke),
            stop=stop_after_delay(self._retry_seconds),
            wait=wait_exponential_jitter(initial=0.1, max=2.0),
            reraise=True,
        ):
            with attempt:
                async with self._engine.connect() as connection:
                    result = await connection.execute(statement, parameters)
                    return result.all() if result.returns_rows else ()
        raise AssertionError("unreachable: the last attempt raises")

    async def ask(self, question: TextClause, **parameters: Any) -> Sequence[Row[Any]]:
        """The rows that answer a question of another module of this room."""
        return await self._rows(question, **parameters)

    async def execute(self, statement: TextClause, **parameters: Any) -> int:
        """Rows that a statement of another module of this room changed."""
        async with self._engine.connect() as connection:
            return int((await connection.execute(statement, parameters)).rowcount)

    async def _answer(self, statement: TextClause, **parameters: Any) -> Any:
        rows = await self._rows(statement, **parameters)
        return rows[0].answer

    # --- schema --------------------------------------------------------------------------------------

    async def ensure_schema(self) -> bool:
        """Install or upgrade schema quel_dagster; touches nothing else. True when it had to.

        Raises:
            QuelError: the web app's tables are not in this database.
        """
        if not (await self._rows(sql.WEB_APP_TABLES))[0][0]:
            raise QuelError("quel_production_jobs is not in this database; check that DATABASE_URL is the web app's.")
        source, wanted = schema_sql("quel_dagster"), _wanted_schema()
        if _installed_is_current((await self._rows(sql.SCHEMA_COMMENT))[0][0], wanted):
            return False
        async with self._engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                await connection.execute(sql.SCHEMA_LOCK)
                if _installed_is_current((await connection.execute(sql.SCHEMA_COMMENT)).scalar(), wanted):
                    return False
                driver = await _driver_connection(connection)
                await driver.execute(source.encode())
                await driver.execute(f"comment on schema quel_dagster is '{wanted}'".encode())
        return True

    async def create_web_app_tables(self) -> bool:
        """Create the web app's tables, in a database of our own. True when they were not there."""
        async with self._engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                await connection.execute(sql.SCHEMA_LOCK)
                if (await connection.execute(sql.WEB_APP_TABLES)).scalar():
                    return False
                await (await _driver_connection(connection)).execute(schema_sql("web_app").encode())
        return True

    # --- a run works on a job ------------------------------------------------------------------------

    async def claim(
        self, job_id: UUID, *, run_id: str, retry_of: Iterable[str] = (), worker: str, seconds: float = LEASE_SECONDS
    ) -> Claim:
        """Take the lease of a job for a run.

        Args:
            retry_of: earlier runs whose lease this run inherits (it retries them).
            worker: who works, for people: host and process id.

        Raises:
            JobNotFoundError: no such row.
            LeaseHeldError: another run is at work; the message names it.
        """
        answer = await self._answer(
            sql.CLAIM_JOB, job_id=job_id, run_id=run_id, retry_of=list(retry_of), worker=worker, seconds=seconds
        )
        if answer is None or answer["outcome"] == "missing":
            raise JobNotFoundError(f"Job {job_id} is not in quel_production_jobs; was it deleted?")
        if answer["outcome"] == "held":
            raise LeaseHeldError(f"Job {job_id}: run {answer['holder']} is at work on {answer['worker']}.")
        return Claim.model_validate({name: answer[name] for name in Claim.model_fields})

    async def renew(self, job_id: UUID, token: int, *, seconds: float = LEASE_SECONDS) -> bool:
        """Prolong the lease from now, by the database's clock. False when it is lost."""
        return bool(await self._rows(sql.RENEW_LEASE, job_id=job_id, token=token, seconds=seconds))

    async def release(self, job_id: UUID, token: int) -> None:
        """Give the lease back, if it is still this one."""
        await self._rows(sql.RELEASE_LEASE, job_id=job_id, token=token)

    async def hand_over(self, job_id: UUID, token: int) -> None:
        """Let the lease run out now, so that another run may claim the job at once."""
        await self._rows(sql.EXPIRE_LEASE, job_id=job_id, token=token)

    async def begin(self, job: Job, token: int, *, claimed_id: UUID | None, price: int) -> Payer | None:
        """Look who pays, and enter `processing`, the production with it (domain.md §3), unless that one cannot.

        Args:
            claimed_id: the member that the input names.
            price: of one picture; with less credit nothing is begun.

        Returns:
            the payer with the balance now; None when there is no such member, and nothing is begun.

        Raises:
            LeaseLostError, JobCancelledError
        """
        row = (
            await self._rows(
                sql.BEGIN_JOB,
                job_id=job.job_id,
                token=token,
                claimed_id=claimed_id,
                job_member_id=job.member_id,
                org_id=job.org_id,
                price=price,
            )
        )[0]
        match row.answer:
            case None | "begun":
                return _payer(row)
            case "cancelled":
                raise JobCancelledError(f"Job {job.job_id} was cancelled by the user.")
            case _:
                raise LeaseLostError(f"Job {job.job_id}: this run no longer holds its lease.")

    async def commit_picture(
        self, job_id: UUID, token: int, *, member_id: UUID, key: str, size: int, storage: str, price: int, total: int
    ) -> Committed:
        """Attach row, charge, ledger row and progress in one transaction; nothing at all for a taken slot.

        Args:
            key: storage key of the uploaded picture; it names the slot.
            size: bytes.
            total: pictures that the job plans; the job never gets more.

        Raises:
            LeaseLostError, JobCancelledError, InsufficientCreditsError
        """
        answer = await self._answer(
            sql.COMMIT_PICTURE,
            job_id=job_id,
            token=token,
            member_id=member_id,
            key=key,
            size=size,
            storage=storage,
            price=price,
            total=total,
        )
        match answer["outcome"]:
            case "stored":
                return Committed(
                    attach_id=answer["attach_id"], completed=answer["completed"], balance=answer["balance"]
                )
            case "taken":
                return Committed(attach_id=answer["attach_id"], completed=answer["completed"], taken=True)
            case "cancelled":
                raise JobCancelledError(f"Job {job_id} was cancelled by the user.")
            case "insufficient":
                raise InsufficientCreditsError(
                    f"The {answer['payer']} has fewer than {price} credits left; add credits and run the job again."
                )
            case "full":
                raise QuelError(f"Job {job_id} already has its {total} pictures; this one is not needed.")
            case "not_processing":
                raise LeaseLostError(f"Job {job_id} is {answer['status']} by now; nothing more is written.")
            case _:
                raise LeaseLostError(f"Job {job_id}: this run no longer holds its lease.")

    async def settle(
        self, job_id: UUID, token: int, *, status: JobStatus, total: int, error: str | None, inputs: int
    ) -> Settled:
        """End the job and its production, and give the lease back (domain.md §3).

        `status` is what the run concluded; a user's cancel and the pictures really there have the last word.

        Args:
            total: planned pictures. inputs: distinct reference pictures of the job.

        Raises:
            LeaseLostError
        """
        answer = await self._answer(
            sql.SETTLE_JOB,
            job_id=job_id,
            token=token,
            status=status.value,
            total=total,
            error=error,
            inputs=inputs,
        )
        if answer["outcome"] != "settled":
            raise LeaseLostError(f"Job {job_id}: this run no longer holds its lease.")
        return Settled.model_validate({name: answer[name] for name in Settled.model_fields})

    async def keep_cancel(self, job_id: UUID) -> None:
        """Keep the user's cancel for good; nothing is committed for this job after this returns."""
        await self._rows(sql.KEEP_CANCEL, job_id=job_id)

    async def payer(self, *, claimed_id: UUID | None, job: Job) -> Payer | None:
        """Who would pay now, with the balance now; None when there is no such member."""
        return _payer(
            (await self._rows(sql.PAYER, claimed_id=claimed_id, job_member_id=job.member_id, org_id=job.org_id))[0]
        )

    async def find_attaches(self, attach_ids: Sequence[int]) -> dict[int, Attach]:
        """The rows of quel_attach that exist, by id."""
        rows = await self._rows(sql.FIND_ATTACHES, attach_ids=list(attach_ids))
        return {row.attach_id: Attach(**row._mapping) for row in rows}

    # --- jobs that nobody works on -------------------------------------------------------------------

    async def end_abandoned(
        self, job_id: UUID, *, status: JobStatus, error: str, run_ids: Iterable[str] = ()
    ) -> Settled | None:
        """End an open job that nobody works on. None when it has ended, is gone, or another run is at work on it.

        Args:
            status: `failed` or `cancelled`; a user's cancel and the pictures really there have the last word.
            run_ids: dead runs, whose leases do not count.
        """
        answer = await self._answer(
            sql.END_ABANDONED_JOB, job_id=job_id, run_ids=list(run_ids), status=status.value, error=error
        )
        if answer["outcome"] != "settled":
            return None
        return Settled.model_validate({name: answer[name] for name in Settled.model_fields})

    async def open_jobs(self, *, most: int = 10_000) -> list[UUID]:
        """Jobs that wait or are worked on, oldest first."""
        return [row.job_id for row in await self._rows(sql.OPEN_JOBS, most=most)]

    async def stranded_jobs(self, *, pending_seconds: float, grace_seconds: float, most: int = 500) -> list[UUID]:
        """Open jobs that nobody seems to work on; whether one waits in a queue has to be looked up there.

        Args:
            pending_seconds: how long a job may be pending before it is suspicious.
            grace_seconds: how long after a lease ran out its job is left to run retries.
        """
        rows = await self._rows(sql.STRANDED_JOBS, seconds=pending_seconds, grace=grace_seconds, most=most)
        return [row.job_id for row in rows]

    async def count_recovery(self, job_id: UUID) -> int:
        """Note that a stranded job is pushed again; returns how often that was within 72 hours."""
        return int(await self._answer(sql.COUNT_RECOVERY, job_id=job_id))

    # --- looking -------------------------------------------------------------------------------------

    async def describe_jobs(self, job_ids: Sequence[UUID]) -> dict[UUID, JobDescription]:
        """What runs are tagged with, for the ids that exist."""
        rows = await self._rows(sql.DESCRIBE_JOBS, job_ids=list(job_ids))
        return {row.job_id: JobDescription(**row._mapping) for row in rows}

    async def find_job(self, job_id: UUID) -> Job:
        """One job, without claiming it.

        Raises:
            JobNotFoundError: no such row.
        """
        rows = await self._rows(sql.FIND_JOB, job_id=job_id)
        if not rows:
            raise JobNotFoundError(f"Job {job_id} is not in quel_production_jobs; was it deleted?")
        return Job(**rows[0]._mapping)

    async def report(self, job_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """Status rows as `quel status` shows them, for the ids that exist."""
        rows = await self._rows(sql.JOB_REPORT, job_ids=list(job_ids))
        return {row.job_id: dict(row._mapping) for row in rows}

    async def pictures(self, job_id: UUID) -> list[dict[str, Any]]:
        """The generated pictures of a job in order, each with its attach row and its charge."""
        return [dict(row._mapping) for row in await self._rows(sql.JOB_PICTURES, job_id=job_id)]

    async def list_jobs(
        self,
        *,
        statuses: Iterable[JobStatus] = (),
        category: Category | None = None,
        member_id: UUID | None = None,
        org_id: UUID | None = None,
        since: datetime | None = None,
        most: int = 20,
    ) -> list[dict[str, Any]]:
        """Jobs, newest first; a filter that is not given lets everything pass."""
        rows = await self._rows(
            sql.LIST_JOBS,
            statuses=[status.value for status in statuses] or None,
            category=category.value if category else None,
            member_id=member_id,
            org_id=org_id,
            since=since,
            most=most,
        )
        return [dict(row._mapping) for row in rows]

    async def job_file(self, job_id: UUID) -> dict[str, Any]:
        """Everything the database knows of a job: `job` and `production` (whole rows), `organization`, `member`,
        `lease`, `cancel_kept_at`, `recovered_at`.

        Raises:
            JobNotFoundError: no such row.
        """
        rows = await self._rows(sql.JOB_FILE, job_id=job_id)
        if not rows:
            raise JobNotFoundError(f"Job {job_id} is not in quel_production_jobs; was it deleted?")
        return dict(rows[0]._mapping)

    async def unit_outcomes(self, run_ids: Iterable[str]) -> list[dict[str, Any]]:
        """What the generate steps of these runs said, oldest first: `run_id`, `outcome` (without the pictures made)."""
        return [dict(row._mapping) for row in await self._rows(sql.UNIT_OUTCOMES, run_ids=list(run_ids))]

    # --- is this the database that we need? ----------------------------------------------------------

    async def server_facts(self) -> Mapping[str, Any]:
        """Version, role, clock, connections, and whether anything may be written."""
        return dict((await self._rows(sql.SERVER_FACTS))[0]._mapping)

    async def own_schema_is_current(self) -> bool:
        """Whether schema quel_dagster is installed as this version wants it, or newer."""
        return _installed_is_current((await self._rows(sql.SCHEMA_COMMENT))[0][0], _wanted_schema())

    async def columns(self, tables: Iterable[str]) -> dict[str, dict[str, str]]:
        """Name and type of the columns of those tables of schema public that exist, by table."""
        found: dict[str, dict[str, str]] = {}
        for row in await self._rows(sql.TABLE_COLUMNS, tables=list(tables)):
            found.setdefault(row.table_name, {})[row.column_name] = row.type
        return found

    async def enums(self) -> dict[str, list[str]]:
        """The labels of every enum of schema public."""
        return {row.enum_name: list(row.labels) for row in await self._rows(sql.ENUM_LABELS)}

    async def privileges(self, tables: Iterable[str]) -> dict[str, tuple[frozenset[str], bool]]:
        """For each of those tables that exists: `select`, `insert`, `update` as granted, and whether row security
        hides rows from us."""
        rows = await self._rows(sql.TABLE_PRIVILEGES, tables=list(tables))
        return {row.table_name: (frozenset(row.granted), row.filtered) for row in rows}

    async def balances(self, *, org_id: UUID | None = None, member_id: UUID | None = None) -> Mapping[str, int | None]:
        """`org_credit` and `member_credit` now."""
        return dict((await self._rows(sql.BALANCES, org_id=org_id, member_id=member_id))[0]._mapping)

    # --- what the web app does -----------------------------------------------------------------------

    async def insert_job(self, job: NewJob, *, price: int) -> tuple[UUID, UUID]:
        """Insert a production and its job as the web app does; returns (job id, production id)."""
        staged = job.job_type == "pipeline_stage"
        async with self._engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                production_id = (
                    await connection.execute(
                        sql.INSERT_PRODUCTION,
                        {
                            "member_id": job.member_id,
                            "name": job.name,
                            "job_type": job.job_type,
                            "stage_count": job.stage_count,
                            "total_images": job.total_images,
                            "path": job.path,
                        },
                    )
                ).scalar_one()
                job_id = (
                    await connection.execute(
                        sql.with_json(sql.INSERT_JOB, "input_data"),
                        {
                            "production_id": production_id,
                            "job_type": job.job_type,
                            "stage_index": 0 if staged else None,
                            "stage_name": job.name if staged else None,
                            "batch_index": None if staged else 0,
                            "total_images": job.total_images,
                            "input_data": job.input_data,
                            "member_id": job.member_id,
                            "org_id": job.org_id,
                            "estimated_credits": max(0, job.total_images) * price,
                            "path": job.path,
                        },
                    )
                ).scalar_one()
        return job_id, production_id

    async def member_by_email(self, email: str) -> UUID | None:
        rows = await self._rows(sql.FIND_MEMBER_BY_EMAIL, email=email)
        return rows[0][0] if rows else None

    async def insert_member(self, *, email: str, name: str, credit: int) -> UUID:
        return UUID(str((await self._rows(sql.INSERT_MEMBER, email=email, name=name, credit=credit))[0][0]))

    async def insert_organization(self, *, name: str, credit: int, owner_id: UUID) -> UUID:
        org_id = (await self._rows(sql.INSERT_ORGANIZATION, name=name, credit=credit, owner_id=owner_id))[0][0]
        await self._rows(sql.INSERT_ORGANIZATION_MEMBER, org_id=org_id, member_id=owner_id)
        return UUID(str(org_id))

    async def insert_attach(self, *, name: str, path: str, size: int, mime_type: str, storage: str) -> int:
        """An uploaded picture's row, as the web app writes it."""
        row = await self._rows(sql.INSERT_ATTACH, name=name, path=path, size=size, mime_type=mime_type, storage=storage)
        return int(row[0][0])

    async def start_attach_ids_at(self, first: int) -> None:
        """Let the identity of quel_attach go on from `first`, in a database of our own."""
        async with self._engine.connect() as connection:
            await connection.exec_driver_sql(sql.START_ATTACH_IDS_AT.format(first=first))

    # --- values between ops --------------------------------------------------------------------------

    async def write_op_output(self, *, run_id: str, step_key: str, output: str, mapping_key: str, value: Any) -> None:
        await self._rows(
            sql.with_json(sql.WRITE_OP_OUTPUT, "value"),
            run_id=run_id,
            step_key=step_key,
            output=output,
            mapping_key=mapping_key,
            value=value,
        )

    async def read_op_output(self, *, run_id: str, step_key: str, output: str, mapping_key: str) -> Any:
        """Raises QuelError when nothing was written under this name."""
        rows = await self._rows(
            sql.READ_OP_OUTPUT, run_id=run_id, step_key=step_key, output=output, mapping_key=mapping_key
        )
        if not rows:
            raise QuelError(f"Run {run_id} has no stored output {output!r} of {step_key}; run the whole job again.")
        return rows[0][0]


def _payer(row: Row[Any]) -> Payer | None:
    if row.member_id is None:
        return None
    balance = row.member_credit if row.org_id is None else row.org_credit
    return Payer(member_id=row.member_id, org_id=row.org_id, balance=balance or 0)


def _connection_broke(error: BaseException) -> bool:
    """A lost connection or a server that is starting or stopping; never a statement that is wrong."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, ConnectionError)
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    state = getattr(error.orig, "sqlstate", None)
    # no SQLSTATE: the connection itself failed. Class 08: connection; 57P: shutdown; 40: deadlock, serialization
    return isinstance(error, OperationalError) and (state is None or state[:2] in {"08", "40"} or state[:3] == "57P")


def _wanted_schema() -> str:
    """What the comment on schema quel_dagster says when it is installed as this version wants it."""
    return f"quel_dagster {SCHEMA_VERSION} {hashlib.sha256(schema_sql('quel_dagster').encode()).hexdigest()}"


def _installed_is_current(installed: str | None, wanted: str) -> bool:
    if installed is None or not installed.startswith("quel_dagster "):
        return False
    return installed == wanted or int(installed.split()[1]) > int(wanted.split()[1])


async def _driver_connection(connection: Any) -> Any:
    """The psycopg connection below: a script of several statements needs its simple protocol."""
    return (await connection.get_raw_connection()).driver_connection
