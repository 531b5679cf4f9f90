"""Connections that are cut: a call is tried again on another one, and nothing is done twice."""

from __future__ import annotations

import asyncio
import random
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError

from quel_dagster.adapters.database.records import Committed
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.errors import SettingsError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.sandbox.endpoints import Endpoints
from tests.integration.conftest import Look, Office, eventually

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
            office.database.settle(job.job_id, claim.token, status=JobStatus.COMPLETED, total=1, error=None, inputs=0)
        )
        await sql.all("select pg_terminate_backend(%s)", await waiting_backend(sql))
        await waiting_backend(sql)
        assert (await sql.job(job.job_id))["job_status"] == "processing", "half a settle is there"
        await holder.rollback()

    assert (await asyncio.wait_for(settling, 30)).status is JobStatus.COMPLETED


async def test_a_storm_of_cuts_leaves_every_picture_once(office: Office, sql: Look, endpoints: Endpoints) -> None:
    jobs = [await office.job(total=10) for _ in range(3)]
    claims = [await office.processing(job) for job in jobs]
    databases = [Database(endpoints.database_url) for _ in range(3)]
    rng = random.Random(20261122)  # noqa: S311
    done = asyncio.Event()
    cuts = 0

    async def cut() -> None:
        nonlocal cuts
        while not done.is_set():
            pids = [row["pid"] for row in await sql.all(BACKENDS)]
            if pids:
                await sql.all("select pg_terminate_backend(%s)", rng.choice(pids))
                cuts += 1
            await asyncio.sleep(0.005)

    cutting = asyncio.create_task(cut())
    await asyncio.gather(
        *(
            office.commit(job, claim, number, database=databases[number % 3])
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
    await asyncio.gather(*(office.database.renew(job.job_id, claim.token) for _ in range(5)))
    for row in await sql.all(BACKENDS):
        await sql.all("select pg_terminate_backend(%s)", row["pid"])

    answers = await asyncio.gather(*(office.commit(job, claim, number) for number in range(4)))

    assert all(isinstance(answer, Committed) for answer in answers)
    await office.check_books(job)


async def test_a_database_that_stays_away_is_given_up_in_bounded_time(endpoints: Endpoints) -> None:
    nowhere = Database(endpoints.database_url.replace(f":{endpoints.postgres_port}/", ":1/"), retry_seconds=0.3)
    with pytest.raises(OperationalError) as caught:
        await asyncio.wait_for(nowhere.renew(uuid4(), 1), 30)
    assert str(nowhere.url.url.password) not in str(caught.value)
    await nowhere.aclose()


async def test_a_statement_that_is_wrong_is_not_repeated(database: Database) -> None:
    seen: list[str] = []
    event.listen(database._engine.sync_engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    with pytest.raises(IntegrityError):
        await database.insert_member(email=None, name="", credit=1)  # type: ignore[arg-type]
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
