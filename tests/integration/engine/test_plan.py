"""The plan decides which pictures are made, not the steps that ran (domain.md §3, §4)."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from quel_dagster.adapters.database.statements import MOST_DEATHS_ELSEWHERE
from quel_dagster.engine.engine import Engine
from quel_dagster.engine.session import JobSession
from quel_dagster.jobs.model import JobStatus
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from tests.integration.conftest import Look, NewlyMade, Office
from tests.integration.engine.conftest import combinations, run_job, stages

_BY_ANOTHER_PROCESS = text("update quel_dagster.job_lease set worker = :process where run_id = :run_id")


async def abandoned(engine: Engine, session: JobSession, process: str = "") -> None:
    """The process of this session dies, one of its own unless `process` is given: nothing is settled or given back."""
    await engine.dependencies.database.work._database.execute(
        _BY_ANOTHER_PROCESS, process=process or f"dead:{uuid4().hex}", run_id=session.run_id
    )
    session._renewer.stop()
    await session.stop.aclose()
    engine._sessions.pop(session.run_id)


async def died_after(engine: Engine, job: NewlyMade, units: int, *, run_id: str = "run-1") -> None:
    """Make some units of a job in a run, then end its process."""
    session = await engine.session(job.job_id, run_id=run_id)
    planned = await session.plan(lambda _line: None)
    for unit in planned.units[:units]:
        await session.make(unit, lambda _line: None)
    await abandoned(engine, session)


@pytest.mark.parametrize("begun", [0, 1, 3])
async def test_a_retry_makes_pictures_of_steps_that_never_began(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, begun: int
) -> None:
    job = await office.job(10, job_type="single_batch", input_data=combinations(*[1] * 10))
    await died_after(engine, job, begun)

    retry = await engine.session(job.job_id, run_id="run-2", retry_of=("run-1",))
    outcome, outcomes = await retry.settle([], lambda _line: None)
    await engine.close_session("run-2")

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["error_message"]) == ("completed", 10, None)
    assert (outcome.status, outcome.made_now) == (JobStatus.COMPLETED, 10 - begun)
    assert gemini.state.report()["total"] == 10, "no picture is asked for twice"
    assert [len(unit.made) for unit in outcomes] == [1] * (10 - begun)
    await office.check_books(job)


async def test_units_that_were_left_out_by_config_are_not_made_by_settle(
    office: Office, sql: Look, engine: Engine
) -> None:
    job = await office.job(2, job_type="pipeline_stage", path="cinema", input_data=stages(1, 1))
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None, only=["stage0"])
    outcomes = [await session.make(unit, lambda _line: None) for unit in planned.units]
    await session.settle(outcomes, lambda _line: None, planned.left_out)
    await engine.close_session("run-1")

    row = await sql.job(job.job_id)
    assert (row["completed_images"], row["failed_images"]) == (1, 1)
    assert "stage1" in row["error_message"]


async def test_a_job_never_ends_completed_with_fewer_pictures_and_no_word(office: Office, sql: Look) -> None:
    job = await office.job(4)
    claim = await office.processing(job)
    await office.commit(job, claim, 0)
    await office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.COMPLETED, total=4, error=None, inputs=0
    )
    assert "3 of 4 pictures are missing" in (await sql.job(job.job_id))["error_message"]


async def test_a_list_emptied_in_mid_run_costs_no_picture_and_no_charge(
    office: Office, sql: Look, engine: Engine
) -> None:
    job = await office.job(4, job_type="pipeline_stage", path="cinema", input_data=stages(2, 2))
    await died_after(engine, job, 1)
    await sql.all("update quel_production_jobs set generated_attach_ids = '[]' where job_id = %s", job.job_id)

    await run_job(engine, job, retry_of=("run-1",))

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["error_message"]) == ("completed", 4, None)
    assert len(await sql.ledger(member_id=job.member_id)) == 4
    await office.check_books(job)


async def test_a_row_set_to_cancelled_in_mid_run_ends_cancelled(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(4, job_type="pipeline_stage", path="cinema", input_data=stages(2, 2))
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    first = await session.make(planned.units[0], lambda _line: None)
    await sql.all("update quel_production_jobs set job_status = 'cancelled' where job_id = %s", job.job_id)
    second = await session.make(planned.units[1], lambda _line: None)
    await session.settle([first, second], lambda _line: None)
    await engine.close_session("run-1")

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("cancelled", 2, 0)
    assert gemini.state.report()["total"] == 2


async def test_pictures_that_a_cancel_prevented_are_not_failed(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(3, job_type="pipeline_stage", path="cinema", input_data=stages(1, 2))
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    first = await session.make(planned.units[0], lambda _line: None)
    await office.database.work.keep_cancel(job.job_id)
    second = await session.make(planned.units[1], lambda _line: None)
    await session.settle([first, second], lambda _line: None)
    await engine.close_session("run-1")

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("user_cancelled", 1, 0)
    assert "failed" not in row["error_message"]


async def test_an_operators_cancel_ends_the_job_cancelled_and_a_rerun_makes_the_rest(
    office: Office, sql: Look, engine: Engine
) -> None:
    job = await office.job(2, job_type="pipeline_stage", path="cinema", input_data=stages(1, 1))
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    await session.make(planned.units[0], lambda _line: None)
    await office.database.work.keep_cancel(job.job_id, actor="mina", reason="wrong brief")
    await session.settle([await session.make(planned.units[1], lambda _line: None)], lambda _line: None)
    await engine.close_session("run-1")

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("cancelled", 1)
    assert "operator mina: wrong brief" in row["error_message"]

    await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["error_message"]) == ("completed", 2, None)
    await office.check_books(job)


# --- deaths ----------------------------------------------------------------------------------------------


async def test_a_job_that_makes_progress_outlives_any_number_of_deaths(
    office: Office, sql: Look, engine: Engine
) -> None:
    job = await office.job(8, job_type="single_batch", input_data=combinations(*[1] * 8))
    for death in range(7):
        session = await engine.session(job.job_id, run_id=f"run-{death}", retry_of=(f"run-{death - 1}",))
        planned = await session.plan(lambda _line: None)
        await session.make(planned.units[death], lambda _line: None)
        await abandoned(engine, session)

    await run_job(engine, job, retry_of=("run-6",))

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["error_message"]) == ("completed", 8, None)
    await office.check_books(job)


async def test_three_deaths_without_a_new_picture_fail_the_job(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(2)
    for death in range(3):
        session = await engine.session(job.job_id, run_id=f"run-{death}", retry_of=(f"run-{death - 1}",))
        await abandoned(engine, session)

    run = await run_job(engine, job, retry_of=("run-2",))

    assert run.error is not None
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("failed", 0)
    assert "3 worker processes in a row died with this job" in row["error_message"]
    assert gemini.state.report()["total"] == 0


async def test_deaths_with_a_failing_machine_give_no_job_up(office: Office, sql: Look, engine: Engine) -> None:
    """Other processes die meanwhile, with other jobs."""
    job, *others = [await office.job(1) for _ in range(6)]
    for death, other in enumerate(others):
        for each in (job, other):
            session = await engine.session(each.job_id, run_id=f"{each.job_id}-{death}", retry_of=_before(each, death))
            await abandoned(engine, session)
        await run_job(engine, other, retry_of=_before(other, death + 1))

    await run_job(engine, job, retry_of=_before(job, len(others)))

    assert [(await sql.job(each.job_id))["job_status"] for each in (job, *others)] == ["completed"] * 6


async def test_job_that_kills_its_process_while_others_die_too_is_given_up_later(
    office: Office, sql: Look, engine: Engine
) -> None:
    job, other = await office.job(1), await office.job(1)
    for death in range(MOST_DEATHS_ELSEWHERE):
        for each in (job, other)[: 2 if death == 1 else 1]:
            session = await engine.session(each.job_id, run_id=f"{each.job_id}-{death}", retry_of=_before(each, death))
            await abandoned(engine, session)
        if death == 1:
            await run_job(engine, other, retry_of=_before(other, 2))

    await run_job(engine, job, retry_of=_before(job, MOST_DEATHS_ELSEWHERE))

    row = await sql.job(job.job_id)
    assert row["job_status"] == "failed"
    assert f"{MOST_DEATHS_ELSEWHERE} worker processes in a row died with this job" in row["error_message"]


async def test_second_claim_by_a_living_process_counts_no_death(office: Office, sql: Look, engine: Engine) -> None:
    """Its run was taken for dead while PostgreSQL was unreachable, say."""
    job = await office.job(1)
    for number in range(4):
        session = await engine.session(job.job_id, run_id=f"run-{number}", retry_of=(f"run-{number - 1}",))
        session._renewer.stop()
    await run_job(engine, job, retry_of=("run-3",))
    assert (await sql.job(job.job_id))["job_status"] == "completed"


def _before(job: NewlyMade, death: int) -> tuple[str, ...]:
    return (f"{job.job_id}-{death - 1}",)


async def test_a_job_given_up_starts_without_deaths_when_it_is_run_again(
    office: Office, sql: Look, engine: Engine
) -> None:
    job = await office.job(1)
    for death in range(3):
        session = await engine.session(job.job_id, run_id=f"run-{death}", retry_of=(f"run-{death - 1}",))
        await abandoned(engine, session)
    await run_job(engine, job, retry_of=("run-2",))

    await run_job(engine, job)

    assert (await sql.job(job.job_id))["job_status"] == "completed"


async def test_hand_overs_count_no_death(office: Office, sql: Look, engine: Engine) -> None:
    job = await office.job(1)
    for number in range(5):
        session = await engine.session(job.job_id, run_id=f"run-{number}")
        session.drain()
        await engine.close_session(f"run-{number}")
    assert await sql.all("select 1 from quel_dagster.job_death where job_id = %s", job.job_id) == []


async def test_a_job_that_two_processes_died_with_is_tried_alone(office: Office, sql: Look, engine: Engine) -> None:
    suspects = [await office.job(1) for _ in range(2)]
    for death in range(2):
        process = f"dead:{uuid4().hex}"
        for job in suspects:
            retried = (f"{job.job_id}-{death - 1}",)
            session = await engine.session(job.job_id, run_id=f"{job.job_id}-{death}", retry_of=retried)
            await abandoned(engine, session, process)
    first = await engine.session(suspects[0].job_id, run_id="one", retry_of=(f"{suspects[0].job_id}-1",))
    assert await on_probation(sql) == {suspects[0].job_id}

    waiting = asyncio.create_task(
        engine.session(suspects[1].job_id, run_id="two", retry_of=(f"{suspects[1].job_id}-1",))
    )
    done, _ = await asyncio.wait([waiting], timeout=1.0)
    assert not done, "two suspects are at work at once, so that one death would count for both"

    planned = await first.plan(lambda _line: None)
    await first.make(planned.units[0], lambda _line: None)
    await engine.close_session("one")
    await asyncio.wait_for(waiting, 30)
    assert await on_probation(sql) == {suspects[1].job_id}
    await engine.close_session("two")


async def on_probation(sql: Look) -> set[UUID]:
    rows = await sql.all("select job_id from quel_dagster.job_lease where probation and expires_at > clock_timestamp()")
    return {row["job_id"] for row in rows}
