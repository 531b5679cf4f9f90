"""Ends of a job during its calls, and what no interruption may undo."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import pytest

from quel_dagster.engine.engine import Engine
from quel_dagster.errors import PayerError
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.services.endpoints import Endpoints
from tests.integration.conftest import PRICE, Look, Office, eventually
from tests.integration.engine.conftest import run_job, stages

HANG_SECONDS = 60.0
#: of a call that ends when the test reduces the latency
LONG = 120.0


async def test_payer_that_may_not_pay_ends_the_calls_under_way(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    """The picture of stage 0 finds it out when it is to be charged; that of stage 1 would never end."""
    member = await office.member()
    organization = await office.organization(member)
    job = await office.job(
        2, member_id=member, org_id=organization, job_type="pipeline_stage", path="cinema", input_data=stages(1, 1)
    )
    gemini.state.latency = LONG
    gemini.state.add_rules(Rule(behaviour=Behaviour.HANG, match="scene-1"))
    running = asyncio.create_task(run_job(engine, job))
    await asyncio.to_thread(gemini.state.wait_until, lambda state: state.in_flight == 2, HANG_SECONDS)

    await sql.all("update quel_organization set org_status = 'suspended' where org_id = %s", organization)

    gemini.state.latency = 0.0
    await asyncio.to_thread(gemini.state.wait_until, lambda state: state.in_flight == 0, HANG_SECONDS)
    run = await asyncio.wait_for(running, HANG_SECONDS)
    assert run.session is not None
    assert isinstance(run.session.stop.reason, PayerError)
    assert sorted(each.outcome for each in gemini.state.requests) == ["disconnected", "ok"]
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("failed", 0)
    assert "suspended" in row["error_message"]
    await office.check_books(job)


async def test_commit_that_is_under_way_is_awaited_when_its_step_is_cancelled(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, endpoints: Endpoints
) -> None:
    job = await office.job(1)
    gemini.state.latency = LONG
    session = await engine.session(job.job_id, run_id="run-1")
    (unit,) = (await session.plan(lambda _line: None)).units
    balance = "select quel_member_credit from quel_member where quel_member_id = %s for no key update"
    async with await psycopg.AsyncConnection.connect(endpoints.database_url) as holder:
        making = asyncio.create_task(session.make(unit, lambda _line: None))
        await eventually(lambda: sql.all("select 1 from quel_dagster.picture_slot where job_id = %s", job.job_id))
        await holder.execute(balance, (job.member_id,))
        gemini.state.latency = 0.0
        await eventually(
            lambda: sql.all(
                "select 1 from pg_stat_activity where query like '%%commit_picture%%' and pid <> pg_backend_pid()"
                " and cardinality(pg_blocking_pids(pid)) > 0"
            )
        )
        making.cancel()
        await asyncio.sleep(0)
        await holder.rollback()
    with suppress(asyncio.CancelledError):
        await making
    await asyncio.wait_for(engine.close_session("run-1"), 30)

    row = await sql.job(job.job_id)
    assert row["completed_images"] == 1
    (picture,) = await sql.all(
        "select object_key, attach_id from quel_dagster.picture_slot where job_id = %s", job.job_id
    )
    assert picture["attach_id"] == row["generated_attach_ids"][0]
    assert await engine.dependencies.store.get(picture["object_key"], max_bytes=10**7), "it was taken for an orphan"
    assert [charge["amount"] for charge in await sql.ledger(member_id=job.member_id)] == [-PRICE]
    await office.check_books(job)


@pytest.mark.parametrize(("credit", "calls"), [(3 * PRICE + 5, 3), (PRICE, 1), (6 * PRICE, 6)])
async def test_as_many_calls_as_the_balance_covers(
    office: Office, engine: Engine, gemini: GeminiStandIn, credit: int, calls: int
) -> None:
    job = await office.job(6, credit=credit)

    run = await run_job(engine, job)

    assert (gemini.state.report()["total"], run.ended.completed) == (calls, calls)
    await office.check_books(job)
