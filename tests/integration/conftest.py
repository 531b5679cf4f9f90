"""A real PostgreSQL and a real Redis for each test process, and the people and jobs of one test.

Nothing is ever emptied in PostgreSQL: every test makes members, organizations and jobs of its own and looks at those
alone. Redis is flushed before each test that asks for it, as its keys have fixed names.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from psycopg.rows import dict_row

from quel_dagster.adapters.database.records import Claim, Committed, NewJob, Reserved, Taken, Wait
from quel_dagster.adapters.database.statements import RENEW_LEASES
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.work import LEASE_SECONDS
from quel_dagster.adapters.queue import AGAIN, JobQueue
from quel_dagster.errors import QuelError
from quel_dagster.jobs.model import Slot
from quel_dagster.jobs.storage_keys import new_picture_key
from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.stack import Stack
from quel_dagster.settings import Settings

PRICE = 20
GEMINI_KEY = "canary-key-of-these-tests"

T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], *, seconds: float = 20.0, pause: float = 0.01) -> T:
    """What `look` says once it says something; fails when that takes too long."""
    async with asyncio.timeout(seconds):
        while True:
            if seen := await look():
                return seen
            await asyncio.sleep(pause)


def claim(queue: JobQueue, limit: int = 1000) -> int:
    """Claim waiting ids in their order, `jobs:again` first; returns how many entries were moved."""
    return queue.take([*queue.peek(limit, source=AGAIN), *queue.peek(limit)][:limit])


@pytest.fixture(scope="session")
def endpoints() -> Iterator[Endpoints]:
    """PostgreSQL, with the web app's tables and our schema, and Redis."""
    # not in pytest's own temporary folder: other pytest processes tighten its mode, and PostgreSQL may be another user
    with tempfile.TemporaryDirectory(prefix="quel-tests-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)  # as root, PostgreSQL is another user, and opens no folder by itself
        settings = Settings.read(home=Path(home), workers=1, _env_file=None)
        with Stack(settings, embedded=EmbeddedServers(), only=("postgres", "redis")) as stack:
            without_fsync(stack.endpoints.database_url)
            yield stack.endpoints


def without_fsync(url: str) -> None:
    """Let a PostgreSQL of tests leave it to the kernel when its files are written: no test cuts the power."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("alter system set fsync = off")
        connection.execute("select pg_reload_conf()")


def events_in_one_file(folder: Path) -> dict[str, Any]:
    """Dagster's configuration to keep the events of all runs in one file; by default each run makes a database."""
    return {
        "event_log_storage": {
            "module": "dagster._core.storage.event_log",
            "class": "ConsolidatedSqliteEventLogStorage",
            "config": {"base_dir": str(folder)},
        }
    }


@pytest.fixture
def redis_url(endpoints: Endpoints) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(endpoints.redis_url) as client:
        client.flushdb()
    return endpoints.redis_url


@pytest.fixture
def queue(redis_url: str) -> Iterator[JobQueue]:
    queue = JobQueue(redis_url)
    yield queue
    queue.close()


@pytest.fixture(scope="session")
def _stand_in() -> Iterator[GeminiStandIn]:
    with GeminiStandIn(api_key=GEMINI_KEY, canned=True) as server:
        yield server


@pytest.fixture
def gemini(_stand_in: GeminiStandIn) -> Iterator[GeminiStandIn]:
    """The stand-in Gemini without rules."""
    _stand_in.state.reset()
    yield _stand_in
    _stand_in.state.reset()


@pytest.fixture
def environment(
    endpoints: Endpoints, redis_url: str, gemini: GeminiStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    """The environment variables of a worker of this test, set in this process too; objects lie in a new folder."""
    variables = {
        "DATABASE_URL": endpoints.database_url,
        "REDIS_URL": redis_url,
        "STORAGE_URL": (tmp_path / "objects").as_uri(),
        "GEMINI_BASE_URL": gemini.url,
        "GEMINI_API_KEY": GEMINI_KEY,
        "GEMINI_ATTEMPTS": "2",
        "GEMINI_BACKOFF_SECONDS": "0.01",
        "GEMINI_OUTAGE_HOURS": "0",  # what fails in a test fails at once
        "IMAGE_PER_PRICE": str(PRICE),
        "QUEL_HOME": str(tmp_path),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def database_url(endpoints: Endpoints) -> str:
    return endpoints.database_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.aclose()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Look]:
    """A connection of the test's own, to look at rows and to change them behind the program's back."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield Look(connection)


@pytest.fixture
def office(database: Database, sql: Look) -> Office:
    return Office(database, sql)


@dataclass(frozen=True)
class Look:
    """Statements on one connection."""

    connection: psycopg.AsyncConnection[dict[str, Any]]

    async def all(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        cursor = await self.connection.execute(statement.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []

    async def one(self, statement: str, *parameters: Any) -> dict[str, Any]:
        (row,) = await self.all(statement, *parameters)
        return row

    async def value(self, statement: str, *parameters: Any) -> Any:
        return next(iter((await self.one(statement, *parameters)).values()))

    async def job(self, job_id: UUID) -> dict[str, Any]:
        """The job's row, with the transaction that wrote it last."""
        return await self.one("select *, xmin::text from quel_production_jobs where job_id = %s", job_id)

    async def production(self, production_id: UUID) -> dict[str, Any]:
        return await self.one("select *, xmin::text from quel_production_photo where production_id = %s", production_id)

    async def credit(self, *, member_id: UUID | None = None, org_id: UUID | None = None) -> int:
        """The balance of an organization, else of a member."""
        if org_id:
            return int(await self.value("select org_credit from quel_organization where org_id = %s", org_id))
        return int(await self.value("select quel_member_credit from quel_member where quel_member_id = %s", member_id))

    async def ledger(self, *, member_id: UUID | None = None, org_id: UUID | None = None) -> list[dict[str, Any]]:
        """The DEDUCT rows of one payer, in the order of their time."""
        if org_id:
            return await self.all("select * from quel_credits where org_id = %s order by created_at", org_id)
        return await self.all(
            "select * from quel_credits where org_id is null and user_id = %s order by created_at", member_id
        )


@dataclass
class NewlyMade:
    """A job of this test, as the web app inserted it."""

    job_id: UUID
    production_id: UUID
    member_id: UUID
    org_id: UUID | None
    total: int


@dataclass
class Office:
    """Makes the people and jobs of one test, and knows what they had at first."""

    database: Database
    sql: Look
    opening: dict[UUID, int] = field(default_factory=dict)

    async def member(self, credit: int = 1000) -> UUID:
        member_id = await self.database.web_app.insert_member(
            email=f"{uuid4().hex}@example.org", name="Mina", credit=credit
        )
        self.opening[member_id] = credit
        return member_id

    async def organization(self, owner_id: UUID, credit: int = 1000) -> UUID:
        org_id = await self.database.web_app.insert_organization(name="Atelier", credit=credit, owner_id=owner_id)
        self.opening[org_id] = credit
        return org_id

    async def job(
        self,
        total: int = 4,
        *,
        member_id: UUID | None = None,
        org_id: UUID | None = None,
        job_type: str = "simple_general",
        path: str = "fashion",
        input_data: Any = None,
        credit: int = 1000,
    ) -> NewlyMade:
        """A pending job; of a member of its own unless one is given."""
        member_id = member_id or await self.member(credit)
        job_id, production_id = await self.database.web_app.insert_job(
            NewJob(
                job_type=job_type,
                total_images=total,
                input_data={"prompt": "a red dress", "userId": str(member_id)} if input_data is None else input_data,
                path=path,
                member_id=member_id,
                org_id=org_id,
                name="Test",
            ),
            price=PRICE,
        )
        return NewlyMade(job_id, production_id, member_id, org_id, total)

    async def into_production_of(self, other: NewlyMade, made: NewlyMade) -> NewlyMade:
        """Put a job into the production of another one: a production may have several."""
        await self.sql.all(
            "update quel_production_jobs set production_id = %s where job_id = %s", other.production_id, made.job_id
        )
        await self.sql.all("delete from quel_production_photo where production_id = %s", made.production_id)
        made.production_id = other.production_id
        return made

    async def processing(self, job: NewlyMade, *, run_id: str = "run-1", retry_of: tuple[str, ...] = ()) -> Claim:
        """Claim a job and enter `processing`."""
        claim = await self.claim(job, run_id=run_id, retry_of=retry_of)
        await self.database.work.begin(job.job_id, claim.token, price=0)
        return claim

    async def claim(self, job: NewlyMade, *, run_id: str = "run-1", retry_of: tuple[str, ...] = ()) -> Claim:
        claim = await self.database.work.claim(job.job_id, run_id=run_id, retry_of=retry_of, worker="test:1")
        assert claim is not None
        return claim

    async def renew(self, job: NewlyMade, claim: Claim) -> bool:
        """Renew the lease as the engine does; returns whether it is still this one."""
        held = {"job_ids": [job.job_id], "tokens": [claim.token], "seconds": LEASE_SECONDS}
        return bool(await self.database.ask(RENEW_LEASES, **held))

    async def commit(
        self,
        job: NewlyMade,
        claim: Claim,
        number: int,
        *,
        unit: int = 0,
        database: Database | None = None,
        total: int | None = None,
        price: int = PRICE,
        key: str | None = None,
    ) -> Committed:
        """Reserve one slot, unless `key` is that of a reservation, and commit its picture, as the engine does."""
        database = database or self.database
        slot = Slot(unit=unit, number=number)
        key = key or await self.reserve(job, claim, slot, database=database, price=price)
        try:
            return await database.work.commit_picture(
                job.job_id,
                claim.token,
                slot,
                key=key,
                size=1234,
                sha256="00" * 32,
                storage="file",
                price=price,
                total=job.total if total is None else total,
            )
        except QuelError:
            await database.work.release_slot(job.job_id, claim.token, slot, stored=False)
            raise

    async def reserve(
        self, job: NewlyMade, claim: Claim, slot: Slot, *, database: Database | None = None, price: int = PRICE
    ) -> str:
        """Reserve a slot; returns its storage key, or that of the picture that fills it."""
        key = new_picture_key(job.member_id, job.job_id, slot)

        async def reserved() -> Reserved | Taken | None:
            answer = await (database or self.database).work.reserve(job.job_id, claim.token, slot, key=key, price=price)
            return None if isinstance(answer, Wait) else answer

        answer = await eventually(reserved, seconds=120, pause=0.2)
        if isinstance(answer, Reserved):
            return key
        filled: str = await self.sql.value(
            "select attach_file_path from quel_attach where attach_id = %s", answer.attach_id
        )
        return filled

    async def foreign_picture(self, job: NewlyMade, name: str | None = None) -> int:
        """A picture as an older worker left it: a name of its own, in the job's list, charged."""
        name = name or f"generated_{uuid4().hex}.webp"
        key = f"generated-images/user-{job.member_id}/{name}"
        attach_id: int = await self.sql.value(
            "insert into quel_attach (attach_original_name, attach_file_name, attach_file_path, attach_directory,"
            " attach_file_type, attach_storage_type, attach_file_size)"
            " values (%s, %s, %s, %s, 'image/webp', 'supabase', 7) returning attach_id",
            name,
            name,
            key,
            key,
        )
        await self.sql.all(
            "update quel_production_jobs set completed_images = completed_images + 1,"
            " generated_attach_ids = generated_attach_ids || to_jsonb(%s::bigint) where job_id = %s",
            attach_id,
            job.job_id,
        )
        return attach_id

    # --- what must hold ------------------------------------------------------------------------------

    async def check_books(self, *jobs: NewlyMade) -> None:
        """The books of these jobs and of everybody who could have paid for them; see each assertion."""
        for job in jobs:
            await self._check_job(job)
        for member_id in {job.member_id for job in jobs}:
            balance = await self.sql.value(
                "select quel_member_credit from quel_member where quel_member_id = %s", member_id
            )
            self._check_ledger(self.opening[member_id], balance, await self.sql.ledger(member_id=member_id))
        for org_id in {job.org_id for job in jobs if job.org_id}:
            balance = await self.sql.value("select org_credit from quel_organization where org_id = %s", org_id)
            self._check_ledger(self.opening[org_id], balance, await self.sql.ledger(org_id=org_id))

    async def _check_job(self, job: NewlyMade) -> None:
        row = await self.sql.job(job.job_id)
        ids = row["generated_attach_ids"]
        assert len(set(ids)) == len(ids), "an id is in the job's list twice"
        assert row["completed_images"] == len(ids), "the progress counter is not the number of pictures"
        assert len(ids) <= job.total, "more pictures than planned"
        attaches = await self.sql.all(
            "select attach_id, attach_file_path from quel_attach where attach_file_name like %s order by attach_id",
            f"{job.job_id}%",
        )
        keys = [attach["attach_file_path"] for attach in attaches]
        assert len(set(keys)) == len(keys), "a slot has two attach rows"
        ours = {attach["attach_id"]: attach["attach_file_path"] for attach in attaches}
        assert set(ours) <= set(ids), "a picture that the job does not know"
        in_order = [ours[attach_id] for attach_id in ids if attach_id in ours]
        assert in_order == sorted(in_order), "the ids are not in the order of the slots"
        charges = await self.sql.all(
            "select attach_idx, amount, production_idx from quel_credits where attach_idx = any(%s)", list(ours)
        )
        assert sorted(charge["attach_idx"] for charge in charges) == sorted(ours), "not one charge for each picture"
        assert {charge["production_idx"] for charge in charges} <= {job.production_id}

    @staticmethod
    def _check_ledger(opening: int, balance: int, ledger: list[dict[str, Any]]) -> None:
        running = opening
        for entry in ledger:
            running += entry["amount"]
            assert entry["balance_after"] == running, "balance_after is not the running sum"
            assert entry["transaction_type"] == "DEDUCT"
        assert balance == running, "the balance is not what the ledger says"
        assert balance >= 0, "the balance went below zero"
