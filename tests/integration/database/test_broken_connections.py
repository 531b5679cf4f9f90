"""Connections that are cut: a call is tried again on another one, and nothing is done twice."""

from __future__ import annotations

import asyncio
import random
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError

from quel_dagster.adapters.database.outages import is_unreachable
from quel_dagster.adapters.database.records import Committed
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.errors import DatabaseRefusedError, SettingsError
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.services.endpoints import Endpoints
from tests.integration.conftest import Look, Office, eventually

#: A storm ends: on a loaded machine a commit takes longer than the time between two cuts.
MOST_CUTS = 40
#: The backends of the program under test that work for this job: they call a function with its id.
BACKENDS = "select pid from pg_stat_activity where application_name = 'quel_dagster' and pid <> pg_backend_pid()"


async def waiting_backend(sql: Look) -> int:
    """The backend of the program that waits for a lock, once there is one."""
    rows = await eventually(lambda: sql.all(f"{BACKENDS} and wait_event_type = 'Lock'"))
    return int(rows[0]["pid"])


async def test_a_commit_cut_in_the_middle_is_tried_again_and_counted_once(
    office: Office, sql: Look, endpoints: Endpoints
) -> None:
    job = await office.job()
    claim = await office.processing(job)
    async with await psycopg.AsyncConnection.connect(endpoints.database_url) as holder:
        # the payer's row: the transaction has passed all its checks when it comes here
        await holder.execute("select 1 from quel_member where quel_member_id = %s for update", (job.member_id,))
        commit = asyncio.create_task(office.commit(job, claim, 0))
        await sql.all("select pg_terminate_backend(%s)", await waiting_backend(sql))
        await waiting_backend(sql)  # the second attempt
        await holder.rollback()

    committed = await asyncio.wait_for(commit, 30)

    assert committed.completed == 1
    assert not committed.taken
    await office.check_books(job)


async def test_a_settle_cut_in_the_middle_is_tried_again(office: Office, sql: Look, endpoints: Endpoints) -> None:
    job = await office.job(total=1)
    claim = await office.processing(job)
    await office.commit(job, claim, 0)
    async with await psycopg.AsyncConnection.connect(endpoints.database_url) as holder:
        await holder.execute(
            "select 1 from quel_production_photo where production_id = %s for update", (job.production_id,)
        )
        settling = asyncio.create_task(
            office.database.work.settle(
                job.job_id, claim.token, status=JobStatus.COMPLETED, total=1, error=None, inputs=0
            )
        )
        await sql.all("select pg_terminate_backend(%s)", await waiting_backend(sql))
        await waiting_backend(sql)
        assert (await sql.job(job.job_id))["job_status"] == "processing", "half a settle is there"
        await holder.rollback()

    assert (await asyncio.wait_for(settling, 30)).status is JobStatus.COMPLETED


async def test_a_storm_of_cuts_leaves_every_picture_once(office: Office, sql: Look, endpoints: Endpoints) -> None:
    jobs = [await office.job(total=10) for _ in range(3)]
    claims = [await office.processing(job) for job in jobs]
    keys = {
        (claim.token, number): await office.reserve(job, claim, Slot(unit=0, number=number))
        for job, claim in zip(jobs, claims, strict=True)
        for number in range(10)
    }
    databases = [Database(endpoints.database_url) for _ in range(3)]
    rng = random.Random(20261122)  # noqa: S311
    done = asyncio.Event()
    cuts = 0

    async def cut() -> None:
        nonlocal cuts
        while cuts < MOST_CUTS and not done.is_set():
            pids = [row["pid"] for row in await sql.all(BACKENDS)]
            if pids:
                await sql.all("select pg_terminate_backend(%s)", rng.choice(pids))
                cuts += 1
            await asyncio.sleep(0.005)

    cutting = asyncio.create_task(cut())
    await asyncio.gather(
        *(
            office.commit(job, claim, number, database=databases[number % 3], key=keys[claim.token, number])
            for _ in range(3)  # each slot three times over
            for number in range(10)
            for job, claim in zip(jobs, claims, strict=True)
        )
    )
    done.set()
    await cutting

    assert cuts > 3, "nothing was cut, so nothing was shown"
    for job in jobs:
        assert (await sql.job(job.job_id))["completed_images"] == 10
    await office.check_books(*jobs)
    await asyncio.gather(*(database.aclose() for database in databases))


async def test_a_pool_of_dead_connections_is_no_reason_to_fail(office: Office, sql: Look) -> None:
    job = await office.job()
    claim = await office.processing(job)
    await asyncio.gather(*(office.renew(job, claim) for _ in range(5)))
    for row in await sql.all(BACKENDS):
        await sql.all("select pg_terminate_backend(%s)", row["pid"])

    answers = await asyncio.gather(*(office.commit(job, claim, number) for number in range(4)))

    assert all(isinstance(answer, Committed) for answer in answers)
    await office.check_books(job)


async def test_unreachable_database_is_given_up_in_bounded_time(endpoints: Endpoints) -> None:
    nowhere = Database(endpoints.database_url.replace(f":{endpoints.postgres_port}/", ":1/"), retry_seconds=0.3)
    with pytest.raises(OperationalError) as caught:
        await asyncio.wait_for(nowhere.work.release(uuid4(), 1), 30)
    assert str(nowhere.url.url.password) not in str(caught.value)
    await nowhere.aclose()


async def test_a_statement_that_is_wrong_is_not_repeated(database: Database) -> None:
    seen: list[str] = []
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    with pytest.raises(DatabaseRefusedError, match="SQLSTATE 23502"):
        await database.web_app.insert_member(email=None, name="", credit=1)  # type: ignore[arg-type]
    assert len(seen) == 1


@pytest.mark.parametrize("text", ["mysql://u:geheim@h/d", "not a url: geheim", "", "postgresql//geheim"])
def test_a_url_that_is_none_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        DatabaseUrl.parse(text)
    assert "geheim" not in str(caught.value)


def test_a_url_shows_no_password() -> None:
    url = DatabaseUrl.parse("postgres://u:geheim@h:1/d")
    assert str(url) == "postgresql+psycopg://u:***@h:1/d"
    assert "geheim" not in repr(url)


async def test_a_server_that_is_read_only_for_a_while_is_waited_for(fresh_database: str, sql: Look) -> None:
    """A failover: the pooled connections lead to a server that has become a standby (SQLSTATE 25006)."""
    name = fresh_database.rpartition("/")[2]
    database = Database(fresh_database)
    try:
        await sql.all(f"alter database {name} set default_transaction_read_only = on")
        inserting = asyncio.create_task(database.web_app.insert_member(email="a@example.org", name="Mina", credit=1))
        await asyncio.wait([inserting], timeout=1.0)
        assert not inserting.done(), "a refusal that passes was taken for a final one"
        await sql.all(f"alter database {name} set default_transaction_read_only = off")
        assert await asyncio.wait_for(inserting, 60)
    finally:
        await database.aclose()


@pytest.mark.parametrize("state", ["25006", "53300", "53100", "57P01", "57P03", "40P01", "40001", "08006", "58030"])
def test_server_that_cannot_serve_now_is_unreachable(state: str) -> None:
    assert is_unreachable(refusal(state))


@pytest.mark.parametrize("state", ["42501", "42P01", "23505", "P0001", "22003", "25P02"])
def test_a_statement_that_is_refused_is_no_outage(state: str) -> None:
    assert not is_unreachable(refusal(state))


def refusal(state: str) -> DBAPIError:
    """What SQLAlchemy raises for this SQLSTATE."""
    error = psycopg.errors.lookup(state)("no")
    return DBAPIError("select 1", {}, error)
