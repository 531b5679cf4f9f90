"""Jobs that the older worker has taken from the same list: in processing, without a lease."""

from __future__ import annotations

from quel_dagster.jobs.model import JobStatus
from tests.integration.conftest import Look, NewlyMade, Office


async def taken_by_another_worker(office: Office, sql: Look) -> NewlyMade:
    job = await office.job(2)
    await sql.all("set session_replication_role = replica")  # no trigger sets updated_at
    await sql.all(
        "update quel_production_jobs set job_status = 'processing', created_at = now() - interval '9 years',"
        " started_at = now() - interval '1 day', updated_at = now() - interval '1 day' where job_id = %s",
        job.job_id,
    )
    return job


async def test_job_of_another_worker_is_not_ended(office: Office, sql: Look) -> None:
    job = await taken_by_another_worker(office, sql)
    before = await sql.job(job.job_id)

    ended = await office.database.recovery.end_abandoned(
        job.job_id, status=JobStatus.FAILED, error="no run works on it"
    )

    assert ended is None
    assert await sql.job(job.job_id) == before


async def test_job_of_another_worker_is_not_stranded(office: Office, sql: Look) -> None:
    job = await taken_by_another_worker(office, sql)

    stranded = await office.database.recovery.stranded_jobs(pending_seconds=60, grace_seconds=60, most=100_000)

    assert job.job_id not in stranded


async def test_job_under_an_expired_lease_is_stranded_and_ended(office: Office, sql: Look) -> None:
    job = await office.job(2)
    await office.processing(job)
    await sql.all(
        "update quel_dagster.job_lease set expires_at = now() - interval '1 day' where job_id = %s", job.job_id
    )

    assert job.job_id in await office.database.recovery.stranded_jobs(
        pending_seconds=60, grace_seconds=60, most=100_000
    )
    ended = await office.database.recovery.end_abandoned(job.job_id, status=JobStatus.FAILED, error="its run died")
    assert ended is not None
    assert ended.status is JobStatus.FAILED
