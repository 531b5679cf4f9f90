"""References that cannot be had: the kind of picture stays, a picture without its subject is not asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quel_dagster.engine.engine import Engine
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from tests.integration.conftest import Look, Office
from tests.integration.engine.conftest import Uploads, run_job
from tests.unit.jobs import test_pictures

HEIC = Path(test_pictures.__file__).parent / "pictures" / "phone.heic"


def references(**types: int) -> list[dict[str, Any]]:
    return [{"attachId": attach_id, "type": kind} for kind, attach_id in types.items()]


async def fashion(office: Office, **types: int) -> Any:
    return await office.job(
        2,
        job_type="single_batch",
        path="fashion",
        input_data={
            "basePrompt": "a linen suit",
            "individualImageAttachIds": references(**types),
            "combinations": [{"angle": "front", "shot": "full", "quantity": 2}],
            "aspect-ratio": "1:1",
        },
    )


@pytest.mark.parametrize("lost", ["model", "top"])
async def test_a_lost_model_or_only_product_fails_the_unit_before_gemini_is_asked(
    *, office: Office, sql: Look, engine: Engine, uploads: Uploads, gemini: GeminiStandIn, lost: str
) -> None:
    ids = {kind: await uploads.picture(store=kind != lost) for kind in ("model", "top")}
    job = await fashion(office, **ids)
    run = await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("failed", 0)
    assert f"Reference {ids[lost]} (" in row["error_message"]
    assert "No object" in row["error_message"]
    assert gemini.state.report()["total"] == 0
    assert run.ended.charged_now == 0


async def test_a_lost_background_is_named_although_every_picture_is_made(
    office: Office, sql: Look, engine: Engine, uploads: Uploads, gemini: GeminiStandIn
) -> None:
    ids = {kind: await uploads.picture(store=kind != "bg") for kind in ("model", "top", "bg")}
    job = await fashion(office, **ids)
    run = await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 2, 0)
    assert f"reference {ids['bg']} (background) could not be fetched" in row["error_message"]
    (outcome,) = run.outcomes
    assert len(outcome.lost_references) == 1
    assert gemini.state.report()["total"] == 2


async def test_a_heic_model_photo_is_read_and_no_product_shot_is_made(
    office: Office, sql: Look, engine: Engine, uploads: Uploads
) -> None:
    await engine.dependencies.store.put("uploads/upload-phone.heic", HEIC.read_bytes(), content_type="image/heic")
    photo = await office.database.web_app.insert_attach(
        name="upload-phone.heic", path="/upload-phone.heic", size=1, mime_type="image/heic", storage="file"
    )
    job = await fashion(office, model=photo, top=await uploads.picture())
    run = await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["error_message"]) == ("completed", 2, None)
    (outcome,) = run.outcomes
    assert [part.role for part in outcome.parts] == ["model", "clothing"]
    assert "Nobody is in it" not in outcome.text


async def test_a_generated_picture_of_another_member_is_no_reference(
    office: Office, sql: Look, engine: Engine, uploads: Uploads, gemini: GeminiStandIn
) -> None:
    key = "generated-images/user-00000000-0000-4000-8000-000000000001/a.webp"
    await engine.dependencies.store.put(key, HEIC.read_bytes(), content_type="image/webp")
    stolen = await office.database.web_app.insert_attach(
        name="a.webp", path=key, size=1, mime_type="image/webp", storage="file"
    )
    job = await fashion(office, model=await uploads.picture(), top=await uploads.picture(), bg=stolen)
    run = await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert row["completed_images"] == 2
    assert "generated for another member" in row["error_message"]
    assert any(line.startswith(f"Reference {stolen} left out") for line in run.lines)
    assert {request.parts for request in gemini.state.requests} == {2}
