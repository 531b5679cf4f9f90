"""`quel submit`, `quel enqueue`, `quel cancel`, `quel retry`: what they change, and what they leave alone."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID, uuid4

import pytest
from dagster import DagsterRunStatus

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.jobs.model import JobStatus
from tests.integration.cli.conftest import Quel, Runs
from tests.integration.conftest import Look, NewlyMade, Office


def waiting(queue: JobQueue) -> list[UUID]:
    return [UUID(entry.decode()) for entry in queue.waiting()]


async def ended(office: Office, status: JobStatus, *, made: int = 1, total: int = 3) -> NewlyMade:
    job = await office.job(total)
    claim = await office.processing(job)
    for number in range(made):
        await office.commit(job, claim, number)
    await office.database.settle(job.job_id, claim.token, status=status, total=total, error="Why.", inputs=0)
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
    assert "ended at once" in (await quel("cancel", job.job_id)).ok().out
    assert (await sql.job(job.job_id))["job_status"] == "user_cancelled"
    assert (await sql.production(job.production_id))["production_status"] == "user_cancelled"
    assert queue.cancelled([job.job_id]) == [job.job_id]
    again = (await quel("cancel", "--json", job.job_id)).ok().data
    assert [deed["result"] for deed in again] == ["nothing"]


async def test_cancel_of_a_job_at_work_lets_nothing_more_be_committed_and_waits_for_its_end(
    quel: Quel, office: Office, sql: Look, queue: JobQueue
) -> None:
    job = await office.job(3)
    claim = await office.processing(job)
    await office.commit(job, claim, 0)
    cancelling = asyncio.create_task(quel("cancel", "--wait", "20", job.job_id))
    while not queue.cancelled([job.job_id]):
        assert not cancelling.done()
        await asyncio.sleep(0.01)
    assert await sql.all("select 1 from quel_dagster.job_cancel where job_id = %s", job.job_id), "not kept"
    assert (await sql.job(job.job_id))["job_status"] == "processing", "a job under a live lease is its run's to end"
    await office.database.settle(job.job_id, claim.token, status=JobStatus.COMPLETED, total=3, error=None, inputs=0)
    assert "its run ended it with 1 picture\n" in (await cancelling).ok().out
    assert (await sql.job(job.job_id))["job_status"] == "user_cancelled"


async def test_cancel_does_not_wait_for_ever(quel: Quel, office: Office) -> None:
    job = await office.job(2)
    await office.processing(job)
    assert "its run ends it within seconds" in (await quel("cancel", "--wait", "0", job.job_id)).ok().out


async def test_cancel_leaves_an_ended_job_alone(quel: Quel, office: Office, sql: Look, queue: JobQueue) -> None:
    job, stranger, good = await ended(office, JobStatus.COMPLETED), uuid4(), await office.job(1)
    answer = (await quel("cancel", job.job_id, stranger, good.job_id)).wrong()
    assert f"{job.job_id}: had ended completed" in answer.out
    assert str(stranger) in answer.out
    assert f"{good.job_id}: cancelled" in answer.out, "the others are cancelled all the same"
    assert (await sql.job(job.job_id))["job_status"] == "completed"
    assert queue.cancelled([job.job_id]) == []
    assert not await sql.all("select 1 from quel_dagster.job_cancel where job_id = %s", job.job_id)


# --- retry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.COMPLETED])
async def test_retry_pushes_an_ended_job_and_says_what_will_be_made(
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
    await quel("cancel", cancelled.job_id)
    impossible = await office.job(100_000)
    await database.end_abandoned(impossible.job_id, status=JobStatus.FAILED, error="too many")
    asked, stranger = await office.job(2), uuid4()
    queue.cancel(asked.job_id)
    answer = (await quel("retry", "--force", cancelled.job_id, asked.job_id, stranger)).wrong()
    assert answer.out.count("its user cancelled it") == 2
    assert f"{stranger} is not in quel_production_jobs" in answer.out
    assert "total_images" in (await quel("retry", impossible.job_id)).wrong().out
    assert waiting(queue) == []


async def test_retry_leaves_a_job_alone_that_waits_or_is_worked_on(
    quel: Quel, office: Office, queue: JobQueue, runs: Runs
) -> None:
    queued, launched, at_work = await office.job(2), await office.job(2), await office.job(2)
    queue.push(queued.job_id)
    runs.add(launched.job_id, DagsterRunStatus.NOT_STARTED)
    await office.processing(at_work, run_id="run-5")
    answer = (await quel("retry", queued.job_id, launched.job_id, at_work.job_id)).ok()
    assert answer.out.count("waits for its turn already") == 2
    assert "run run-5 is at work on it" in answer.out
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
