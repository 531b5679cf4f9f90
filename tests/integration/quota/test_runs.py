"""Work on whole jobs under a quota: what waiting counts for, and stops while it lasts.

Runs of several processes that use a quota up: tests/faults/test_gemini.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from quel_dagster.adapters.gemini.client import GeminiClient
from quel_dagster.adapters.gemini_quota import GeminiQuota
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.engine.engine import Engine
from quel_dagster.errors import GeminiRateLimitedError
from quel_dagster.pipeline.metadata.steps import of_outcome
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Rule
from quel_dagster.settings import Settings
from tests.integration.conftest import Office, eventually
from tests.integration.engine.conftest import run_job


@pytest.fixture
async def engine(environment: Mapping[str, str]) -> AsyncIterator[Engine]:
    engine = Engine.from_settings(Settings.read(_env_file=None))
    yield engine
    await engine.aclose()


def with_quota(engine: Engine, settings: Settings, **limits: Any) -> Engine:
    """The same engine with another quota."""
    url = settings.redis()
    assert url is not None
    quota = GeminiQuota(url, **limits)
    gemini = GeminiClient.from_settings(settings, gate=quota.place)
    engine.dependencies = replace(engine.dependencies, quota=quota, gemini=gemini)
    return engine


async def test_waiting_for_the_quota_counts_for_no_deadline_and_is_no_attempt(
    environment: Mapping[str, str], gemini: GeminiStandIn, office: Office, engine: Engine
) -> None:
    settings = Settings.read(_env_file=None, gemini_timeout_seconds=2.0, gemini_attempts=1)
    with_quota(engine, settings, requests=1, window_seconds=3.0, margin_seconds=0.1)
    job = await office.job(3)

    run = await run_job(engine, job)

    assert run.ended.completed == 3
    (unit,) = run.outcomes
    assert [made.attempts for made in unit.made] == [1, 1, 1]
    assert unit.quota_seconds == pytest.approx(sum(made.quota_seconds for made in unit.made), abs=0.01)
    assert unit.quota_seconds > 3.0
    assert of_outcome(unit)["waited_for_quota_seconds"] == round(unit.quota_seconds, 2)
    assert sum(line.startswith("Waiting for Gemini's quota") for line in run.lines) == 2


async def test_a_429_of_one_run_holds_back_another(
    environment: Mapping[str, str], gemini: GeminiStandIn, office: Office, engine: Engine
) -> None:
    gemini.state.add_rules(Rule(behaviour="429", times=1, match="first", retry_after="2"))
    members = [await office.member() for _ in range(2)]
    first, other = [
        await office.job(1, member_id=member, input_data={"prompt": f"the {name} coat", "userId": str(member)})
        for member, name in zip(members, ("first", "other"), strict=True)
    ]
    making = asyncio.create_task(run_job(engine, first))

    async def rejected() -> bool:
        return any(request.outcome == "429" for request in gemini.state.requests)

    await eventually(rejected)
    pause = gemini.state.requests[0].time + 2

    async def paused() -> bool:
        return engine.dependencies.quota._resume_at > time.monotonic()

    await eventually(paused)
    run = await run_job(engine, other)

    assert run.ended.completed == 1
    assert (await making).ended.completed == 1
    assert all(request.time >= pause - 0.2 for request in gemini.state.requests[1:])


async def test_a_cancel_is_seen_within_two_seconds_by_who_waits_for_the_quota(
    environment: Mapping[str, str], gemini: GeminiStandIn, office: Office, engine: Engine, redis_url: str
) -> None:
    with_quota(engine, Settings.read(_env_file=None), requests=1, window_seconds=120.0)
    job = await office.job(3)
    making = asyncio.create_task(run_job(engine, job))

    async def one_made() -> bool:
        return bool((await office.sql.job(job.job_id))["completed_images"])

    await eventually(one_made)
    queue = JobQueue(redis_url)
    queue.cancel(job.job_id)
    queue.close()
    cancelled = time.monotonic()
    run = await asyncio.wait_for(making, 90)

    assert time.monotonic() - cancelled < 90, "it waited for its place"
    assert run.ended.status == "user_cancelled"
    assert (run.ended.completed, gemini.state.report()["total"]) == (1, 1)


async def test_a_storm_of_429_does_not_use_up_the_attempts_of_those_who_wait(
    environment: Mapping[str, str], gemini: GeminiStandIn, office: Office, engine: Engine
) -> None:
    """Gemini's quota is smaller than anybody said: 2 calls in 2 s, while 10 pictures want theirs at once."""
    settings = Settings.read(_env_file=None, gemini_attempts=5, max_concurrent_images=10)
    engine.dependencies = with_quota(engine, settings).dependencies
    gemini.state.set_quota(2, 2.0)
    jobs = [await office.job(2) for _ in range(5)]

    runs = await asyncio.gather(*(run_job(engine, job) for job in jobs))

    assert [run.ended.completed for run in runs] == [2] * 5, [run.ended.error for run in runs]
    assert GeminiRateLimitedError.__name__ not in str(runs)
