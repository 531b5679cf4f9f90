"""`quel submit`, `quel enqueue`, `quel cancel`, `quel retry`: what they change, and what they leave alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from dagster import DagsterRunStatus
from PIL import Image

from quel_dagster.adapters.cancel_flags import operator_cancel_key
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.jobs.model import JobStatus
from tests.integration.cli.conftest import Quel, Runs
from tests.integration.conftest import PRICE, Look, NewlyMade, Office


def waiting(queue: JobQueue) -> list[UUID]:
    return [UUID(entry.decode()) for entry in queue.waiting()]


async def ended(
    office: Office, status: JobStatus, *, made: int = 1, total: int = 3, member_id: UUID | None = None
) -> NewlyMade:
    job = await office.job(total, member_id=member_id)
    claim = await office.processing(job)
    for number in range(made):
        await office.commit(job, claim, number)
    await office.database.work.settle(job.job_id, claim.token, status=status, total=total, error="Why.", inputs=0)
    return job


# --- submit and enqueue ----------------------------------------------------------------------------------


async def test_submit_writes_the_rows_and_pushes_the_id(quel: Quel, office: Office, sql: Look, queue: JobQueue) -> None:
    member = await office.member()
    given = {
        "job_type": "simple_general",
        "total_images": 2,
        "quel_production_path": "beauty",
        "quel_member_id": str(member),
        "job_input_data": {"prompt": "A cream"},
    }
    job_id = UUID((await quel("submit", "-", stdin=json.dumps(given))).ok().out.strip())
    assert waiting(queue) == [job_id]
    row = await sql.job(job_id)
    assert (row["quel_production_path"], row["total_images"], row["estimated_credits"]) == ("beauty", 2, 40)


async def test_submit_of_what_is_no_job_is_one_line(quel: Quel, queue: JobQueue) -> None:
    for stdin, named in (
        ("{", "not JSON"),
        ("[]", "no object"),
        ('{"job_type": "simple_general"}', "total_images"),
        ('{"job_type": "simple_general", "total_images": 1, "job_input_data": {}}', "quel_member_id"),
    ):
        assert named in (await quel("submit", "-", stdin=stdin)).wrong().err
    assert "no-such-file.json" in (await quel("submit", "no-such-file.json")).wrong().err
    assert waiting(queue) == []


async def test_enqueue_pushes_ids_as_they_are(quel: Quel, queue: JobQueue) -> None:
    ids = [uuid4(), uuid4()]
    assert (await quel("enqueue", "--json", *ids)).ok().data == {"pushed": [str(job_id) for job_id in ids]}
    assert sorted(waiting(queue)) == sorted(ids)


# --- cancel ----------------------------------------------------------------------------------------------


async def test_cancel_of_a_waiting_job_ends_it_at_once(quel: Quel, office: Office, sql: Look, queue: JobQueue) -> None:
    job = await office.job(2)
    queue.push(job.job_id)
    cancelled = await quel("cancel", "--as", "mina", "--why", "wrong season", job.job_id)
    assert "ended at once" in cancelled.ok().out
    row = await sql.job(job.job_id)
    assert row["job_status"] == "cancelled", "an operator's cancel is not the user's"
    assert row["error_message"] == "Cancelled by operator mina: wrong season."
    assert row["failed_images"] == 0, "a picture that was cancelled did not fail"
    assert queue.cancelled([job.job_id]) == [], "the user's flag is the user's"
    again = (await quel("cancel", "--json", job.job_id)).ok().data
    assert [deed["result"] for deed in again] == ["nothing"]


async def test_cancel_of_a_running_job_waits_for_its_end(
    quel: Quel, office: Office, sql: Look, queue: JobQueue
) -> None:
    job = await office.job(3)
    claim = await office.processing(job)
    await office.commit(job, claim, 0)
    cancelling = asyncio.create_task(quel("cancel", "--wait", "20", job.job_id))
    while not queue.client.exists(operator_cancel_key(job.job_id)):
        assert not cancelling.done()
        await asyncio.sleep(0.01)
    assert await sql.all("select 1 from quel_dagster.job_cancel where job_id = %s", job.job_id), "not kept"
    assert (await sql.job(job.job_id))["job_status"] == "processing", "a job under a live lease is its run's to end"
    await office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.COMPLETED, total=3, error=None, inputs=0
    )
    assert "its run ended it with 1 picture\n" in (await cancelling).ok().out
    assert (await sql.job(job.job_id))["job_status"] == "cancelled"


async def test_cancel_does_not_wait_for_ever(quel: Quel, office: Office) -> None:
    job = await office.job(2)
    await office.processing(job)
    assert "its run ends it within seconds" in (await quel("cancel", "--wait", "0", job.job_id)).ok().out


async def test_cancel_of_an_ended_job_is_refused(quel: Quel, office: Office, sql: Look, queue: JobQueue) -> None:
    job, stranger, good = await ended(office, JobStatus.COMPLETED), uuid4(), await office.job(1)
    answer = (await quel("cancel", job.job_id, stranger, good.job_id)).wrong()
    assert f"{job.job_id}: had ended completed" in answer.out
    assert str(stranger) in answer.out
    assert f"{good.job_id}: cancelled" in answer.out, "the others are cancelled all the same"
    assert (await sql.job(job.job_id))["job_status"] == "completed"
    assert queue.cancelled([job.job_id]) == []
    assert not await sql.all("select 1 from quel_dagster.job_cancel where job_id = %s", job.job_id)


async def test_retry_after_an_operators_cancel_makes_the_rest(
    quel: Quel, office: Office, queue: JobQueue, sql: Look
) -> None:
    job = await office.job(2)
    await quel("cancel", "--as", "mina", job.job_id)
    assert await office.database.work.is_cancelled_by_operator(job.job_id)
    assert "pushed again" in (await quel("retry", job.job_id)).ok().out
    assert not await office.database.work.is_cancelled_by_operator(job.job_id), "else its run would make nothing"
    assert waiting(queue) == [job.job_id]
    claim = await office.processing(job)
    await office.commit(job, claim, 0)
    await office.commit(job, claim, 1)
    await office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.COMPLETED, total=2, error=None, inputs=0
    )
    assert (await sql.job(job.job_id))["job_status"] == "completed"


# --- refund and the action log ---------------------------------------------------------------------------


async def test_refund_gives_back_each_charged_picture_once(
    quel: Quel, office: Office, sql: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_PER_PRICE", str(PRICE + 1))  # it was lower when these were charged
    member = await office.member(credit=100)
    job = await ended(office, JobStatus.COMPLETED, made=2, member_id=member)
    ids = (await sql.job(job.job_id))["generated_attach_ids"]

    async def credit() -> int:
        row = await sql.one("select quel_member_credit from quel_member where quel_member_id = %s", member)
        return int(row["quel_member_credit"])

    assert await credit() == 100 - 2 * PRICE
    refused = await quel("refund", ids[0], "--reason", "two thumbs", stdin="n\n")
    assert refused.code == 1
    assert f"Refund 1 picture, {PRICE} credits?" in refused.err
    assert (
        f"Refund 2 pictures, {2 * PRICE} credits?"
        in (await quel("refund", job.job_id, "--reason", "blurred", stdin="n\n")).err
    )
    assert await credit() == 100 - 2 * PRICE, "asked before it acts"

    done = await quel("refund", ids[0], "--reason", "two thumbs", stdin="y\n")
    assert (done.code, f"{PRICE} credits refunded" in done.out) == (0, True)
    assert "refunded before" in (await quel("refund", ids[0], "--reason", "again", "--yes")).ok().out
    assert await credit() == 100 - PRICE
    out = (await quel("refund", job.job_id, "--reason", "all of it", "--yes", "--as", "mina")).ok().out
    assert out.startswith(f"picture {ids[1]}: ")
    assert out.count("\n") == 1, "only what is left to refund"
    assert await credit() == 100
    assert "no picture" in (await quel("refund", job.job_id, "--reason", "once more", "--yes")).ok().out
    assert "never charged" in (await quel("refund", 2**40, "--reason", "none", "--yes")).wrong().out
    ledger = await sql.all(
        "select attach_idx, amount, production_idx, description from quel_credits "
        "where user_id = %s and transaction_type = 'refund' order by created_at",
        member,
    )
    assert [(row["attach_idx"], row["amount"], row["production_idx"]) for row in ledger] == [
        (attach_id, PRICE, job.production_id) for attach_id in ids
    ]
    assert "two thumbs" in ledger[0]["description"]


async def test_every_action_is_recorded(quel: Quel, office: Office, sql: Look) -> None:
    job = await ended(office, JobStatus.COMPLETED)
    (attach_id,) = (await sql.job(job.job_id))["generated_attach_ids"]
    await quel("retry", job.job_id, "--as", "mina", "--why", "user asked")
    await quel("refund", attach_id, "--reason", "blurred", "--as", "juno", "--yes")
    await quel("cancel", job.job_id, "--as", "mina", "--dry-run")
    log = (await quel("show", "--json", job.job_id)).ok().data["actions"]
    assert [(row["actor"], row["via"], row["action"], row["reason"], row["result"]) for row in log] == [
        ("mina", "cli", "retry", "user asked", "done"),
        ("juno", "cli", "refund", "blurred", "done"),
    ]
    assert log[1]["subject"] == str(attach_id)
    out = (await quel("show", job.job_id)).ok().out
    assert "juno (cli)" in out
    assert "blurred" in out


async def test_pause_and_resume_are_in_the_log(quel: Quel, sql: Look, queue: JobQueue) -> None:
    await quel("pause", "--reason", "move of the store 83", "--as", "mina")
    await quel("resume", "--as", "juno")
    rows = await sql.all("select actor, action, reason from quel_dagster.action order by action_id desc limit 2")
    assert [(row["actor"], row["action"]) for row in rows] == [("juno", "resume"), ("mina", "pause")]
    assert rows[1]["reason"] == "move of the store 83"


async def test_what_is_done_to_dead_letters_is_in_the_log(
    quel: Quel, office: Office, sql: Look, queue: JobQueue
) -> None:
    again, gone = await office.job(1), await office.job(1)
    for job in (again, gone):
        queue.dead_letter_job(job.job_id, "a reason")
    await quel("dead", "requeue", again.job_id, "--as", "mina")
    await quel("dead", "drop", gone.job_id, "--as", "juno", "--yes")
    for job, expected in ((again, ("mina", "dead requeue")), (gone, ("juno", "dead drop"))):
        row = await sql.one("select actor, action from quel_dagster.action where job_id = %s", job.job_id)
        assert (row["actor"], row["action"]) == expected


# --- retry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.COMPLETED])
async def test_retry_pushes_an_ended_job_and_reports_missing_pictures(
    quel: Quel, office: Office, queue: JobQueue, status: JobStatus
) -> None:
    job = await ended(office, status)
    out = (await quel("retry", job.job_id)).ok().out
    assert waiting(queue) == [job.job_id]
    assert "only the 2 missing pictures" in out
    assert "at most 40 credits" in out
    assert "1 picture it has is kept" in out


async def test_retry_of_a_whole_job_does_nothing(quel: Quel, office: Office, queue: JobQueue) -> None:
    job = await ended(office, JobStatus.COMPLETED, made=3)
    (deed,) = (await quel("retry", "--json", job.job_id)).ok().data
    assert deed["result"] == "nothing"
    assert "nothing is missing" in deed["said"]
    assert waiting(queue) == []


async def test_retry_refuses_what_cannot_be(quel: Quel, office: Office, database: Database, queue: JobQueue) -> None:
    cancelled = await office.job(2)
    await database.work.keep_cancel(cancelled.job_id)
    await database.recovery.end_abandoned(cancelled.job_id, status=JobStatus.CANCELLED, error="Cancelled by the user.")
    impossible = await office.job(100_000)
    await database.recovery.end_abandoned(impossible.job_id, status=JobStatus.FAILED, error="too many")
    asked, stranger = await office.job(2), uuid4()
    queue.cancel(asked.job_id)
    answer = (await quel("retry", "--force", cancelled.job_id, asked.job_id, stranger)).wrong()
    assert answer.out.count("its user cancelled it") == 2
    assert f"{stranger} is not in quel_production_jobs" in answer.out
    assert "total_images" in (await quel("retry", impossible.job_id)).wrong().out
    assert waiting(queue) == []


async def test_retry_and_enqueue_use_jobs_again(quel: Quel, office: Office, queue: JobQueue) -> None:
    failed, forgotten = await ended(office, JobStatus.FAILED), await office.job(2)
    (await quel("retry", failed.job_id)).ok()
    (await quel("enqueue", forgotten.job_id)).ok()
    assert queue.depths() == {"again": 2, "queue": 0, "processing": 0, "dead": 0}


async def test_cancel_of_a_foreign_kind_sets_the_flag_and_leaves_the_row(
    quel: Quel, office: Office, sql: Look, queue: JobQueue
) -> None:
    job = await office.job(1, path="landing")
    before = await sql.job(job.job_id)
    assert "its row stays as it is" in (await quel("cancel", job.job_id)).ok().out
    assert queue.cancelled([job.job_id]) == [job.job_id]
    assert await sql.job(job.job_id) == before


async def test_retry_and_show_of_a_foreign_kind_name_it(quel: Quel, office: Office, queue: JobQueue) -> None:
    job = await office.job(1, path="Multiview", input_data={"sourceAttachId": 7})
    refused = (await quel("retry", "--force", job.job_id)).wrong()
    assert "it is a job of kind multiview, which only the older worker makes" in refused.out
    assert waiting(queue) == []
    shown = (await quel("show", job.job_id)).ok().out
    assert "simple_general, multiview (the older worker's)" in shown
    assert "Nothing to do here: it is a job of kind multiview" in shown


async def test_retry_of_a_waiting_or_running_job_does_nothing(
    quel: Quel, office: Office, queue: JobQueue, runs: Runs
) -> None:
    queued, launched, at_work = await office.job(2), await office.job(2), await office.job(2)
    queue.push(queued.job_id)
    runs.add(launched.job_id, DagsterRunStatus.NOT_STARTED)
    await office.processing(at_work, run_id="run-5")
    answer = (await quel("retry", queued.job_id, launched.job_id, at_work.job_id)).ok()
    assert answer.out.count("is already queued") == 2
    assert "run run-5 works on it" in answer.out
    assert waiting(queue) == [queued.job_id]


async def test_retry_pushes_a_job_that_everybody_forgot(quel: Quel, office: Office, queue: JobQueue) -> None:
    job = await office.job(2)
    assert "was pending, pushed again" in (await quel("retry", job.job_id)).ok().out
    assert waiting(queue) == [job.job_id]


async def test_retry_takes_a_job_from_another_worker_only_by_force(
    quel: Quel, office: Office, sql: Look, queue: JobQueue
) -> None:
    job = await office.job(2)
    await sql.all("update quel_production_jobs set job_status = 'processing' where job_id = %s", job.job_id)
    assert "--force" in (await quel("retry", job.job_id)).wrong().out
    assert waiting(queue) == []
    await quel("retry", "--force", job.job_id)
    assert waiting(queue) == [job.job_id]


async def test_submit_uploads_references_as_the_web_app_does(
    quel: Quel, office: Office, sql: Look, queue: JobQueue, tmp_path: Path
) -> None:
    photo = tmp_path / "my photo.png"
    Image.new("RGB", (80, 60), "red").save(photo)
    job = {
        "job_type": "simple_general",
        "total_images": 1,
        "quel_member_id": str(await office.member()),
        "job_input_data": {"prompt": "A cream", "uploadedAttachIds": [{"attachId": 5, "type": "bg"}]},
    }
    answer = await quel("submit", "-", "--reference", f"model={photo}", stdin=json.dumps(job))
    row = await sql.job(UUID(answer.ok().out.strip()))
    kept, added = row["job_input_data"]["uploadedAttachIds"]
    assert (kept, added["type"]) == ({"attachId": 5, "type": "bg"}, "model")
    attach = await sql.one("select * from quel_attach where attach_id = %s", added["attachId"])
    assert attach["attach_file_path"].startswith("upload-")
    assert attach["attach_file_type"] == "image/png"
    stored = tmp_path / "objects" / "uploads" / attach["attach_file_path"]
    assert stored.read_bytes() == photo.read_bytes()
