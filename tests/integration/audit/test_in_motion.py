"""Jobs in motion, rows of other programs, and jobs out of scope are not breaches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from dagster import DagsterRunStatus

from quel_dagster.adapters.queue import DELIVERIES, PROCESSING
from quel_dagster.adapters.storage.listing import StoredObject
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.jobs.model import JobStatus
from tests.integration.audit.conftest import PICTURE, House, live_run, run
from tests.integration.audit.test_breaches import charge, end_run, give
from tests.integration.conftest import PRICE, claim

LONG = 600.0


async def lines(house: House, **options: Any) -> list[str]:
    return [breach.line for breach in (await house.audit(**options)).breaches]


# --- jobs on their way -------------------------------------------------------------------------------


async def test_job_of_a_worker_that_just_died_is_being_recovered(house: House) -> None:
    job = await house.at_work(seconds=0)
    end_run(house, job)

    assert await lines(house, grace_seconds=LONG) == []
    assert len(await lines(house, grace_seconds=0)) == 1


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING])
async def test_job_with_a_retry_that_waits_is_not_abandoned(house: House, status: DagsterRunStatus) -> None:
    job = await house.at_work(seconds=0)
    end_run(house, job)
    live_run(house.instance, job.job_id, status)

    assert await lines(house) == []


async def test_a_job_that_waits_in_the_queue_again_is_not_abandoned(house: House) -> None:
    job = await house.at_work(seconds=0)
    end_run(house, job)
    house.queue.push(job.job_id)

    assert await lines(house) == []


async def test_a_lease_without_a_tagged_run_counts_by_the_run_that_holds_it(house: House) -> None:
    """A run launched by hand has no tags."""
    job = await house.office.job()
    run_id = live_run(house.instance, job.job_id, tags={"quel/job_id": "another"})
    await house.office.processing(job, run_id=run_id)

    assert await lines(house) == []


async def test_a_job_of_the_older_worker_has_no_lease_and_more_time(house: House) -> None:
    job = await house.office.job()
    await house.sql.all("set session_replication_role = replica")  # no trigger sets updated_at
    await house.sql.all(
        "update quel_production_jobs set job_status = 'processing', created_at = now() - interval '5 minutes',"
        " updated_at = now() - interval '5 minutes' where job_id = %s",
        job.job_id,
    )

    assert await lines(house, grace_seconds=60) == []
    assert len(await lines(house, grace_seconds=10)) == 1


async def test_an_id_between_the_queue_and_its_run_is_not_stuck(house: House) -> None:
    """Removed by a later tick than the one that requested the run."""
    job = await house.office.job()
    house.queue._redis.lpush(PROCESSING, str(job.job_id))
    (delivery,) = house.queue.deliveries()
    live_run(house.instance, job.job_id, tags={"dagster/run_key": delivery.run_key})

    assert await lines(house) == []


async def test_an_entry_that_leaves_in_time_is_not_stuck(house: House) -> None:
    job = await house.office.job()
    house.queue._redis.lpush(PROCESSING, str(job.job_id))
    audit = asyncio.create_task(house.audit(entry_seconds=30.0))
    await asyncio.sleep(0.2)
    live_run(house.instance, job.job_id)
    house.queue.finish(house.queue.deliveries())

    assert (await audit).clean


async def test_an_entry_that_leaves_and_comes_back_is_not_stuck(house: House) -> None:
    job = await house.office.job()
    audit = asyncio.create_task(house.audit(entry_seconds=2.0))
    while not audit.done():
        house.queue._redis.lpush(PROCESSING, str(job.job_id))
        deliveries = house.queue.deliveries()
        await asyncio.sleep(0.2)
        house.queue.push(job.job_id)
        house.queue.finish(deliveries)

    assert [breach.line for breach in audit.result().breaches] == []


async def test_a_dead_letter_accounts_for_its_job(house: House) -> None:
    job = await house.office.job()
    house.queue.push(job.job_id)
    claim(house.queue, 1)
    house.queue.dead_letter(house.queue.deliveries()[0], "recovered three times")

    assert await lines(house) == []


async def test_an_audit_does_not_change_the_queue(house: House) -> None:
    house.queue._redis.lpush(PROCESSING, str((await house.office.job()).job_id))

    await house.audit()

    assert not house.queue._redis.exists(DELIVERIES)


async def test_only_a_confirmed_suspicion_is_a_breach(house: House) -> None:
    """The last invariants of the first check repair what the first ones saw, and break something else."""
    job, other = await house.finished(), await house.finished()
    await give(house, job, 5)

    @dataclass
    class Changing:
        store: ObjectStore
        changed: bool = False

        async def get(self, key: str, *, max_bytes: int) -> bytes:
            if not self.changed:
                self.changed = True
                await give(house, job, -5)
                await give(house, other, 5)
            return await self.store.get(key, max_bytes=max_bytes)

        def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
            return self.store.list(prefix)

    assert [breach.ids["member"] for breach in (await house.audit()).breaches] == [str(job.member_id)]
    house.sources = replace(house.sources, store=Changing(house.store))  # type: ignore[arg-type]
    assert await lines(house) == []
    assert [breach.ids["member"] for breach in (await house.audit()).breaches] == [str(other.member_id)]


# --- ends of runs --------------------------------------------------------------------------------------


async def test_a_run_that_ended_a_moment_ago_may_be_followed_by_its_retry(house: House) -> None:
    await house.finished(ended=DagsterRunStatus.FAILURE)

    assert await lines(house, grace_seconds=LONG) == []
    assert len(await lines(house, grace_seconds=0)) == 1


async def test_only_the_last_run_counts_for_the_end(house: House) -> None:
    job = await house.office.job(1)
    run(house.instance, job.job_id, DagsterRunStatus.FAILURE)
    claim = await house.office.processing(job, run_id=run(house.instance, job.job_id))
    await house.picture(job, claim, 0)
    await house.office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.COMPLETED, total=1, error=None, inputs=0
    )

    assert await lines(house) == []


async def test_runs_that_ended_nothing_say_nothing(house: House) -> None:
    refused = await house.office.job(1)
    claim = await house.office.processing(refused, run_id=run(house.instance, refused.job_id))
    run(house.instance, refused.job_id, DagsterRunStatus.FAILURE, tags={"quel/outcome": "refused"})
    run(house.instance, refused.job_id, DagsterRunStatus.CANCELED, started=False)
    await house.picture(refused, claim, 0)
    await house.office.database.work.settle(
        refused.job_id, claim.token, status=JobStatus.COMPLETED, total=1, error=None, inputs=0
    )
    again = await house.finished()
    run(house.instance, again.job_id, DagsterRunStatus.CANCELED)  # found everything made, and was terminated

    report = await house.audit()

    assert report.breaches == ()
    assert report["I14"].checked == 1


# --- what others wrote ---------------------------------------------------------------------------------


async def test_pictures_of_the_older_worker_have_other_names_and_are_as_good(house: House) -> None:
    job = await house.finished(3, made=2)
    key = f"generated-images/user-{job.member_id}/generated_1700000000_17.webp"
    attach_id = await house.sql.value(
        "insert into quel_attach (attach_file_name, attach_file_path, attach_directory, attach_file_size,"
        " attach_storage_type) values ('x.webp', '', %s, null, 'supabase') returning attach_id",
        key,
    )
    await house.store.put(key, PICTURE, content_type="image/webp")
    await charge(house, job, attach_id)
    # ids as its JSON library wrote them
    await house.sql.all(
        "update quel_production_jobs set completed_images = 3, failed_images = 0,"
        " generated_attach_ids = generated_attach_ids || to_jsonb(%s::text || '.0') where job_id = %s",
        str(attach_id),
        job.job_id,
    )
    await house.sql.all(
        "update quel_production_photo set generated_image_count = 3,"
        " attach_ids = attach_ids || to_jsonb(%s::text) where production_id = %s",
        str(attach_id),
        job.production_id,
    )

    report = await house.audit()

    assert report.breaches == ()
    assert report["I12"].checked == 6  # three pictures, three objects


async def test_charges_of_another_provider_pay_for_other_things(house: House) -> None:
    await charge(house, await house.finished(), None, provider="another")

    assert await lines(house) == []


async def test_earlier_prices_are_fine_when_no_price_is_given(house: House) -> None:
    await house.finished()

    assert await lines(house, price=None) == []
    assert [line.split(" was ")[1][:11] for line in await lines(house, price=PRICE + 1)] == ["charged -20"] * 2


async def test_purchases_and_charges_of_one_moment_are_followed_in_any_order(house: House) -> None:
    """A purchase is stamped when its transaction begins, and may have waited for a charge."""
    member = await house.office.member(credit=0)
    for after, amount, second in [
        (100, 100, 0),
        (60, -20, 2),
        (80, -20, 1),
        (160, 100, 1),
        (140, -20, 4),
        (120, -20, 4),
    ]:
        await ledger_row(house, member, amount, after, second)
    await house.sql.all("update quel_member set quel_member_credit = 120 where quel_member_id = %s", member)

    assert await lines(house) == []


async def test_one_wrong_row_in_a_long_ledger_is_reported_once(house: House) -> None:
    member = await house.office.member(credit=0)
    for number in range(1, 40):
        await ledger_row(house, member, -1, 1000 - number + (7 if number == 20 else 0), number)
    await ledger_row(house, member, -1, 900, 40)  # the rest goes on from here
    await ledger_row(house, member, -1, 899, 41)
    await house.sql.all("update quel_member set quel_member_credit = 959 where quel_member_id = %s", member)

    report = await house.audit()

    assert {breach.code for breach in report.breaches} == {"I2"}
    assert report["I2"].total == 2
    assert {breach.kind for breach in report["I2"].breaches} == {"gap"}
    assert report["I2"].breaches[0].problem.endswith("says balance_after 987, the rows before say 980")
    assert report["I2"].breaches[1].problem.endswith("says balance_after 900, the rows before say 960")


async def ledger_row(house: House, member: Any, amount: int, after: int, second: int) -> None:
    await house.sql.all(
        "insert into quel_credits (user_id, transaction_type, amount, balance_after, created_at, api_provider)"
        " values (%s, %s, %s, %s, %s, 'another')",
        member,
        "DEDUCT" if amount < 0 else "purchase",
        amount,
        after,
        datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC),
    )


# --- scope ---------------------------------------------------------------------------------------------


async def test_other_jobs_are_out_of_scope(house: House) -> None:
    broken, sound = await house.finished(), await house.finished()
    waiting = await house.office.job()
    await house.sql.all("delete from quel_credits where attach_idx = %s", broken.attach_ids[1])
    await house.sql.all("update quel_production_jobs set completed_images = 9 where job_id = %s", broken.job_id)
    house.object_path(broken.keys[0]).unlink()

    report = await house.audit(job_ids=[sound.job_id])

    assert report.breaches == ()
    assert {finding.code: finding.checked for finding in report.findings} == {
        "I1": 1, "I2": 2, "I3": 2, "I4": 2, "I5": 1, "I6": 4, "I7": 1, "I8": 2, "I9": 1, "I10": 0, "I11": 0,
        "I12": 4, "I13": 0, "I14": 1,
    }  # fmt: skip
    assert {breach.code for breach in (await house.audit(job_ids=[broken.job_id])).breaches} == {
        "I1",
        "I3",
        "I5",
        "I12",
    }
    assert [breach.code for breach in (await house.audit(job_ids=[waiting.job_id])).breaches] == ["I11"]


async def test_what_was_before_is_out_of_scope(house: House) -> None:
    broken = await house.finished(member_id=(member := await house.office.member()))
    await house.sql.all("delete from quel_credits where attach_idx = %s", broken.attach_ids[0])
    since = await house.sql.value("select clock_timestamp()")
    await house.finished(member_id=member)

    assert await lines(house, since=since) == []
    assert (await house.audit(since=since))["I2"].checked == 2
    assert len(await lines(house)) > 0


async def test_a_sample_of_the_objects_is_read(house: House) -> None:
    await house.finished(5)

    assert (await house.audit(pictures=2))["I12"].checked == 2
