"""Jobs at work while Gemini is overloaded, or its quota is spent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import redis

from quel_dagster.adapters.intake import intake_paused
from quel_dagster.engine.engine import Engine
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.settings import Settings
from tests.integration.conftest import Look, Office, eventually
from tests.integration.engine.conftest import Uploads, run_job, stages

pytestmark = pytest.mark.usefixtures("environment")

HANG_GUARD = 90


def quota_error(message: str) -> dict[str, Any]:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}
    return {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": [retry]}}


async def test_overloaded_gemini_jobs_wait_and_all_are_made(
    office: Office,
    sql: Look,
    gemini: GeminiStandIn,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, seven jobs were `failed` after 84 s, one of them after 43 calls."""
    monkeypatch.setenv("GEMINI_OUTAGE_HOURS", "1")
    engine = Engine.from_settings(Settings.read(_env_file=None))
    gemini.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    jobs = [await office.job(4) for _ in range(3)]
    runs = [asyncio.create_task(run_job(engine, job)) for job in jobs]

    with redis.Redis.from_url(environment["REDIS_URL"]) as client:

        async def paused() -> bool:
            return intake_paused(client) is not None

        await eventually(paused, seconds=HANG_GUARD)
        assert not any(run.done() for run in runs)
        gemini.state.reset()
        async with asyncio.timeout(HANG_GUARD):
            await asyncio.gather(*runs)

        async def resumed() -> bool:
            return intake_paused(client) is None

        await eventually(resumed)
    for job in jobs:
        row = await sql.job(job.job_id)
        assert (row["job_status"], row["completed_images"], row["error_message"]) == ("completed", 4, None)
    assert any("no new job is begun" in line for run in runs for line in run.result().lines)
    await engine.aclose()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Quota exceeded for metric: generate_content_free_tier_requests, limit: 0", "limit: 0"),
        ("Your prepayment credits are depleted.", "prepayment credits are depleted"),
        ("Your project has exceeded its monthly spending cap.", "spending cap"),
    ],
)
async def test_quota_that_is_spent_ends_the_job_at_once(
    message: str, words: str, *, office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    """Before, four pictures took 20 calls and 578 s."""
    gemini.state.add_rules(Rule(behaviour=Behaviour.RAW, status=429, body=quota_error(message)))
    job = await office.job(4)

    async with asyncio.timeout(HANG_GUARD):
        await run_job(engine, job)

    row = await sql.job(job.job_id)
    assert row["job_status"] == "failed"
    assert words in row["error_message"]
    assert "billing" in row["error_message"]
    assert "(tried" not in row["error_message"]
    assert gemini.state.report()["total"] <= 2, "no more than the calls that were under way"


async def test_model_that_is_not_there_ends_the_job_and_names_the_setting(
    office: Office, sql: Look, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_MODEL", "gemini-2.5-flash-image")
    engine = Engine.from_settings(Settings.read(_env_file=None))
    job = await office.job(6)
    await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert row["job_status"] == "failed"
    assert "set GEMINI_MODEL" in row["error_message"]
    assert gemini.state.report()["total"] <= 2
    await engine.aclose()


async def test_model_of_the_category_and_fallback_are_asked_and_logged(
    office: Office, sql: Look, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_MODEL_BEAUTY", "gemini-2.5-flash-image")
    monkeypatch.setenv("GEMINI_FALLBACK_MODELS", "gemini-3-pro-image")
    engine = Engine.from_settings(Settings.read(_env_file=None))
    job = await office.job(1, path="beauty")
    run = await run_job(engine, job)
    assert (await sql.job(job.job_id))["job_status"] == "completed"
    assert [request.model for request in gemini.state.requests] == ["gemini-2.5-flash-image", "gemini-3-pro-image"]
    (unit,) = run.outcomes
    assert "gemini-2.5-flash-image is past its shutdown date" in unit.warnings[-1]
    assert any("gemini-3-pro-image is asked in place of gemini-2.5-flash-image" in line for line in run.lines)
    await engine.aclose()


async def test_more_references_than_the_model_takes_fail_the_unit_before_any_call(
    office: Office, sql: Look, engine: Engine, uploads: Uploads, gemini: GeminiStandIn
) -> None:
    ids = [await uploads.picture() for _ in range(15)]
    input_data = stages(1)
    input_data["stages"][0]["individualImageAttachIds"] = [
        {"attachId": attach_id, "type": "background"} for attach_id in ids
    ]
    job = await office.job(1, job_type="pipeline_stage", path="cinema", input_data=input_data)
    await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert "15 image parts; gemini-nano-banana-2.1 takes at most 14" in row["error_message"]
    assert gemini.state.report()["total"] == 0
