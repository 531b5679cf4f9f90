"""Whole runs: every job type to its end, reruns, partial and total failure."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pytest
from PIL import Image

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.work import JobWork
from quel_dagster.engine.engine import Engine
from quel_dagster.errors import InsufficientCreditsError, JobInputError, PayerError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.settings import Settings
from tests.integration.conftest import GEMINI_KEY, PRICE, Look, NewlyMade, Office
from tests.integration.engine.conftest import Uploads, combinations, run_job, stages


def attached(*ids: int, type_: str = "top") -> list[dict[str, Any]]:
    return [{"attachId": float(attach_id), "type": type_} for attach_id in ids]


async def check_objects(engine: Engine, sql: Look, job: NewlyMade) -> None:
    """Every picture of the job lies in the store under its key, decodes, and has the recorded size."""
    rows = await sql.all(
        "select a.* from quel_production_jobs j, quel_dagster.attach_ids(j.generated_attach_ids) i"
        " join quel_attach a using (attach_id) where job_id = %s",
        job.job_id,
    )
    for row in rows:
        data = await engine.dependencies.store.get(row["attach_file_path"], max_bytes=20_000_000)
        assert len(data) == row["attach_file_size"]
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "WEBP"
            image.load()


@pytest.mark.parametrize(
    ("job_type", "path", "total", "input_data", "units"),
    [
        ("single_batch", "fashion", 3, combinations(2, 1), ["combo0_front_full", "combo1_side_full"]),
        ("pipeline_stage", "cinema", 3, stages(1, 2), ["stage0", "stage1"]),
        ("simple_general", "beauty", 2, {"prompt": "a jar of cream", "aspect-ratio": "1:1"}, ["general"]),
        (
            "simple_portrait",
            "cartoon",
            2,
            {"basePrompt": "a fox", "mergedImages": [{"photoIndex": 0}, {"photoIndex": 1}], "aspect-ratio": "1:1"},
            ["portrait0", "portrait1"],
        ),
    ],
    ids=["single_batch", "pipeline_stage", "simple_general", "simple_portrait"],
)
async def test_every_job_type_to_the_end(
    *,
    office: Office,
    sql: Look,
    engine: Engine,
    uploads: Uploads,
    gemini: GeminiStandIn,
    job_type: str,
    path: str,
    total: int,
    input_data: dict[str, Any],
    units: list[str],
) -> None:
    reference = await uploads.picture()
    type_ = {"fashion": "top", "beauty": "product", "cinema": "prop", "cartoon": "character"}[path]
    filled = dict(input_data)
    if job_type == "single_batch":
        filled["individualImageAttachIds"] = attached(reference, type_=type_)
    elif job_type == "pipeline_stage":
        filled["stages"] = [
            {**stage, "individualImageAttachIds": attached(reference, type_=type_)} for stage in filled["stages"]
        ]
    elif job_type == "simple_general":
        filled["uploadedAttachIds"] = attached(reference, type_=type_)
    else:
        filled["mergedImages"] = [{**image, "mergedAttachId": reference} for image in filled["mergedImages"]]
    job = await office.job(total, job_type=job_type, path=path, input_data=filled)

    run = await run_job(engine, job)

    assert run.ended.status is JobStatus.COMPLETED
    assert (run.ended.completed, run.ended.failed, run.ended.error) == (total, 0, None)
    assert (run.ended.made_now, run.ended.charged_now) == (total, total * PRICE)
    assert run.ended.balance == 1000 - total * PRICE
    assert run.planned is not None
    assert [unit.key for unit in run.planned.units] == units
    assert (run.planned.total, run.planned.made_before, run.planned.balance) == (total, 0, 1000)
    assert run.planned.payer == f"member {job.member_id}"
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("completed", total)
    assert tuple(row["generated_attach_ids"]) == run.ended.attach_ids
    production = await sql.production(job.production_id)
    assert (production["production_status"], production["input_images_count"]) == ("completed", 1)
    assert gemini.state.report()["total"] == total
    assert {request.kinds for request in gemini.state.requests} == {"image text"}
    await office.check_books(job)
    await check_objects(engine, sql, job)
    assert await sql.all("select 1 from quel_dagster.job_lease where job_id = %s", job.job_id) == []


async def test_the_log_lines_that_people_search_for(
    office: Office, engine: Engine, uploads: Uploads, environment: Mapping[str, str]
) -> None:
    reference = await uploads.picture()
    job = await office.job(
        2,
        job_type="pipeline_stage",
        input_data={
            "aspect-ratio": "1:1",
            "stages": [
                {"quantity": 1, "prompt": "x", "individualImageAttachIds": attached(reference)},
                {"quantity": 1},
            ],
        },
    )
    # one stage after the other, so that the lines have one order
    run_id = "run-lines"
    session = await engine.session(job.job_id, run_id=run_id)
    lines: list[str] = []
    planned = await session.plan(lambda _line: None)
    first, second = [await session.make(unit, lines.append) for unit in planned.units]
    await engine.close_session(run_id)

    folder = Path(unquote(urlsplit(environment["STORAGE_URL"]).path)) / "uploads"
    (size,) = [file.stat().st_size for file in folder.iterdir()]
    assert lines == [
        "🎬 Stage 0/2: Processing 1 images",
        f"Fetching attach info: {reference}",
        f"Downloading image: AttachID={reference}",
        f"Image downloaded successfully: {size} bytes",
        "Calling Gemini API",
        f"Attach record created: ID={first.made[0].attach_id}",
        "📊 Updating job progress: 1/2 completed",
        "Stage 0 completed",
        "🎬 Stage 1/2: Processing 1 images",
        "Calling Gemini API",
        f"Attach record created: ID={second.made[0].attach_id}",
        "📊 Updating job progress: 2/2 completed",
        "Stage 1 completed",
    ]


async def test_repairs_are_logged(office: Office, engine: Engine) -> None:
    job = await office.job(1, job_type="single_batch", input_data=combinations(3))
    run = await run_job(engine, job)
    assert run.planned is not None
    assert run.planned.repairs
    assert [f"Repaired {repair}" for repair in run.planned.repairs] == run.lines[: len(run.planned.repairs)]


# --- reruns ------------------------------------------------------------------------------------------


async def test_a_rerun_of_a_finished_job_makes_charges_and_touches_nothing(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(2)
    first = await run_job(engine, job)
    before = await sql.job(job.job_id), await sql.production(job.production_id)
    asked = gemini.state.report()["total"]

    again = await run_job(engine, job)

    assert (await sql.job(job.job_id), await sql.production(job.production_id)) == before
    assert gemini.state.report()["total"] == asked
    assert (again.ended.made_now, again.ended.charged_now) == (0, 0)
    assert again.ended.attach_ids == first.ended.attach_ids
    assert again.ended.status is JobStatus.COMPLETED
    assert all(not made.new for outcome in again.outcomes for made in outcome.made)
    assert await sql.all("select 1 from quel_dagster.job_lease where job_id = %s", job.job_id) == []
    await office.check_books(job)


async def test_a_finished_job_needs_no_payer_to_be_run_again(office: Office, sql: Look, engine: Engine) -> None:
    job = await office.job(1, credit=PRICE)
    await run_job(engine, job)
    assert (await run_job(engine, job)).ended.status is JobStatus.COMPLETED
    await office.check_books(job)


async def test_a_rerun_of_a_partial_job_makes_only_what_is_missing(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(4, job_type="pipeline_stage", path="cinema", input_data=stages(2, 2))
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, match="scene-0"))
    first = await run_job(engine, job)
    assert (first.ended.completed, first.ended.failed) == (2, 2)
    gemini.state.reset()

    again = await run_job(engine, job)

    assert gemini.state.report()["total"] == 2
    assert (again.ended.made_now, again.ended.charged_now) == (2, 2 * PRICE)
    assert (again.ended.status, again.ended.completed, again.ended.failed) == (JobStatus.COMPLETED, 4, 0)
    assert again.ended.attach_ids[2:] == first.ended.attach_ids, "the ids are in slot order"
    row = await sql.job(job.job_id)
    assert (row["error_message"], row["failed_images"], row["retry_count"]) == (None, 0, 1)
    production = await sql.production(job.production_id)
    assert production["attach_ids"] == [*first.ended.attach_ids, *again.ended.attach_ids[:2]]
    await office.check_books(job)


async def test_pictures_of_an_older_worker_fill_slots(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(3, job_type="pipeline_stage", path="cinema", input_data=stages(2, 1))
    foreign = [await office.foreign_picture(job), await office.foreign_picture(job)]

    run = await run_job(engine, job)

    assert run.planned is not None
    assert run.planned.made_before == 2
    assert gemini.state.report()["total"] == 1
    (made,) = [made for made in run.outcomes[1].made if made.new]
    assert f"{job.job_id}_u0001_p0000_" in made.key
    assert run.ended.attach_ids[:2] == tuple(foreign)
    assert (run.ended.status, run.ended.completed, run.ended.made_now) == (JobStatus.COMPLETED, 3, 1)
    again = await run_job(engine, job)
    assert again.ended.made_now == 0
    await office.check_books(job)


async def test_a_job_finished_by_an_older_worker_is_unchanged(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(2)
    for _ in range(2):
        await office.foreign_picture(job)
    await sql.all(
        "update quel_production_jobs set job_status = 'completed', completed_at = now() where job_id = %s", job.job_id
    )
    before = await sql.job(job.job_id)
    await run_job(engine, job)
    assert await sql.job(job.job_id) == before
    assert gemini.state.report()["total"] == 0


async def test_a_job_left_in_processing_with_all_its_pictures_is_settled(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    """A worker died after its last commit: nothing is missing, yet the job has not ended."""
    job = await office.job(2)
    claim = await office.processing(job, run_id="dead")
    await office.commit(job, claim, 0)
    await office.commit(job, claim, 1)

    run = await run_job(engine, job, retry_of=("dead",))

    assert (run.ended.status, run.ended.completed, run.ended.made_now) == (JobStatus.COMPLETED, 2, 0)
    assert (await sql.job(job.job_id))["job_status"] == "completed"
    assert gemini.state.report()["total"] == 0
    await office.check_books(job)


# --- failures ----------------------------------------------------------------------------------------


async def test_a_partial_failure_ends_completed_with_reasons(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(4, job_type="pipeline_stage", path="cinema", input_data=stages(2, 2))
    gemini.state.add_rules(Rule(behaviour=Behaviour.SAFETY_BLOCK, match="scene-1", times=1))

    run = await run_job(engine, job)

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 3, 1)
    message = row["error_message"]
    assert message == run.ended.error
    assert message.startswith("1 of 4 pictures failed. stage1 #")
    assert "PROHIBITED_CONTENT" in message
    assert "\n" not in message
    (failed,) = [failure for outcome in run.outcomes for failure in outcome.failed]
    assert f"stage1 #{failed.slot.number}:" in message
    assert len(await sql.ledger(member_id=job.member_id)) == 3
    await office.check_books(job)


async def test_all_failing_ends_failed_and_charges_nothing(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(3, job_type="single_batch", input_data=combinations(2, 1))
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY))

    run = await run_job(engine, job)

    row = await sql.job(job.job_id)
    assert (run.ended.status, row["job_status"]) == (JobStatus.FAILED, "failed")
    assert (row["completed_images"], row["failed_images"]) == (0, 3)
    assert row["error_message"].startswith("3 of 3 pictures failed. combo0_front_full #0, ")
    assert "IMAGE_SAFETY" in row["error_message"]
    assert row["error_message"].count("IMAGE_SAFETY") == 1, "one reason is said once"
    assert await sql.ledger(member_id=job.member_id) == []
    assert (await sql.production(job.production_id))["production_status"] == "failed"


async def test_passing_failures_are_retried_and_not_charged(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(3)
    gemini.state.add_rules(
        Rule(behaviour=Behaviour.UNAVAILABLE, times=1), Rule(behaviour=Behaviour.NO_PICTURE, times=1)
    )
    run = await run_job(engine, job)
    assert run.ended.completed == 3
    assert gemini.state.report()["total"] == 5
    assert sum(line.startswith("Attempt 1 failed, next in ") for line in run.lines) == 2
    await office.check_books(job)


@pytest.mark.parametrize(
    ("job_type", "total", "input_data", "path"),
    [
        ("single_batch", 2, [1, 2], "job_input_data"),
        ("single_batch", 2_000, {}, "total_images"),
        ("simple_general", 0, {"prompt": "x"}, "total_images"),
        ("pipeline_stage", 1, {"stages": [{"prompt": "x" * 30_000}]}, "stages[0].prompt"),
    ],
)
async def test_input_that_cannot_be_used_fails_before_any_call(
    *,
    office: Office,
    sql: Look,
    engine: Engine,
    gemini: GeminiStandIn,
    job_type: str,
    total: int,
    input_data: Any,
    path: str,
) -> None:
    job = await office.job(total, job_type=job_type, input_data=input_data)

    run = await run_job(engine, job)

    assert isinstance(run.error, JobInputError)
    row = await sql.job(job.job_id)
    assert row["job_status"] == "failed"
    assert row["error_message"].startswith(f"{path}: ")
    assert "\n" not in row["error_message"]
    assert row["completed_at"] is not None
    assert (await sql.production(job.production_id))["production_status"] == "failed"
    assert gemini.state.report()["total"] == 0
    assert await sql.all("select 1 from quel_dagster.job_lease where job_id = %s", job.job_id) == []


@pytest.mark.parametrize("credit", [0, PRICE - 1])
async def test_a_member_without_credits_fails_before_any_call(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, credit: int
) -> None:
    job = await office.job(2, credit=credit)
    run = await run_job(engine, job)
    assert isinstance(run.error, InsufficientCreditsError)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["failed_images"]) == ("failed", 2)
    assert f"has {credit} credits, a picture costs {PRICE}" in row["error_message"]
    assert gemini.state.report()["total"] == 0
    await office.check_books(job)


async def test_credits_that_run_out_stop_the_job_and_keep_what_is_made(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(6, credit=3 * PRICE + 5)
    await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 3, 3)
    assert "credits" in row["error_message"]
    assert gemini.state.report()["total"] == 3, "calls are made only for pictures that the balance covers"
    await office.check_books(job)


async def test_job_without_a_payer_fails(office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn) -> None:
    job = await office.job(1, input_data={"prompt": "x", "userId": str(uuid4())})
    await sql.all("update quel_production_jobs set quel_member_id = null where job_id = %s", job.job_id)
    await sql.all("update quel_production_photo set quel_member_id = null where production_id = %s", job.production_id)
    run = await run_job(engine, job)
    assert isinstance(run.error, PayerError)
    assert "no one can be charged" in (await sql.job(job.job_id))["error_message"]
    assert gemini.state.report()["total"] == 0


@pytest.mark.parametrize("user_id", ["not a uuid", "../../etc", "11111111-2222-4333-8444-555555555555", 17, None])
async def test_a_user_id_that_names_no_member_leaves_the_jobs_own_member_to_pay(
    office: Office, sql: Look, engine: Engine, user_id: Any
) -> None:
    job = await office.job(1, input_data={"prompt": "x", "userId": user_id, "aspect-ratio": "1:1"})
    await run_job(engine, job)
    await office.check_books(job)
    (charge,) = await sql.ledger(member_id=job.member_id)
    key = await sql.value("select attach_file_path from quel_attach where attach_id = %s", charge["attach_idx"])
    assert key.startswith(f"generated-images/user-{job.member_id}/{job.job_id}_u0000_p0000_")


async def test_the_organization_pays_in_a_run(office: Office, sql: Look, engine: Engine) -> None:
    member_id = await office.member(0)
    org_id = await office.organization(member_id, 100)
    job = await office.job(2, member_id=member_id, org_id=org_id)
    run = await run_job(engine, job)
    assert run.planned is not None
    assert run.planned.payer == f"organization {org_id}"
    await office.check_books(job)


@pytest.mark.parametrize("behaviour", [Behaviour.BAD_KEY, Behaviour.FORBIDDEN])
async def test_a_refused_key_stops_the_job_at_once(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, behaviour: Behaviour
) -> None:
    job = await office.job(12, job_type="single_batch", input_data=combinations(4, 4, 4))
    gemini.state.add_rules(Rule(behaviour=behaviour))

    run = await run_job(engine, job)

    assert gemini.state.report()["total"] <= 2, "no more than the calls that were under way"
    row = await sql.job(job.job_id)
    assert row["job_status"] == "failed"
    assert "GEMINI_API_KEY" in row["error_message"]
    assert GEMINI_KEY not in row["error_message"]
    assert not any(GEMINI_KEY in line for line in run.lines)


async def test_unreachable_gemini_fails_the_job_after_bounded_retries(
    office: Office, sql: Look, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> None:
    monkeypatch.setenv("GEMINI_BASE_URL", "http://127.0.0.1:1")
    engine = Engine.from_settings(Settings.read(_env_file=None))
    job = await office.job(10)
    run = await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert row["job_status"] == "failed"
    assert "Cannot reach Gemini at http://127.0.0.1:1" in row["error_message"]
    assert "(tried 2 times)" in row["error_message"]
    assert 6 <= run.lines.count("Calling Gemini API") < 2 * 10, "gives up before every picture has had its tries"
    await engine.aclose()


async def test_a_unit_without_references_fails_and_others_continue(
    office: Office, sql: Look, engine: Engine, uploads: Uploads, gemini: GeminiStandIn
) -> None:
    missing = await uploads.picture(store=False)
    input_data = stages(1, 1)
    input_data["stages"][0]["individualImageAttachIds"] = attached(missing, 2**40, type_="prop")
    job = await office.job(2, job_type="pipeline_stage", path="cinema", input_data=input_data)

    run = await run_job(engine, job)

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 1, 1)
    assert "None of the 2 reference pictures could be fetched" in row["error_message"]
    assert any(line.startswith(f"Reference {missing} left out: ") for line in run.lines)
    assert gemini.state.report()["total"] == 1


async def test_a_reference_that_is_missing_is_left_out(
    office: Office, engine: Engine, uploads: Uploads, gemini: GeminiStandIn
) -> None:
    there, missing = await uploads.picture(), await uploads.picture(store=False)
    job = await office.job(
        1, input_data={"prompt": "x", "uploadedAttachIds": attached(there, missing), "aspect-ratio": "1:1"}
    )
    run = await run_job(engine, job)
    assert run.ended.completed == 1
    (request,) = gemini.state.requests
    assert request.parts == 1


async def test_references_are_downloaded_once_for_all_units(office: Office, engine: Engine, uploads: Uploads) -> None:
    reference = await uploads.picture()
    job = await office.job(
        3,
        job_type="single_batch",
        input_data=combinations(1, 1, 1, individualImageAttachIds=attached(reference)),
    )
    run = await run_job(engine, job)
    assert run.ended.completed == 3
    assert run.lines.count(f"Downloading image: AttachID={reference}") == 1


async def test_commit_with_a_lost_answer_is_counted_once(
    office: Office, sql: Look, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is repeated on another connection and finds its slot taken by itself."""
    lose_every_answer(monkeypatch)
    job = await office.job(2)
    run = await run_job(engine, job)
    assert (run.ended.status, run.ended.completed, run.ended.failed) == (JobStatus.COMPLETED, 2, 0)
    assert (await sql.job(job.job_id))["job_status"] == "completed"
    await office.check_books(job)


