"""Stops of a run: the user's cancel, a lost lease, an operator; and the number of concurrent calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import redis

from quel_dagster.adapters.cancel_flags import CANCEL_POLL_SECONDS
from quel_dagster.adapters.database import lease
from quel_dagster.engine.engine import Engine
from quel_dagster.errors import LeaseHeldError, LeaseLostError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.settings import Settings
from tests.integration.conftest import Look, NewlyMade, Office, eventually
from tests.integration.engine.conftest import Run, combinations, run_job, stages

HANG_SECONDS = 60.0
#: of a call that ends when the test reduces the latency
LONG = 120.0


def ask_to_cancel(environment: Mapping[str, str], job: NewlyMade) -> None:
    """As the web app does."""
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        client.set(f"job:{job.job_id}:cancelled", "true", ex=3600)


async def seen(gemini: GeminiStandIn, condition: Any) -> None:
    await asyncio.to_thread(gemini.state.wait_until, condition, HANG_SECONDS)


async def test_a_cancel_in_the_middle_of_a_call_ends_the_call_and_everything_else(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    assert CANCEL_POLL_SECONDS * 2 < 2
    job = await office.job(5, job_type="pipeline_stage", path="cinema", input_data=stages(1, 4))
    gemini.state.add_rules(Rule(behaviour=Behaviour.HANG, match="scene-1"))
    running = asyncio.create_task(run_job(engine, job))

    await seen(gemini, lambda state: state.in_flight == 2)
    await eventually(
        lambda: sql.all("select 1 from quel_production_jobs where job_id = %s and completed_images = 1", job.job_id)
    )

    ask_to_cancel(environment, job)
    await seen(gemini, lambda state: state.in_flight == 0)
    run = await running

    assert {each.outcome for each in gemini.state.requests} == {"ok", "disconnected"}
    row = await sql.job(job.job_id)
    assert row["job_status"] == "user_cancelled"
    assert row["completed_images"] == 1, "what was made is kept"
    assert row["error_message"]
    assert run.ended.status is JobStatus.USER_CANCELLED
    production = await sql.production(job.production_id)
    assert production["production_status"] == "user_cancelled"
    assert production["attach_ids"] == row["generated_attach_ids"]
    total = gemini.state.report()["total"]
    assert total == 3, "no call was begun after the cancel"
    await office.check_books(job)


async def test_a_cancel_before_the_start_makes_nothing(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    job = await office.job(2)
    ask_to_cancel(environment, job)
    run = await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("user_cancelled", 0)
    assert row["completed_at"] is not None
    assert run.ended.status is JobStatus.USER_CANCELLED
    assert gemini.state.report()["total"] == 0
    assert await sql.ledger(member_id=job.member_id) == []


async def test_a_cancel_is_kept_when_its_flag_has_expired(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    job = await office.job(2)
    ask_to_cancel(environment, job)
    await run_job(engine, job)
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        client.flushdb()
    await sql.all("update quel_production_jobs set job_status = 'pending' where job_id = %s", job.job_id)

    run = await run_job(engine, job)

    assert run.ended.status is JobStatus.USER_CANCELLED
    assert (await sql.job(job.job_id))["job_status"] == "user_cancelled"
    assert gemini.state.report()["total"] == 0


async def test_a_cancel_after_the_end_changes_nothing(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    job = await office.job(1)
    await run_job(engine, job)
    before = await sql.job(job.job_id)
    ask_to_cancel(environment, job)
    await run_job(engine, job)
    assert await sql.job(job.job_id) == before
    assert gemini.state.report()["total"] == 1


async def test_unreachable_redis_cancels_nothing(
    office: Office, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    engine = Engine.from_settings(Settings.read(_env_file=None))
    run = await run_job(engine, await office.job(1))
    assert run.ended.status is JobStatus.COMPLETED
    await engine.aclose()


# --- who works on a job ------------------------------------------------------------------------------


async def test_run_without_its_lease_writes_no_more(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a renewal would notice the loss too, before the calls end
    monkeypatch.setattr(lease._Renewal, "add", lambda _all, _lease: None)
    job = await office.job(2)
    gemini.state.latency = LONG
    running = asyncio.create_task(run_job(engine, job, run_id="run-1"))
    await seen(gemini, lambda state: state.in_flight == 2)
    await office.claim(job, run_id="run-2", retry_of=("run-1",))
    before = await sql.job(job.job_id), await sql.production(job.production_id)

    gemini.state.latency = 0.0
    run = await running

    assert isinstance(run.error, LeaseLostError)
    # the first commit stops the job, and with it the other call if that is still under way
    assert any(each.outcome == "ok" for each in gemini.state.requests), "a call itself ended well"
    assert (await sql.job(job.job_id), await sql.production(job.production_id)) == before
    assert await sql.ledger(member_id=job.member_id) == []
    lease_row = await sql.one("select run_id from quel_dagster.job_lease where job_id = %s", job.job_id)
    assert lease_row["run_id"] == "run-2"


async def test_a_lost_lease_cancels_the_calls_under_way(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    job = await office.job(2)
    gemini.state.add_rules(Rule(behaviour=Behaviour.HANG))
    running = asyncio.create_task(run_job(engine, job, run_id="run-1"))
    await seen(gemini, lambda state: state.in_flight == 2)

    await office.claim(job, run_id="run-2", retry_of=("run-1",))

    await seen(gemini, lambda state: state.in_flight == 0)
    run = await asyncio.wait_for(running, HANG_SECONDS)
    assert isinstance(run.error, LeaseLostError)
    assert (await sql.job(job.job_id))["job_status"] == "processing", "the other run's job by now"


async def test_a_job_that_another_run_works_on_is_left_to_it(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(1)
    await office.processing(job, run_id="other")
    before = await sql.job(job.job_id)
    run = await run_job(engine, job)
    assert isinstance(run.error, LeaseHeldError)
    assert run.session is None
    assert await sql.job(job.job_id) == before
    assert gemini.state.report()["total"] == 0


async def test_ten_runs_of_one_job_at_once_make_each_picture_once(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(3)
    runs = await asyncio.gather(*(run_job(engine, job) for _ in range(10)))
    assert sum(run.outcome is not None and run.outcome.made_now == 3 for run in runs) == 1
    assert all(isinstance(run.error, LeaseHeldError) for run in runs if run.outcome is None)
    assert gemini.state.report()["total"] == 3
    await office.check_books(job)


async def test_one_run_asked_for_twice_is_one_session(office: Office, engine: Engine) -> None:
    job = await office.job(1)
    first, second = await asyncio.gather(*(engine.session(job.job_id, run_id="run-1") for _ in range(2)))
    assert first is second
    assert engine.current("run-1") is first
    await engine.close_session("run-1")
    assert engine.current("run-1") is None


async def test_a_retry_continues_after_a_dead_run(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    """The first run vanishes with its lease alive, one picture committed and one under way."""
    job = await office.job(3)
    dead = await office.processing(job, run_id="run-1")
    await office.commit(job, dead, 1)

    run = await run_job(engine, job, run_id="run-2", retry_of=("run-1",))

    assert run.session is not None
    assert run.session.took_over_from == "run-1"
    assert (run.ended.completed, run.ended.made_now) == (3, 2)
    assert gemini.state.report()["total"] == 2
    await office.check_books(job)


# --- jobs that no run ended --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminated", "status", "reason"),
    [(True, "cancelled", "Stopped by an operator (run run-1)."), (False, "processing", None)],
)
async def test_run_that_ends_before_it_settles_ends_a_stopped_job_and_leaves_another_to_a_retry_or_the_sweep(
    *,
    office: Office,
    sql: Look,
    engine: Engine,
    gemini: GeminiStandIn,
    terminated: bool,
    status: str,
    reason: str | None,
) -> None:
    job = await office.job(2)
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    gemini.state.add_rules(Rule(behaviour=Behaviour.HANG))
    making = asyncio.create_task(session.make(planned.units[0], lambda _line: None))
    await seen(gemini, lambda state: state.in_flight == 2)

    if terminated:
        engine.terminate("run-1")
    await engine.close_session("run-1")

    await asyncio.gather(making, return_exceptions=True)  # a terminated run has no outcome
    await seen(gemini, lambda state: state.in_flight == 0)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["error_message"]) == (status, reason)
    stranded = await office.database.recovery.stranded_jobs(pending_seconds=60, grace_seconds=0, most=100_000)
    assert (job.job_id in stranded) is (not terminated), "a job that no retry follows would be lost"
    claim = await office.claim(job, run_id="run-2")
    assert claim.deaths == 0, "its process did not die"


async def test_retry_that_ends_before_it_began_leaves_its_job_to_the_sweep(
    office: Office, sql: Look, engine: Engine
) -> None:
    job = await office.job(1)
    await office.processing(job, run_id="run-1")
    await engine.session(job.job_id, run_id="run-2", retry_of=("run-1",))
    await engine.close_session("run-2")
    stranded = await office.database.recovery.stranded_jobs(pending_seconds=60, grace_seconds=0, most=100_000)
    assert job.job_id in stranded


async def test_a_session_closed_before_it_began_leaves_an_ended_job_as_it_is(
    office: Office, sql: Look, engine: Engine
) -> None:
    job = await office.job(1)
    await run_job(engine, job)
    before = await sql.job(job.job_id)
    await engine.session(job.job_id, run_id="run-2")
    await engine.close_session("run-2")
    await engine.close_session("run-2")
    assert await sql.job(job.job_id) == before
    assert await sql.all("select 1 from quel_dagster.job_lease where job_id = %s", job.job_id) == []


# --- how many at a time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "quantities"), [(2, (2, 2, 2)), (2, (4,)), (4, (4,)), (1, (1, 1))], ids=["units", "unit", "four", "one"]
)
async def test_the_limit_on_calls_is_used_and_kept_over_all_units(
    *,
    office: Office,
    gemini: GeminiStandIn,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    quantities: tuple[int, ...],
) -> None:
    monkeypatch.setenv("QUEL_MAX_CONCURRENT_IMAGES", str(limit))
    engine = Engine.from_settings(Settings.read(_env_file=None))
    gemini.state.latency = LONG
    job = await office.job(sum(quantities), job_type="single_batch", input_data=combinations(*quantities))

    running = asyncio.create_task(run_job(engine, job))
    await seen(gemini, lambda state: state.in_flight == limit)
    await asyncio.sleep(0.2)  # one call more would begin now
    gemini.state.latency = 0.1
    run = await running

    assert run.ended.completed == sum(quantities)
    assert gemini.state.max_in_flight == limit
    await engine.aclose()


async def test_two_jobs_have_their_own_limits(office: Office, engine: Engine, gemini: GeminiStandIn) -> None:
    gemini.state.latency = LONG
    jobs = [await office.job(2) for _ in range(2)]
    running = [asyncio.create_task(run_job(engine, job)) for job in jobs]
    await seen(gemini, lambda state: state.in_flight == 4)
    gemini.state.latency = 0.0
    runs: list[Run] = await asyncio.gather(*running)
    assert [run.ended.completed for run in runs] == [2, 2]
    assert gemini.state.max_in_flight == 4


async def test_a_lease_that_is_missing_while_the_job_is_ended_is_no_lost_lease(office: Office, engine: Engine) -> None:
    """The renewal reads the lease between the transaction that ends the job and its answer."""
    job = await office.job(1)
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    settle = engine.dependencies.database.work.settle

    async def then_look(*args: Any, **kwargs: Any) -> Any:
        answer = await settle(*args, **kwargs)
        session._lose_lease()
        return answer

    engine.dependencies.database.work.settle = then_look  # type: ignore[method-assign]
    await session.make(planned.units[0], lambda _line: None)
    assert session.stop.reason is None
    await engine.close_session("run-1")
