"""An engine on real parts, and whole runs in it without Dagster."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image

from quel_dagster.engine.engine import Engine
from quel_dagster.engine.outcomes import JobOutcome, Planned, UnitOutcome
from quel_dagster.engine.session import JobSession
from quel_dagster.errors import JobCancelledError, QuelError
from quel_dagster.settings import Settings
from tests.integration.conftest import NewlyMade, Office


@pytest.fixture
async def engine(environment: Mapping[str, str]) -> AsyncIterator[Engine]:
    engine = Engine.from_settings(Settings.read(_env_file=None))
    yield engine
    await engine.aclose()


@dataclass
class Run:
    """The results of one run, as the ops of the pipeline see them."""

    session: JobSession | None = None
    planned: Planned | None = None
    outcomes: tuple[UnitOutcome, ...] = ()
    outcome: JobOutcome | None = None
    error: QuelError | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def ended(self) -> JobOutcome:
        assert self.outcome is not None, self.error
        return self.outcome


async def run_job(
    engine: Engine, job: NewlyMade, *, run_id: str = "", retry_of: tuple[str, ...] = (), run: Run | None = None
) -> Run:
    """Claim, plan, make every unit at once, settle, close: as the ops do, with their handling of errors."""
    run = run or Run()
    run_id = run_id or f"run-{uuid4().hex[:8]}"
    try:
        run.session = session = await engine.session(job.job_id, run_id=run_id, retry_of=retry_of)
        try:
            run.planned = await session.plan(run.lines.append)
            units = run.planned.units
        except JobCancelledError:
            units = ()
        outcomes = await asyncio.gather(*(session.make(unit, run.lines.append) for unit in units))
        run.outcome, run.outcomes = await session.settle(outcomes, run.lines.append)
    except QuelError as error:
        run.error = error
        if run.session is not None:
            run.session.stop(error)
    finally:
        await asyncio.wait_for(engine.close_session(run_id), 30)
    return run


@dataclass
class Uploads:
    """Reference pictures of one test, in the store and in the tables."""

    office: Office
    engine: Engine

    async def picture(self, colour: str = "red", *, store: bool = True) -> int:
        """Upload a picture as the web app does; its attach id. Without `store` the object is missing."""
        out = io.BytesIO()
        Image.new("RGB", (96, 128), colour).save(out, "PNG")
        name = f"upload-{uuid4().hex}.png"
        if store:
            await self.engine.dependencies.store.put(f"uploads/{name}", out.getvalue(), content_type="image/png")
        return await self.office.database.web_app.insert_attach(
            name=name, path=name, size=len(out.getvalue()), mime_type="image/png", storage="file"
        )


@pytest.fixture
def uploads(office: Office, engine: Engine) -> Uploads:
    return Uploads(office, engine)


def combinations(*quantities: int, **more: Any) -> dict[str, Any]:
    """`job_input_data` of a single_batch with a unit for each quantity; the prompt of unit n holds `shot<n>`."""
    angles = ("front", "side", "profile", "back")
    return {
        "basePrompt": "a linen suit",
        "combinations": [
            {"angle": angles[place % 4], "shot": "full", "quantity": quantity}
            for place, quantity in enumerate(quantities)
        ],
        "aspect-ratio": "1:1",
        **more,
    }


def stages(*quantities: int, **more: Any) -> dict[str, Any]:
    """`job_input_data` of a pipeline_stage; the prompt of stage n holds `scene-<n>`."""
    return {
        "stages": [
            {"stage_index": place, "prompt": f"scene-{place} of the story", "quantity": quantity}
            for place, quantity in enumerate(quantities)
        ],
        "aspect-ratio": "1:1",
        **more,
    }
