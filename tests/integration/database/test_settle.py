"""The end of a job, and what it does to its production (domain.md §3)."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from quel_dagster.adapters.database.records import Settled
from quel_dagster.adapters.database.store import Database
from quel_dagster.errors import LeaseLostError
from quel_dagster.jobs.model import JobStatus
from tests.integration.conftest import Look, NewlyMade, Office


async def settle(
    office: Office,
    job: NewlyMade,
    token: int,
    status: JobStatus = JobStatus.COMPLETED,
    *,
    error: str | None = None,
    inputs: int = 0,
    database: Database | None = None,
) -> Settled:
    return await (database or office.database).work.settle(
        job.job_id, token, status=status, total=job.total, error=error, inputs=inputs
    )


async def worked(
    office: Office, job: NewlyMade, made: int, status: JobStatus = JobStatus.COMPLETED, **more: Any
) -> Settled:
    """A whole run: claim, begin, some pictures, settle."""
    claim = await office.processing(job)
    for number in range(made):
        await office.commit(job, claim, number)
    return await settle(office, job, claim.token, status, **more)


async def test_begin_enters_processing_with_its_production(office: Office, sql: Look) -> None:
    job = await office.job()
    await office.processing(job)

    row = await sql.job(job.job_id)
    assert row["job_status"] == "processing"
    assert row["completed_at"] is None
    assert row["started_at"] >= row["created_at"]
    assert row["updated_at"] > row["created_at"]
    assert row["retry_count"] == 0
    assert (await sql.production(job.production_id))["production_status"] == "processing"


async def test_a_whole_job_ends_completed(office: Office, sql: Look) -> None:
    job = await office.job(total=3)
    settled = await worked(office, job, 3, inputs=5)

    row = await sql.job(job.job_id)
    assert settled == Settled(
        status=JobStatus.COMPLETED, completed=3, failed=0, attach_ids=tuple(row["generated_attach_ids"]), error=None
    )
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 3, 0)
    assert row["error_message"] is None
    assert row["started_at"] <= row["completed_at"]
    assert row["updated_at"] >= row["started_at"]
    production = await sql.production(job.production_id)
    assert production["production_status"] == "completed"
    assert production["attach_ids"] == row["generated_attach_ids"]
    assert production["generated_image_count"] == 3
    assert production["input_images_count"] == 5
    assert production["processing_duration_seconds"] == 0
    assert await sql.all("select 1 from quel_dagster.job_lease where job_id = %s", job.job_id) == []


async def test_a_partial_job_ends_completed_and_says_what_failed(office: Office, sql: Look) -> None:
    job = await office.job(total=3)
    settled = await worked(office, job, 2, error="1 of 3 pictures failed. general #2: refused")

    assert (settled.status, settled.failed) == (JobStatus.COMPLETED, 1)
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 2, 1)
    assert row["error_message"] == "1 of 3 pictures failed. general #2: refused"


@pytest.mark.parametrize("error", [None, "Everything was refused."])
async def test_a_job_without_a_picture_is_never_completed(office: Office, sql: Look, error: str | None) -> None:
    job = await office.job(total=2)
    settled = await worked(office, job, 0, error=error)

    assert settled.status is JobStatus.FAILED
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("failed", 0, 2)
    assert row["error_message"] == (error or "No picture was made.")
    production = await sql.production(job.production_id)
    assert production["production_status"] == "failed"
    assert production["attach_ids"] == []
    assert production["generated_image_count"] == 0


@pytest.mark.parametrize("made", [0, 1, 2])
async def test_the_users_cancel_wins_over_what_the_run_concluded(office: Office, sql: Look, made: int) -> None:
    job = await office.job(total=2)
    claim = await office.processing(job)
    for number in range(made):
        await office.commit(job, claim, number)
    await office.database.work.keep_cancel(job.job_id)

    settled = await settle(office, job, claim.token)

    assert settled.status is JobStatus.USER_CANCELLED
    row = await sql.job(job.job_id)
    assert row["job_status"] == "user_cancelled"
    assert len(row["generated_attach_ids"]) == made, "made pictures are kept"
    assert row["completed_at"] is not None
    assert (await sql.production(job.production_id))["production_status"] == "user_cancelled"
    assert (await sql.production(job.production_id))["attach_ids"] == row["generated_attach_ids"]


async def test_a_cancel_that_the_web_app_wrote_into_the_row_wins(office: Office, sql: Look) -> None:
    job = await office.job(total=1)
    claim = await office.processing(job)
    await sql.all("update quel_production_jobs set job_status = 'user_cancelled' where job_id = %s", job.job_id)

    assert (await settle(office, job, claim.token)).status is JobStatus.USER_CANCELLED


async def test_an_operators_stop_ends_cancelled_and_the_production_failed(office: Office, sql: Look) -> None:
    job = await office.job(total=2)
    settled = await worked(office, job, 1, JobStatus.CANCELLED, error="Stopped by an operator.")

    assert settled.status is JobStatus.CANCELLED
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["error_message"]) == ("cancelled", "Stopped by an operator.")
    assert (await sql.production(job.production_id))["production_status"] == "failed"


async def test_a_run_that_lost_its_lease_settles_nothing(office: Office, sql: Look) -> None:
    job = await office.job(total=1)
    old = await office.processing(job, run_id="run-1")
    new = await office.processing(job, run_id="run-2", retry_of=("run-1",))
    before = await sql.job(job.job_id), await sql.production(job.production_id)

    with pytest.raises(LeaseLostError):
        await settle(office, job, old.token, JobStatus.FAILED, error="too late")

    assert (await sql.job(job.job_id), await sql.production(job.production_id)) == before
    await office.commit(job, new, 0)
    assert (await settle(office, job, new.token)).status is JobStatus.COMPLETED
    with pytest.raises(LeaseLostError):  # a second settle of the same run: its lease is given back
        await settle(office, job, new.token)


async def test_a_second_run_counts_as_a_retry_and_clears_what_the_first_one_said(office: Office, sql: Look) -> None:
    job = await office.job(total=2)
    await worked(office, job, 1, error="1 of 2 pictures failed.")
    first = await sql.job(job.job_id)

    claim = await office.processing(job, run_id="run-2")

    row = await sql.job(job.job_id)
    assert (row["job_status"], row["retry_count"]) == ("processing", 1)
    assert (row["error_message"], row["failed_images"], row["completed_at"]) == (None, 0, None)
    assert row["completed_images"] == 1
    assert row["started_at"] > first["started_at"]
    await office.commit(job, claim, 1)
    assert (await settle(office, job, claim.token)).failed == 0
    assert (await sql.production(job.production_id))["generated_image_count"] == 2
    await office.check_books(job)


async def test_a_retry_that_takes_over_keeps_the_start_of_the_first(office: Office, sql: Look) -> None:
    job = await office.job()
    await office.processing(job, run_id="run-1")
    started_at = (await sql.job(job.job_id))["started_at"]

    await office.processing(job, run_id="run-2", retry_of=("run-1",))

    row = await sql.job(job.job_id)
    assert (row["started_at"], row["retry_count"]) == (started_at, 1)


# --- the production ----------------------------------------------------------------------------------


async def test_existing_ids_of_a_production_stay_in_front(office: Office, sql: Look) -> None:
    job = await office.job(total=2)
    await sql.all(
        "update quel_production_photo set attach_ids = '[12, 11]' where production_id = %s", job.production_id
    )

    settled = await worked(office, job, 2)

    assert (await sql.production(job.production_id))["attach_ids"] == [12, 11, *settled.attach_ids]


async def test_no_id_is_in_a_production_twice(office: Office, sql: Look) -> None:
    job = await office.job(total=2)
    await worked(office, job, 1, error="1 of 2 pictures failed.")
    claim = await office.processing(job, run_id="run-2")
    await office.commit(job, claim, 1)

    settled = await settle(office, job, claim.token)

    production = await sql.production(job.production_id)
    assert production["attach_ids"] == list(settled.attach_ids)
    assert production["generated_image_count"] == 2


@pytest.mark.parametrize("attach_ids", [None, "null", "{}"])
async def test_a_production_without_a_list_gets_one(office: Office, sql: Look, attach_ids: str | None) -> None:
    job = await office.job(total=1)
    await sql.all(
        "update quel_production_photo set attach_ids = %s where production_id = %s", attach_ids, job.production_id
    )
    settled = await worked(office, job, 1)
    assert (await sql.production(job.production_id))["attach_ids"] == list(settled.attach_ids)


async def pair(office: Office) -> tuple[NewlyMade, NewlyMade]:
    """Two jobs of one production and one member."""
    first = await office.job(total=2)
    second = await office.job(total=2, member_id=first.member_id)
    return first, await office.into_production_of(first, second)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_union_over_two_jobs_in_either_order(office: Office, sql: Look, order: tuple[int, int]) -> None:
    jobs = await pair(office)
    earlier = await worked(office, jobs[order[0]], 2)
    assert (await sql.production(jobs[0].production_id))["production_status"] == "processing", "one is still pending"

    later = await worked(office, jobs[order[1]], 2)

    production = await sql.production(jobs[0].production_id)
    assert production["attach_ids"] == [*earlier.attach_ids, *later.attach_ids]
    assert production["generated_image_count"] == 4
    assert production["production_status"] == "completed"
    await office.check_books(*jobs)


async def test_two_jobs_that_settle_at_once_lose_no_id(office: Office, sql: Look, endpoints: Any) -> None:
    jobs = await pair(office)
    others = [Database(endpoints.database_url) for _ in jobs]
    claims = [await office.processing(job) for job in jobs]
    for job, claim in zip(jobs, claims, strict=True):
        for number in range(2):
            await office.commit(job, claim, number)

    settled = await asyncio.gather(
        *(
            settle(office, job, claim.token, database=other)
            for job, claim, other in zip(jobs, claims, others, strict=True)
        )
    )

    production = await sql.production(jobs[0].production_id)
    assert sorted(production["attach_ids"]) == sorted(id_ for each in settled for id_ in each.attach_ids)
    assert production["production_status"] == "completed"
    assert production["generated_image_count"] == 4
    await asyncio.gather(*(other.aclose() for other in others))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("completed", "failed", "completed"),
        ("failed", "completed", "completed"),
        ("completed", "user_cancelled", "completed"),
        ("failed", "user_cancelled", "user_cancelled"),
        ("user_cancelled", "failed", "user_cancelled"),
        ("cancelled", "user_cancelled", "user_cancelled"),
        ("failed", "failed", "failed"),
        ("cancelled", "failed", "failed"),
        ("completed", "pending", "processing"),
        ("completed", "processing", "processing"),
    ],
)
async def test_a_production_follows_its_jobs(office: Office, sql: Look, first: str, second: str, expected: str) -> None:
    jobs = await pair(office)

    async def end(job: NewlyMade, status: str) -> None:
        if status == "pending":
            return
        claim = await office.processing(job)
        if status == "processing":
            return
        if status == "completed":
            await office.commit(job, claim, 0)
        if status == "user_cancelled":
            await office.database.work.keep_cancel(job.job_id)
        await settle(office, job, claim.token, JobStatus(status), error="so it was")

    if second in {"pending", "processing"}:  # the open one has to be there when the other one settles
        await end(jobs[1], second)
        await end(jobs[0], first)
    else:
        await end(jobs[0], first)
        await end(jobs[1], second)

    assert (await sql.production(jobs[0].production_id))["production_status"] == expected


async def test_the_duration_spans_the_jobs_of_a_production(office: Office, sql: Look) -> None:
    first, second = await pair(office)
    await worked(office, first, 1)
    claim = await office.processing(second)
    await office.commit(second, claim, 0)
    earlier: datetime = (await sql.job(first.job_id))["started_at"] - timedelta(seconds=100)
    await sql.all("update quel_production_jobs set started_at = %s where job_id = %s", earlier, first.job_id)

    await settle(office, second, claim.token)

    duration = (await sql.production(first.production_id))["processing_duration_seconds"]
    assert 100 <= duration <= 160
