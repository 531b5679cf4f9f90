"""One worker per job: claims, expiry by the database's clock, and the thread that renews."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from quel_dagster.adapters.database import lease
from quel_dagster.adapters.database.lease import LeaseRenewer
from quel_dagster.adapters.database.records import Claim
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.work import LEASE_SECONDS
from quel_dagster.errors import JobNotFoundError, LeaseHeldError, LeaseLostError
from quel_dagster.services.endpoints import Endpoints
from tests.integration.conftest import Look, NewlyMade, Office, eventually


async def lease_of(sql: Look, job: NewlyMade) -> dict[str, Any] | None:
    rows = await sql.all(
        "select *, expires_at > clock_timestamp() as live from quel_dagster.job_lease where job_id = %s", job.job_id
    )
    return rows[0] if rows else None


async def expire(sql: Look, job: NewlyMade) -> None:
    await sql.all(
        "update quel_dagster.job_lease set expires_at = clock_timestamp() - interval '1 ms' where job_id = %s",
        job.job_id,
    )


async def test_a_free_job_is_claimed_as_it_stands(office: Office, sql: Look) -> None:
    job = await office.job(total=3, path="eats", input_data={"prompt": "soup", "n": [1.5, None]})
    before = await sql.job(job.job_id)
    foreign = await office.foreign_picture(job)

    claim = await office.claim(job)

    assert claim.took_over_from is None
    assert claim.cancelled_by is None
    assert claim.job.job_id == job.job_id
    assert claim.job.production_id == job.production_id
    assert claim.job.input_data == {"prompt": "soup", "n": [1.5, None]}
    assert (claim.job.total_images, claim.job.production_path) == (3, "eats")
    assert claim.job.job_status == "pending"
    assert claim.job.created_at == before["created_at"]
    assert [made.attach_id for made in claim.made] == [foreign]
    assert (await sql.job(job.job_id))["job_status"] == "pending", "a claim changes no row of the web app"


async def test_what_the_job_does_not_say_its_production_does(office: Office, sql: Look) -> None:
    job = await office.job(path="cinema")
    await sql.all(
        "update quel_production_jobs set quel_member_id = null, quel_production_path = null where job_id = %s",
        job.job_id,
    )
    claimed = (await office.claim(job)).job
    assert (claimed.member_id, claimed.production_path) == (job.member_id, "cinema")


async def test_a_lease_lasts_by_the_databases_clock(office: Office, sql: Look) -> None:
    job = await office.job()
    before = await sql.value("select clock_timestamp()")
    await office.claim(job)
    after = await sql.value("select clock_timestamp()")

    row = await lease_of(sql, job)
    assert row is not None
    assert before <= row["claimed_at"] <= after
    assert row["expires_at"] - row["claimed_at"] == pytest.approx(timedelta(seconds=LEASE_SECONDS), abs=timedelta(1e-5))
    assert (row["run_id"], row["worker"]) == ("run-1", "test:1")


async def test_a_held_job_is_refused_and_the_holder_named(office: Office, sql: Look) -> None:
    job = await office.job()
    await office.claim(job, run_id="run-1")
    before = await lease_of(sql, job)

    with pytest.raises(LeaseHeldError, match=f"{job.job_id}: run run-1 is at work on test:1"):
        await office.claim(job, run_id="run-2", retry_of=("run-0",))

    assert await lease_of(sql, job) == before


async def test_one_of_many_gets_a_free_job(office: Office, endpoints: Endpoints) -> None:
    job = await office.job()
    others = [Database(endpoints.database_url) for _ in range(4)]

    answers = await asyncio.gather(
        *(others[n % 4].work.claim(job.job_id, run_id=f"run-{n}", worker="test") for n in range(24)),
        return_exceptions=True,
    )

    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert sum(isinstance(answer, LeaseHeldError) for answer in answers) == 23
    await asyncio.gather(*(other.aclose() for other in others))


async def test_an_expired_lease_is_taken_over_by_anybody(office: Office, sql: Look) -> None:
    job = await office.job()
    old = await office.processing(job, run_id="run-1")
    await expire(sql, job)

    new = await office.claim(job, run_id="run-2")

    assert new.took_over_from == "run-1"
    assert new.token > old.token
    with pytest.raises(LeaseLostError):
        await office.commit(job, old, 0)
    assert not await office.renew(job, old)


async def test_a_lease_of_no_length_expires_by_itself(office: Office) -> None:
    job = await office.job()
    await office.database.work.claim(job.job_id, run_id="run-1", worker="test", seconds=0)
    assert (await office.claim(job, run_id="run-2")).took_over_from == "run-1"


async def test_expired_lease_that_is_not_taken_still_commits(office: Office, sql: Look) -> None:
    """A stalled event loop loses nothing unless another run is at work by then."""
    job = await office.job()
    claim = await office.processing(job)
    await expire(sql, job)
    await office.commit(job, claim, 0)
    await office.check_books(job)


async def test_a_retry_inherits_a_live_lease(office: Office) -> None:
    job = await office.job()
    old = await office.claim(job, run_id="run-1")
    new = await office.claim(job, run_id="run-3", retry_of=("run-2", "run-1"))
    assert new.took_over_from == "run-1"
    assert new.token > old.token


async def test_a_run_claims_its_own_job_again(office: Office) -> None:
    job = await office.job()
    old = await office.claim(job)
    new = await office.claim(job)
    assert new.token > old.token
    assert not await office.renew(job, old)
    assert await office.renew(job, new)


async def test_a_claim_sees_a_cancel_that_came_before(office: Office, sql: Look) -> None:
    kept, written = await office.job(), await office.job()
    await office.database.work.keep_cancel(kept.job_id)
    await sql.all("update quel_production_jobs set job_status = 'user_cancelled' where job_id = %s", written.job_id)
    assert (await office.claim(kept)).cancelled_by == "user"
    assert (await office.claim(written)).cancelled_by == "user"


async def test_a_job_that_does_not_exist_cannot_be_claimed(office: Office, sql: Look) -> None:
    missing = uuid4()
    with pytest.raises(JobNotFoundError, match=str(missing)):
        await office.database.work.claim(missing, run_id="run-1", worker="test")
    assert await sql.all("select 1 from quel_dagster.job_lease where job_id = %s", missing) == []


async def test_a_lease_given_back_is_free_and_only_its_holder_gives_it_back(office: Office, sql: Look) -> None:
    job = await office.job()
    old = await office.claim(job, run_id="run-1")
    new = await office.claim(job, run_id="run-2", retry_of=("run-1",))

    await office.database.work.release(job.job_id, old.token)
    assert await lease_of(sql, job) is not None
    await office.database.work.release(job.job_id, new.token)
    assert await lease_of(sql, job) is None
    assert (await office.claim(job, run_id="run-3")).took_over_from is None


# --- renewing ----------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.02)


@contextmanager
def keeping(url: str, job: NewlyMade, claim: Claim, lost: threading.Event) -> Iterator[LeaseRenewer]:
    renewer = LeaseRenewer(url, job_id=job.job_id, token=claim.token, on_lost=lost.set)
    try:
        yield renewer
    finally:
        renewer.stop()
        assert not is_renewed(renewer)


def is_renewed(renewer: LeaseRenewer) -> bool:
    return (renewer.job_id, renewer.token) in renewer._all._held


async def until_renewed(sql: Look, job: NewlyMade) -> None:
    """Return once the lease is prolonged."""
    before = await lease_of(sql, job)
    assert before is not None
    await eventually(
        lambda: sql.all(
            "select 1 from quel_dagster.job_lease where job_id = %s and expires_at > %s",
            job.job_id,
            before["expires_at"],
        )
    )


@pytest.mark.usefixtures("quick")
async def test_renewer_renews_while_the_event_loop_is_busy(office: Office, sql: Look, endpoints: Endpoints) -> None:
    job = await office.job()
    claim = await office.claim(job)
    lost = threading.Event()
    with keeping(endpoints.database_url, job, claim, lost):
        await until_renewed(sql, job)
        before = await lease_of(sql, job)
        lost.wait(1.0)  # blocks this event loop, as a long computation would
        after = await lease_of(sql, job)
    assert before is not None and after is not None
    assert after["expires_at"] > before["expires_at"]
    assert not lost.is_set()


@pytest.mark.usefixtures("quick")
async def test_lost_lease_is_reported_once(office: Office, endpoints: Endpoints) -> None:
    job = await office.job()
    claim = await office.claim(job, run_id="run-1")
    lost = threading.Event()
    with keeping(endpoints.database_url, job, claim, lost) as renewer:
        await office.claim(job, run_id="run-2", retry_of=("run-1",))
        assert await asyncio.to_thread(lost.wait, 10)
        assert not is_renewed(renewer), "it goes on renewing a lost lease"


@pytest.mark.usefixtures("quick")
async def test_stopped_renewer_reports_no_loss_of_a_released_lease(
    office: Office, sql: Look, endpoints: Endpoints
) -> None:
    job = await office.job()
    claim = await office.claim(job)
    lost = threading.Event()
    with keeping(endpoints.database_url, job, claim, lost) as renewer:
        renewer.stop()
        await office.database.work.release(job.job_id, claim.token)
        other = await office.job()
        with keeping(endpoints.database_url, other, await office.claim(other), lost):
            await until_renewed(sql, other)  # the thread has renewed again since the stop
    assert not lost.is_set()


async def test_renewal_under_way_does_not_revive_a_lease_that_was_handed_over(
    office: Office, sql: Look, endpoints: Endpoints
) -> None:
    job = await office.job()
    claim = await office.claim(job)
    lost = threading.Event()
    with keeping(endpoints.database_url, job, claim, lost) as renewer:
        await office.database.work.hand_over(job.job_id, claim.token)
        await asyncio.to_thread(renewer._all._renew)
        await office.renew(job, claim)
    handed_over = await lease_of(sql, job)
    assert handed_over is not None
    assert not handed_over["live"], "another run may claim the job at once"
    assert not lost.is_set()
    await office.claim(job, run_id="run-2")
    again = await lease_of(sql, job)
    assert again is not None
    assert (again["live"], again["handed_over"]) == (True, False)


@pytest.mark.usefixtures("quick")
async def test_unreachable_database_is_no_loss(
    office: Office, sql: Look, endpoints: Endpoints, caplog: pytest.LogCaptureFixture
) -> None:
    job = await office.job()
    claim = await office.claim(job)
    lost = threading.Event()
    nowhere = endpoints.database_url.replace(f":{endpoints.postgres_port}/", ":1/")
    with keeping(nowhere, job, claim, lost):
        await eventually(lambda: asyncio.sleep(0, len(caplog.messages) >= 3))
    assert not lost.is_set()
    assert all("the database does not answer" in message for message in caplog.messages)
    assert not any("postgresql://" in message for message in caplog.messages)


@pytest.mark.usefixtures("quick")
async def test_renewer_continues_after_its_connection_was_cut(office: Office, sql: Look, endpoints: Endpoints) -> None:
    job = await office.job()
    claim = await office.claim(job)
    lost = threading.Event()
    with keeping(endpoints.database_url, job, claim, lost):
        for _ in range(5):
            await sql.all(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'quel_dagster lease'"
            )
        await until_renewed(sql, job)
    assert not lost.is_set()
