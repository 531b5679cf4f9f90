"""The cost of pictures at Gemini: per picture in the outcome and in a table, failed calls included."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from quel_dagster.adapters.counters import read_counters
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.usage import encoded, note_usage, usage_of_job, usage_of_span
from quel_dagster.adapters.database.work import JobWork
from quel_dagster.engine.engine import Engine
from quel_dagster.jobs.model import Slot
from quel_dagster.jobs.models import DEFAULT_MODEL, Usage, model_of
from quel_dagster.pipeline.metadata.results import of_cost
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.integration.conftest import Office
from tests.integration.engine.conftest import run_job

#: the stand-in's answer to a text without references: what the table makes of its tokens
IMAGE_TOKENS, THOUGHT_TOKENS = 1120, 210


async def test_picture_has_its_tokens_and_dollars_with_the_commit(
    office: Office, engine: Engine, database: Database, redis_url: str
) -> None:
    job = await office.job(2)
    run = await run_job(engine, job)

    pictures = [picture for unit in run.outcomes for picture in unit.made]
    for picture in pictures:
        assert (picture.model, picture.image_tokens, picture.text_tokens) == (
            DEFAULT_MODEL,
            IMAGE_TOKENS,
            THOUGHT_TOKENS,
        )
        expected = model_of(DEFAULT_MODEL).cost(
            Usage(input=picture.input_tokens, image=IMAGE_TOKENS, text=THOUGHT_TOKENS)
        )
        assert picture.usd == pytest.approx(expected)
    total = sum(picture.usd or 0 for picture in pictures)
    assert of_cost(run.outcomes)["gemini_usd"] == pytest.approx(total, abs=1e-4)

    used = await usage_of_job(database, job.job_id)
    assert (used.models, used.calls, used.unpriced) == (DEFAULT_MODEL, 2, 0)
    assert used.usd == pytest.approx(total, abs=1e-5)
    rows = await database.jobs.pictures(job.job_id)
    assert [row.usd for row in rows] == [pytest.approx(picture.usd, abs=1e-5) for picture in pictures]

    counters = read_counters(redis_url)
    assert counters["gemini_usd"] == pytest.approx(total)
    assert counters["gemini_tokens|image"] == 2 * IMAGE_TOKENS


async def test_calls_without_a_picture_are_noted_too(
    office: Office, engine: Engine, database: Database, gemini: GeminiStandIn
) -> None:
    gemini.state.add_rules(Rule(behaviour=Behaviour.TEXT_ONLY))
    job = await office.job(1)
    run = await run_job(engine, job)
    (failed,) = [failed for unit in run.outcomes for failed in unit.failed]
    assert failed.usd > 0
    used = await usage_of_job(database, job.job_id)
    assert used.calls == 3
    assert used.usd == used.usd_without_picture == pytest.approx(failed.usd, abs=1e-5)


async def test_another_shape_is_logged_and_both_pictures_are_counted(
    office: Office, engine: Engine, database: Database, gemini: GeminiStandIn
) -> None:
    gemini.state.add_rules(Rule(behaviour=Behaviour.SQUARE, times=1))
    job = await office.job(1)
    run = await run_job(engine, job)
    (picture,) = [picture for unit in run.outcomes for picture in unit.made]
    assert picture.width > picture.height
    assert picture.image_tokens == 2 * IMAGE_TOKENS
    assert picture.notes == ("Gemini made 1024×1024 pixels, not 16:9; asked again once.",)
    used = await usage_of_job(database, job.job_id)
    assert used.notes == (("u0000_p0000", picture.notes[0]),)


async def test_commit_with_a_lost_answer_stores_no_usage_twice(
    office: Office, engine: Engine, database: Database, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = JobWork.commit_picture

    async def twice(self: Database, *arguments: object, **more: object) -> object:
        await commit(self, *arguments, **more)  # type: ignore[arg-type]
        return await commit(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(JobWork, "commit_picture", twice)
    job = await office.job(2)
    await run_job(engine, job)
    assert (await usage_of_job(database, job.job_id)).calls == 2


async def test_model_without_prices_is_counted_as_unpriced(office: Office, database: Database) -> None:
    job = await office.job(1)
    usage = encoded(Usage(input=1, image=1), model="gemini-9", calls=1, usd=None)
    await note_usage(database, job.job_id, Slot(unit=0, number=0), usage)
    used = await usage_of_job(database, job.job_id)
    assert (used.usd, used.unpriced) == (0.0, 1)
    now = datetime.now(UTC)
    span = await usage_of_span(database, now - timedelta(minutes=5), now + timedelta(minutes=5))
    assert next(model for model in span if model.model == "gemini-9").unpriced >= 1