def lose_every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every commit happens, its answer is lost, and it is asked again."""
    commit = JobWork.commit_picture

    async def twice(self: Database, *args: Any, **kwargs: Any) -> Any:
        await commit(self, *args, **kwargs)
        return await commit(self, *args, **kwargs)

    monkeypatch.setattr(JobWork, "commit_picture", twice)


async def test_a_lost_answer_in_a_rerun_of_a_partial_job_ends_it_completed(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await office.job(2)
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1))
    await run_job(engine, job)
    lose_every_answer(monkeypatch)

    run = await run_job(engine, job)

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 2, 0)
    assert run.ended.completed == 2
    await office.check_books(job)


async def test_a_failed_job_that_has_all_its_pictures_is_completed_by_a_rerun(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    """Another program ended it so: nothing is missing, so it has not failed."""
    job = await office.job(1)
    await run_job(engine, job)
    await sql.all(
        "update quel_production_jobs set job_status = 'failed', error_message = 'Lost.' where job_id = %s", job.job_id
    )

    run = await run_job(engine, job)

    assert run.ended.status is JobStatus.COMPLETED
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["error_message"]) == ("completed", None)
    await office.check_books(job)


async def test_job_ends_with_the_last_of_its_units_in_any_order(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(3, job_type="single_batch", input_data=combinations(1, 1, 1))
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    last, *others = planned.units
    outcomes = [await session.make(unit, lambda _line: None) for unit in others]
    assert (await sql.job(job.job_id))["job_status"] == "processing"

    outcomes.append(await session.make(last, lambda _line: None))

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"]) == ("completed", 3)
    ended, ordered = await session.settle(outcomes, lambda _line: None)
    assert (ended.status, ended.completed, ended.made_now) == (JobStatus.COMPLETED, 3, 3)
    assert [outcome.unit for outcome in ordered] == list(planned.units)
    assert await sql.job(job.job_id) == row, "settling it changed what had ended"
    await engine.close_session("run-1")
    await office.check_books(job)


async def test_units_that_end_together_end_the_job_once(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(4, job_type="single_batch", input_data=combinations(1, 1, 1, 1))
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    said: list[str] = []

    await asyncio.gather(*(session.make(unit, said.append) for unit in planned.units))

    ended, _ = await session.settle([], said.append)
    assert ended.completed == 4
    assert session.stop.reason is None, "a second end found the lease gone"
    await engine.close_session("run-1")
    await office.check_books(job)


async def test_a_worker_that_stops_ends_a_job_that_lacks_nothing(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    gemini.state.latency = 0.3
    job = await office.job(1)
    session = await engine.session(job.job_id, run_id="run-1")
    planned = await session.plan(lambda _line: None)
    calling = asyncio.Event()

    def say(line: str) -> None:
        if line == "Calling Gemini API":
            calling.set()

    making = asyncio.create_task(session.make(planned.units[0], say))
    await asyncio.wait_for(calling.wait(), 30)

    session.drain()
    outcome = await making

    assert not session.handed_over
    ended, _ = await session.settle([outcome], lambda _line: None)
    assert ended.status is JobStatus.COMPLETED
    await engine.close_session("run-1")
    assert (await sql.job(job.job_id))["job_status"] == "completed"
    await office.check_books(job)


async def test_the_balance_that_a_run_reports_is_the_last_one(
    office: Office, engine: Engine, gemini: GeminiStandIn
) -> None:
    for _ in range(4):
        job = await office.job(6, job_type="single_batch", input_data=combinations(1, 1, 1, 1, 1, 1))
        run = await run_job(engine, job)
        assert run.ended.balance == 1000 - 6 * PRICE


async def test_a_session_closed_while_reading_the_flag_ends(office: Office, engine: Engine) -> None:
    """redis-py may swallow a cancel (asyncio.wait_for before Python 3.12): close must not wait for ever."""
    for turns in range(40):
        await engine.dependencies.cancel_flags._redis.connection_pool.disconnect()  # connecting is where it happens
        job = await office.job(1)
        await engine.session(job.job_id, run_id=job.job_id.hex)
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close_session(job.job_id.hex))
        done, _ = await asyncio.wait({closing}, timeout=60)
        assert done, f"close hangs when called {turns} turns of the loop after the session was opened"
