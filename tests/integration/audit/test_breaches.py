"""Each broken invariant is reported alone: by its code, with the ids and a remedy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus

from quel_dagster.adapters.queue import PROCESSING
from quel_dagster.jobs.model import JobStatus
from quel_dagster.pipeline.audit import Breach
from tests.integration.audit.conftest import PICTURE, House, Made, run
from tests.integration.conftest import PRICE

Damage = Callable[[House, Made], Awaitable[dict[str, Any]]]


async def only_breach(house: House, **options: Any) -> Breach:
    report = await house.audit(**options)
    assert [breach.line for breach in report.breaches][1:] == []
    (breach,) = report.breaches
    assert not report.clean
    assert report.complete
    assert report[breach.code].total == 1
    assert "none" not in breach.line  # every name in the words has its fact
    return breach


def facts_of(breach: Breach) -> tuple[str, str, dict[str, str]]:
    return breach.code, breach.kind, breach.ids


# --- the damage, each done to a completed job of two pictures ----------------------------------------


async def balance_changed(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_member set quel_member_credit = quel_member_credit + 5 where quel_member_id = %s", job.member_id
    )
    return {"member": job.member_id}


async def link_broken(house: House, job: Made) -> dict[str, Any]:
    row = "update quel_credits set balance_after = balance_after + 1 where attach_idx = %s returning id"
    return {"ledger": await house.sql.value(row, job.attach_ids[1]), "member": job.member_id}


async def charge_lost(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all("delete from quel_credits where attach_idx = %s", job.attach_ids[1])
    await give(house, job, PRICE)
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def charged_again(house: House, job: Made) -> dict[str, Any]:
    await charge(house, job, job.attach_ids[0])
    return {"job": job.job_id, "attach": job.attach_ids[0]}


async def charged_too_little(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_credits set amount = -5, balance_after = balance_after + 15 where attach_idx = %s",
        job.attach_ids[1],
    )
    await give(house, job, 15)
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def charged_for_nothing(house: House, job: Made) -> dict[str, Any]:
    ledger = await charge(house, job, None)
    return {"ledger": ledger, "production": job.production_id, "member": job.member_id}


async def charged_for_a_reference(house: House, job: Made) -> dict[str, Any]:
    attach_id = await attach_row(house, "uploads/upload-1.png")
    ledger = await charge(house, job, attach_id)
    return {"ledger": ledger, "production": job.production_id, "member": job.member_id, "attach": attach_id}


async def id_repeated(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_production_jobs set generated_attach_ids = generated_attach_ids || (generated_attach_ids->0),"
        " completed_images = 3, total_images = 3 where job_id = %s",
        job.job_id,
    )
    return {"job": job.job_id}


async def miscounted(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all("update quel_production_jobs set completed_images = 1 where job_id = %s", job.job_id)
    return {"job": job.job_id}


async def fewer_planned(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all("update quel_production_jobs set total_images = 1 where job_id = %s", job.job_id)
    return {"job": job.job_id}


async def row_gone(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all("set session_replication_role = replica")  # its charge refers to it
    await house.sql.all("delete from quel_attach where attach_id = %s", job.attach_ids[1])
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def key_shared(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_attach set attach_file_path = %s where attach_id = %s", job.keys[0], job.attach_ids[1]
    )
    return {"attach": f"{job.attach_ids[0]}, {job.attach_ids[1]}"}


async def row_without_job(house: House, job: Made) -> dict[str, Any]:
    key = job.keys[0].replace("_p0000", "_p0007")
    return {"attach": await attach_row(house, key), "job": job.job_id}


async def row_of_the_older_worker_without_job(house: House, job: Made) -> dict[str, Any]:
    return {"attach": await attach_row(house, f"generated-images/user-{job.member_id}/generated_17.webp")}


async def production_repeats(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_production_photo set attach_ids = attach_ids || (attach_ids->0) where production_id = %s",
        job.production_id,
    )
    return {"production": job.production_id, "attach": job.attach_ids[0]}


async def production_lost_one(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_production_photo set attach_ids = attach_ids - 0 where production_id = %s", job.production_id
    )
    return {"production": job.production_id, "attach": job.attach_ids[0], "job": job.job_id}


async def picture_of_two_jobs(house: House, job: Made) -> dict[str, Any]:
    other = await house.finished(2, made=1)
    await house.sql.all(
        "update quel_production_jobs set generated_attach_ids = generated_attach_ids || to_jsonb(%s::bigint),"
        " completed_images = 2, failed_images = 0 where job_id = %s",
        job.attach_ids[0],
        other.job_id,
    )
    await house.sql.all(
        "update quel_production_photo set attach_ids = attach_ids || to_jsonb(%s::bigint), generated_image_count = 2"
        " where production_id = %s",
        job.attach_ids[0],
        other.production_id,
    )
    return {"attach": job.attach_ids[0], "jobs": ", ".join(sorted([str(job.job_id), str(other.job_id)]))}


async def end_without_time(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all("update quel_production_jobs set completed_at = null where job_id = %s", job.job_id)
    return {"job": job.job_id}


async def completed_without_picture(house: House, _job: Made) -> dict[str, Any]:
    empty = await house.finished(made=0, status=JobStatus.FAILED)
    await house.sql.all("update quel_production_jobs set job_status = 'completed' where job_id = %s", empty.job_id)
    await house.sql.all(
        "update quel_production_photo set production_status = 'completed' where production_id = %s", empty.production_id
    )
    return {"job": empty.job_id}


async def lease_gone(house: House, _job: Made) -> dict[str, Any]:
    job = await house.at_work()
    await house.sql.all("delete from quel_dagster.job_lease where job_id = %s", job.job_id)
    return {"job": job.job_id, "run": job.run_id}


async def lease_ran_out(house: House, _job: Made) -> dict[str, Any]:
    job = await house.at_work(seconds=0)
    return {"job": job.job_id, "run": job.run_id}


async def run_gone(house: House, _job: Made) -> dict[str, Any]:
    job = await house.at_work()
    end_run(house, job)
    return {"job": job.job_id, "run": job.run_id}


async def abandoned(house: House, _job: Made) -> dict[str, Any]:
    job = await house.at_work(seconds=0)
    end_run(house, job)
    return {"job": job.job_id}


async def never_pushed(house: House, _job: Made) -> dict[str, Any]:
    return {"job": (await house.office.job()).job_id}


async def delivery_without_run(house: House, _job: Made) -> dict[str, Any]:
    job = await house.office.job()
    house.queue._redis.lpush(PROCESSING, str(job.job_id))
    return {"entry": job.job_id}


async def object_gone(house: House, job: Made) -> dict[str, Any]:
    house.object_path(job.keys[1]).unlink()
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def object_of_another_size(house: House, job: Made) -> dict[str, Any]:
    house.object_path(job.keys[1]).write_bytes(PICTURE + b"\0")
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def object_broken(house: House, job: Made) -> dict[str, Any]:
    house.object_path(job.keys[1]).write_bytes(PICTURE[:20] + bytes(len(PICTURE) - 20))
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def key_points_outside(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_attach set attach_file_path = '../../etc/passwd' where attach_id = %s", job.attach_ids[1]
    )
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def committed_after_the_cancel(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "insert into quel_dagster.job_cancel select %s, created_at from quel_attach where attach_id = %s",
        job.job_id,
        job.attach_ids[0],
    )
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def committed_after_the_end(house: House, _job: Made) -> dict[str, Any]:
    """Only the ledger row is late, and no cancel was kept."""
    job = await house.finished(made=1, status=JobStatus.USER_CANCELLED)
    await house.sql.all("delete from quel_dagster.job_cancel where job_id = %s", job.job_id)
    await house.sql.all(
        "update quel_credits set created_at = created_at + interval '1 hour' where attach_idx = %s", job.attach_ids[0]
    )
    return {"job": job.job_id, "attach": job.attach_ids[0]}


BROKEN: list[tuple[str, str, Damage]] = [
    ("I1", "off", balance_changed),
    ("I2", "gap", link_broken),
    ("I3", "unpaid", charge_lost),
    ("I3", "repeated", charged_again),
    ("I3", "amount", charged_too_little),
    ("I4", "no_picture", charged_for_nothing),
    ("I4", "unearned", charged_for_a_reference),
    ("I5", "repeated", id_repeated),
    ("I5", "miscounted", miscounted),
    ("I5", "too_many", fewer_planned),
    ("I6", "no_row", row_gone),
    ("I6", "same_key", key_shared),
    ("I6", "no_job", row_without_job),
    ("I6", "no_job", row_of_the_older_worker_without_job),
    ("I7", "repeated", production_repeats),
    ("I7", "missing", production_lost_one),
    ("I8", "shared", picture_of_two_jobs),
    ("I9", "no_time", end_without_time),
    ("I9", "empty", completed_without_picture),
    ("I10", "no_lease", lease_gone),
    ("I10", "no_lease", lease_ran_out),
    ("I10", "no_run", run_gone),
    ("I10", "abandoned", abandoned),
    ("I11", "lost", never_pushed),
    ("I11", "stuck", delivery_without_run),
    ("I12", "no_object", object_gone),
    ("I12", "size", object_of_another_size),
    ("I12", "broken", object_broken),
    ("I12", "no_key", key_points_outside),
    ("I13", "late", committed_after_the_cancel),
    ("I13", "late", committed_after_the_end),
]


@pytest.mark.parametrize(
    ("code", "kind", "damage"), [pytest.param(*case, id=f"{case[0]}-{case[2].__name__}") for case in BROKEN]
)
async def test_one_breach_is_reported_alone_with_its_ids(house: House, code: str, kind: str, damage: Damage) -> None:
    await house.finished()
    job = await house.finished()
    ids = {name: str(value) for name, value in (await damage(house, job)).items()}

    breach = await only_breach(house)

    assert facts_of(breach) == (code, kind, ids)
    assert all(value in breach.line for value in ids.values() if value != str(job.production_id))
    assert "\n" not in breach.line


async def test_an_organizations_balance_is_held_to_its_own_ledger(house: House) -> None:
    member = await house.office.member()
    organization = await house.office.organization(member)
    await house.finished(member_id=member, org_id=organization)
    await house.finished(member_id=member)
    await house.sql.all("update quel_organization set org_credit = org_credit - 1 where org_id = %s", organization)

    assert facts_of(await only_breach(house)) == ("I1", "off", {"organization": str(organization)})


async def test_a_charge_that_pays_out_is_wrong_at_any_price(house: House) -> None:
    job = await house.finished()
    await house.sql.all(
        "update quel_credits set amount = 20, balance_after = balance_after + 40 where attach_idx = %s",
        job.attach_ids[1],
    )
    await give(house, job, 40)

    assert facts_of(await only_breach(house, price=None))[:2] == ("I3", "amount")


async def test_the_ends_of_run_and_job_agree(house: House) -> None:
    agree = {
        (JobStatus.COMPLETED, DagsterRunStatus.SUCCESS),
        (JobStatus.FAILED, DagsterRunStatus.FAILURE),
        (JobStatus.CANCELLED, DagsterRunStatus.CANCELED),
        (JobStatus.USER_CANCELLED, DagsterRunStatus.SUCCESS),
        (JobStatus.USER_CANCELLED, DagsterRunStatus.CANCELED),
    }
    disagree = {}
    for status in [status for status in JobStatus if status.ended]:
        for ended in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
            job = await house.finished(status=status, ended=ended)
            if (status, ended) not in agree:
                disagree[str(job.job_id)] = (job.run_id, f"is {status}, its last run {job.run_id} ended {ended.value};")

    breaches = (await house.audit()).breaches

    assert {breach.code for breach in breaches} == {"I14"}
    assert {breach.ids["job"]: breach.ids["run"] for breach in breaches} == {
        job: run for job, (run, _) in disagree.items()
    }
    assert all(disagree[breach.ids["job"]][1] in breach.line for breach in breaches)


async def test_a_run_that_found_an_operators_cancel_ended_its_job(house: House) -> None:
    job = await house.office.job(2)
    found = run(house.instance, job.job_id, tags={"quel/outcome": "cancelled"})
    claim = await house.office.claim(job, run_id=found)
    await house.office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.CANCELLED, total=2, error="Cancelled by operator mina.", inputs=0
    )

    assert not (await house.audit()).breaches


async def test_a_retry_that_was_stopped_while_it_waited_ended_its_job(house: House) -> None:
    job = await house.finished(made=1, status=JobStatus.CANCELLED, ended=DagsterRunStatus.FAILURE)
    run(house.instance, job.job_id, DagsterRunStatus.CANCELED, started=False)

    assert not (await house.audit()).breaches


async def test_a_run_that_was_stopped_while_it_waited_ended_nothing_that_came_later(house: House) -> None:
    job = await house.office.job(1)
    run(house.instance, job.job_id, DagsterRunStatus.CANCELED, started=False)
    run_id = run(house.instance, job.job_id, DagsterRunStatus.FAILURE)
    claim = await house.office.claim(job, run_id=run_id)
    await house.office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.CANCELLED, total=1, error=None, inputs=0
    )
    made = await house.finished(ended=DagsterRunStatus.FAILURE)
    run(house.instance, made.job_id, DagsterRunStatus.CANCELED, started=False)

    breaches = (await house.audit()).breaches

    assert {(breach.code, breach.ids["job"]) for breach in breaches} == {
        ("I14", str(job.job_id)),  # stopped before the run that failed, and so not by that
        ("I14", str(made.job_id)),  # completed, which no stop is
    }


async def test_what_is_not_an_id_stays_out_of_the_words(house: House) -> None:
    house.queue._redis.lpush(PROCESSING, b"\xff<script>")

    breach = await only_breach(house)

    assert facts_of(breach)[:2] == ("I11", "stuck")
    assert "script" not in breach.line
    assert "9 bytes" in breach.line


# --- by hand -------------------------------------------------------------------------------------------


async def give(house: House, job: Made, amount: int) -> None:
    await house.sql.all(
        "update quel_member set quel_member_credit = quel_member_credit + %s where quel_member_id = %s",
        amount,
        job.member_id,
    )


async def charge(house: House, job: Made, attach_id: int | None, provider: str | None = None) -> Any:
    """A DEDUCT as good as any, with its balance."""
    return await house.sql.value(
        "with paid as (update quel_member set quel_member_credit = quel_member_credit - %s where quel_member_id = %s"
        " returning quel_member_id, quel_member_credit)"
        " insert into quel_credits (user_id, transaction_type, amount, balance_after, attach_idx, production_idx,"
        " api_provider) select quel_member_id, 'DEDUCT', %s, quel_member_credit, %s, %s, %s from paid returning id",
        PRICE,
        job.member_id,
        -PRICE,
        attach_id,
        job.production_id,
        provider,
    )


async def attach_row(house: House, key: str) -> int:
    row: int = await house.sql.value(
        "insert into quel_attach (attach_file_path, attach_directory) values (%s, %s) returning attach_id", key, key
    )
    return row


def end_run(house: House, job: Made) -> None:
    event = DagsterEvent(event_type_value=DagsterEventType.RUN_FAILURE.value, job_name="image_job")
    house.instance.report_dagster_event(event, job.run_id)
