"""A store that is unreachable for a while, or refuses, under whole jobs: Supabase's API over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.adapters.storage.outages import OutageTolerantStore
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.engine.engine import Engine
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.settings import Settings
from tests.faults.storage_server import StorageServer, running_storage
from tests.integration.conftest import Look, Office
from tests.integration.engine.conftest import Run, combinations, run_job
from tests.integration.engine.test_stops import ask_to_cancel
from tests.integration.storage.supabase_server import SERVICE_KEY

QUICK = RetryPolicy(attempts=2, first_pause=0.01, longest_pause=0.02, attempt_timeout=5, total_timeout=20)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[StorageServer]:
    with running_storage(tmp_path / "objects") as server:
        yield server


@pytest.fixture
async def engine(environment: Mapping[str, str], storage: StorageServer) -> AsyncIterator[Engine]:
    url = f"http://127.0.0.1:{storage.port}"
    settings = Settings.read(
        _env_file=None,
        storage_url="supabase:",
        supabase_url=url,
        supabase_service_key=SERVICE_KEY,
        storage_base_url=f"{url}/storage/v1/object/public/attachments/",
    )
    engine = Engine.from_settings(settings)
    store = OutageTolerantStore(open_store(settings, retry_policy=QUICK), outage_seconds=60, pause_seconds=0.05)
    engine.dependencies = replace(engine.dependencies, store=store)
    yield engine
    await engine.aclose()


def first_two_answered(gemini: GeminiStandIn) -> None:
    """Every later call lasts until the job stops."""
    gemini.state.add_rules(Rule(behaviour=Behaviour.OK, times=2), Rule(behaviour=Behaviour.HANG))


async def until_line(run: Run, part: str) -> None:
    async with asyncio.timeout(30):
        while not any(part in line for line in run.lines):  # noqa: ASYNC110  the session has no event for its lines
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [503, 507, 544])
async def test_every_picture_is_made_and_called_for_once_when_the_store_comes_back(
    *, office: Office, sql: Look, engine: Engine, storage: StorageServer, gemini: GeminiStandIn, status: int
) -> None:
    storage.fail(status)
    job = await office.job(24, job_type="single_batch", input_data=combinations(12, 12))
    run = Run()
    running = asyncio.create_task(run_job(engine, job, run=run))
    await until_line(run, "no Gemini call begins")
    async with asyncio.timeout(30):
        refused = storage.failures
        while storage.failures < refused + 10:  # noqa: ASYNC110  the server runs in another thread
            await asyncio.sleep(0.01)
    called = gemini.state.report()["total"]
    assert called < 24, "calls begun while the store was unreachable"
    async with asyncio.timeout(30):
        while storage.failures < refused + 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert gemini.state.report()["total"] == called
    storage.heal()
    async with asyncio.timeout(60):
        await running
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["error_message"]) == ("completed", 24, None)
    assert gemini.state.report()["total"] == 24
    assert any("the picture is kept" in line for line in run.lines)
    await office.check_books(job)


@pytest.mark.parametrize("status", [400, 402, 403, 413, 415])
async def test_a_store_that_refuses_stops_the_job_after_the_first_pictures(
    *, office: Office, sql: Look, engine: Engine, storage: StorageServer, gemini: GeminiStandIn, status: int
) -> None:
    storage.fail(status)
    first_two_answered(gemini)
    job = await office.job(6, job_type="single_batch", input_data=combinations(3, 3))
    run = await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("failed", 0)
    assert "Supabase refuses the request" in row["error_message"]
    # two are stored at the same time, and two more calls may have begun when the refusal comes
    assert gemini.state.report()["total"] <= 2 * engine.dependencies.max_concurrent_images
    assert run.ended.charged_now == 0


async def test_a_cancel_ends_the_wait_for_the_store(
    office: Office, sql: Look, engine: Engine, storage: StorageServer, environment: Mapping[str, str]
) -> None:
    storage.fail(503)
    job = await office.job(2)
    run = Run()
    running = asyncio.create_task(run_job(engine, job, run=run))
    await until_line(run, "the picture is kept")
    ask_to_cancel(environment, job)
    async with asyncio.timeout(30):
        await running
    assert (await sql.job(job.job_id))["job_status"] == "user_cancelled"
