"""What stops a run: the user's cancel, a lost lease, an operator; and how many calls it makes at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
import redis

from quel_dagster.adapters.database import lease
from quel_dagster.errors import LeaseHeldError, LeaseLostError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.sandbox.gemini_server import Behaviour, GeminiStandIn, Rule
from quel_dagster.settings import Settings
from quel_dagster.studio import session as session_module
from quel_dagster.studio.studio import Studio
from tests.integration.conftest import Look, NewlyMade, Office, eventually
from tests.integration.studio.conftest import Run, combinations, run_job, stages


def ask_to_cancel(environment: Mapping[str, str], job: NewlyMade) -> None:
    """As the web app does."""
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        client.set(f"job:{job.job_id}:cancelled", "true", ex=3600)


async def seen(gemini: GeminiStandIn, condition: Any) -> None:
    await asyncio.to_thread(gemini.state.wait_until, condition, 20)


async def test_a_cancel_in_the_middle_of_a_call_ends_the_call_and_everything_else(
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    assert session_module.CANCEL_POLL_SECONDS * 2 < 2
    job = await office.job(5, job_type="pipeline_stage", path="cinema", input_data=stages(1, 4))
    gemini.state.add_rules(Rule(behaviour=Behaviour.HANG, match="scene-1"))
    running = asyncio.create_task(run_job(studio, job))

    await seen(gemini, lambda state: state.in_flight == 2)
    await eventually(
        lambda: sql.all("select 1 from quel_production_jobs where job_id = %s and completed_images = 1", job.job_id)
    )

    ask_to_cancel(environment, job)
    asked_at = time.monotonic()
    await seen(gemini, lambda state: state.in_flight == 0)
    seconds = time.monotonic() - asked_at
    run = await running

    assert seconds < 6, f"the calls went on for {seconds:.1f} s after the cancel"
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
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    job = await office.job(2)
    ask_to_cancel(environment, job)
    run = await run_job(studio, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("user_cancelled", 0)
    assert row["completed_at"] is not None
    assert run.ended.status is JobStatus.USER_CANCELLED
    assert gemini.state.report()["total"] == 0
    assert await sql.ledger(member_id=job.member_id) == []


async def test_a_cancel_is_kept_when_its_flag_has_expired(
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    job = await office.job(2)
    ask_to_cancel(environment, job)
    await run_job(studio, job)
    with redis.Redis.from_url(environment["REDIS_URL"]) as client:
        client.flushdb()
    await sql.all("update quel_production_jobs set job_status = 'pending' where job_id = %s", job.job_id)

    run = await run_job(studio, job)

    assert run.ended.status is JobStatus.USER_CANCELLED
    assert (await sql.job(job.job_id))["job_status"] == "user_cancelled"
    assert gemini.state.report()["total"] == 0


async def test_a_cancel_after_the_end_changes_nothing(
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    job = await office.job(1)
    await run_job(studio, job)
    before = await sql.job(job.job_id)
    ask_to_cancel(environment, job)
    await run_job(studio, job)
    assert await sql.job(job.job_id) == before
    assert gemini.state.report()["total"] == 1


async def test_a_redis_that_is_away_cancels_nothing(
    office: Office, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    studio = Studio.from_settings(Settings.read(_env_file=None))
    run = await run_job(studio, await office.job(1))
    assert run.ended.status is JobStatus.COMPLETED
    await studio.aclose()


# --- who works on a job ------------------------------------------------------------------------------


async def test_a_run_whose_lease_is_taken_writes_no_more(
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn
) -> None:
    job = await office.job(2)
    gemini.state.add_rules(Rule(behaviour=Behaviour.SLOW, seconds=1.0))
    running = asyncio.create_task(run_job(studio, job, run_id="run-1"))
    await seen(gemini, lambda state: state.in_flight == 2)
    await office.claim(job, run_id="run-2", retry_of=("run-1",))
    before = await sql.job(job.job_id), await sql.production(job.production_id)

    run = await running

    assert isinstance(run.error, LeaseLostError)
    assert all(each.outcome == "slow" for each in gemini.state.requests), "the calls themselves ended well"
    assert (await sql.job(job.job_id), await sql.production(job.production_id)) == before
    assert await sql.ledger(member_id=job.member_id) == []
    lease_row = await sql.one("select run_id from quel_dagster.job_lease where job_id = %s", job.job_id)
    assert lease_row["run_id"] == "run-2"


async def test_a_lost_lease_cancels_the_calls_under_way(
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    job = await office.job(2)
    gemini.state.add_rules(Rule(behaviour=Behaviour.HANG))
    running = asyncio.create_task(run_job(studio, job, run_id="run-1"))
    await seen(gemini, lambda state: state.in_flight == 2)

    await office.claim(job, run_id="run-2", retry_of=("run-1",))

    await seen(gemini, lambda state: state.in_flight == 0)
    run = await asyncio.wait_for(running, 20)
    assert isinstance(run.error, LeaseLostError)
    assert (await sql.job(job.job_id))["job_status"] == "processing", "the other run's job by now"


async def test_a_job_that_another_run_works_on_is_left_to_it(
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn
) -> None:
    job = await office.job(1)
    await office.processing(job, run_id="other")
    before = await sql.job(job.job_id)
    run = await run_job(studio, job)
    assert isinstance(run.error, LeaseHeldError)
    assert run.session is None
    assert await sql.job(job.job_id) == before
    assert gemini.state.report()["total"] == 0


async def test_ten_runs_of_one_job_at_once_make_each_picture_once(
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn
) -> None:
    job = await office.job(3)
    runs = await asyncio.gather(*(run_job(studio, job) for _ in range(10)))
    assert sum(run.outcome is not None and run.outcome.made_now == 3 for run in runs) == 1
    assert all(isinstance(run.error, LeaseHeldError) for run in runs if run.outcome is None)
    assert gemini.state.report()["total"] == 3
    await office.check_books(job)


async def test_one_run_asked_for_twice_is_one_session(office: Office, studio: Studio) -> None:
    job = await office.job(1)
    first, second = await asyncio.gather(*(studio.session(job.job_id, run_id="run-1") for _ in range(2)))
    assert first is second
    assert studio.current("run-1") is first
    await studio.close_session("run-1")
    assert studio.current("run-1") is None


async def test_a_retry_goes_on_where_the_first_run_died(
    office: Office, sql: Look, studio: Studio, gemini: GeminiStandIn
) -> None:
    """The first run vanishes with its lease alive, one picture committed and one under way."""
    job = await office.job(3)
    dead = await office.processing(job, run_id="run-1")
    await office.commit(job, dead, 1)

    run = await run_job(studio, job, run_id="run-2", retry_of=("run-1",))

    assert run.session is not None
    assert run.session.took_over_from == "run-1"
    assert (run.ended.completed, run.ended.made_now) == (3, 2)
    assert gemini.state.report()["total"] == 2
    await office.check_books(job)


# --- ends that nobody concluded ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminated", "status", "reason"),
    [(True, "cancelled", "Stopped by an operator (run run-1)."), (False, "processing", None)],
)
async def test_a_run_that_ends_before_it_settles_ends_its_job_if_it_was_stopped_and_else_leaves_it_to_a_retry(
    *,
    office: Office,
    sql: Look,
    studio: Studio,
    gemini: GeminiStandIn,
    terminated: bool,
    status: str,
    reason: str | None,
) -> None:
    job = await office.job(2)
    session = await studio.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    gemini.state.add_rules(Rule(behaviour=Behaviour.HANG))
    making = asyncio.create_task(session.make(planned.units[0], lambda _line: None))
    await seen(gemini, lambda state: state.in_flight == 2)

    if terminated:
        studio.terminate("run-1")
    await studio.close_session("run-1")

    await asyncio.gather(making, return_exceptions=True)  # a terminated run has no outcome
    await seen(gemini, lambda state: state.in_flight == 0)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["error_message"]) == (status, reason)
    assert await sql.all("select 1 from quel_dagster.job_lease where job_id = %s", job.job_id) == []


async def test_a_session_closed_before_it_began_leaves_an_ended_job_as_it_is(
    office: Office, sql: Look, studio: Studio
) -> None:
    job = await office.job(1)
    await run_job(studio, job)
    before = await sql.job(job.job_id)
    await studio.session(job.job_id, run_id="run-2")
    await studio.close_session("run-2")
    await studio.close_session("run-2")
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
    studio = Studio.from_settings(Settings.read(_env_file=None))
    gemini.state.latency = 0.3
    job = await office.job(sum(quantities), job_type="single_batch", input_data=combinations(*quantities))

    run = await run_job(studio, job)

    assert run.ended.completed == sum(quantities)
    assert gemini.state.max_in_flight == limit
    await studio.aclose()


async def test_two_jobs_have_their_own_limits(office: Office, studio: Studio, gemini: GeminiStandIn) -> None:
    gemini.state.add_rules(Rule(behaviour=Behaviour.SLOW, seconds=0.5))
    jobs = [await office.job(2) for _ in range(2)]
    runs: list[Run] = await asyncio.gather(*(run_job(studio, job) for job in jobs))
    assert [run.ended.completed for run in runs] == [2, 2]
    assert gemini.state.max_in_flight == 4
