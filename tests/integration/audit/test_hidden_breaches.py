"""Corruptions that leave every count in place: another payer, place or picture, ids that no column holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from dagster import DagsterRunStatus

from quel_dagster.adapters.queue import DEAD
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.jobs.storage_keys import new_picture_key
from quel_dagster.pipeline.audit.checks import Check, CheckResult
from quel_dagster.pipeline.audit.ledger import CAP
from quel_dagster.pipeline.audit.underway import Queue
from tests.integration.audit.conftest import PICTURE, House, Made, _picture
from tests.integration.audit.test_breaches import Damage, attach_row, facts_of, only_breach
from tests.integration.conftest import PRICE

BEYOND = 2**63 + 7


async def codes(house: House, **options: Any) -> set[tuple[str, str]]:
    return {(breach.code, breach.kind) for breach in (await house.audit(**options)).breaches}


# --- money ---------------------------------------------------------------------------------------------


async def another_member_paid(house: House, job: Made) -> dict[str, Any]:
    """Both balances and both ledgers are right."""
    stranger = await house.office.member()
    for member, sign in ((job.member_id, 1), (stranger, -1)):
        await house.sql.all(
            "update quel_member set quel_member_credit = quel_member_credit + %s where quel_member_id = %s",
            sign * PRICE,
            member,
        )
    await house.sql.all(
        "update quel_credits set user_id = %s, balance_after = 1000 - %s where attach_idx = %s",
        stranger,
        PRICE,
        job.attach_ids[1],
    )
    return {"job": job.job_id, "attach": job.attach_ids[1], "member": stranger}


async def charged_for_another_production(house: House, job: Made) -> dict[str, Any]:
    other = await house.finished()
    await house.sql.all(
        "update quel_credits set production_idx = %s where attach_idx = %s", other.production_id, job.attach_ids[0]
    )
    return {"job": job.job_id, "attach": job.attach_ids[0], "production": other.production_id}


async def refunded_twice(house: House, job: Made) -> dict[str, Any]:
    await house.office.database.jobs.refund(job.attach_ids[0], reason="blurred")
    await _refund_row(house, job, job.attach_ids[0])
    return {"job": job.job_id, "attach": job.attach_ids[0]}


async def refunded_too_much(house: House, job: Made) -> dict[str, Any]:
    await _refund_row(house, job, job.attach_ids[0], amount=PRICE + 5)
    return {"job": job.job_id, "attach": job.attach_ids[0]}


async def refunded_without_charge(house: House, job: Made) -> dict[str, Any]:
    reference = await attach_row(house, "uploads/upload-2.png")
    ledger = await _refund_row(house, job, reference)
    return {"ledger": ledger, "attach": reference, "production": job.production_id, "member": job.member_id}


async def _refund_row(house: House, job: Made, attach_id: int, amount: int = PRICE) -> Any:
    return await house.sql.value(
        "with paid as (update quel_member set quel_member_credit = quel_member_credit + %s where quel_member_id = %s"
        " returning quel_member_id, quel_member_credit)"
        " insert into quel_credits (user_id, transaction_type, amount, balance_after, attach_idx, production_idx)"
        " select quel_member_id, 'refund', %s, quel_member_credit, %s, %s from paid returning id",
        amount,
        job.member_id,
        amount,
        attach_id,
        job.production_id,
    )


# --- counts and reasons --------------------------------------------------------------------------------


async def failed_miscounted(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all("update quel_production_jobs set failed_images = 1 where job_id = %s", job.job_id)
    return {"job": job.job_id}


async def production_miscounted(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_production_photo set generated_image_count = 1 where production_id = %s", job.production_id
    )
    return {"production": job.production_id}


async def production_ended_otherwise(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_production_photo set production_status = 'processing' where production_id = %s", job.production_id
    )
    return {"production": job.production_id}


async def fewer_without_reason(house: House, _job: Made) -> dict[str, Any]:
    short = await house.finished(3, made=1)
    await house.sql.all("update quel_production_jobs set error_message = null where job_id = %s", short.job_id)
    return {"job": short.job_id}


async def failed_without_reason(house: House, _job: Made) -> dict[str, Any]:
    failed = await house.finished(2, made=0, status=JobStatus.FAILED, ended=DagsterRunStatus.FAILURE)
    await house.sql.all("update quel_production_jobs set error_message = ' ' where job_id = %s", failed.job_id)
    return {"job": failed.job_id}


async def job_lists_an_id_beyond_bigint(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_production_jobs set generated_attach_ids = generated_attach_ids || %s::jsonb where job_id = %s",
        str(BEYOND),
        job.job_id,
    )
    return {"job": job.job_id}


async def job_lists_no_list(house: House, _job: Made) -> dict[str, Any]:
    empty = await house.finished(1, made=0, status=JobStatus.FAILED, ended=DagsterRunStatus.FAILURE)
    await house.sql.all(
        "update quel_production_jobs set generated_attach_ids = '\"none\"' where job_id = %s", empty.job_id
    )
    return {"job": empty.job_id}


async def production_lists_an_id_beyond_bigint(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_production_photo set attach_ids = attach_ids || '1e30'::jsonb where production_id = %s",
        job.production_id,
    )
    return {"production": job.production_id}


# --- places --------------------------------------------------------------------------------------------


async def path_of_another_member(house: House, job: Made) -> dict[str, Any]:
    """The object was moved along, so nothing is missing."""
    stranger = await house.office.member()
    moved = job.keys[1].replace(str(job.member_id), str(stranger))
    await _move(house, job, 1, moved)
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def path_of_another_job(house: House, job: Made) -> dict[str, Any]:
    other = await house.finished(1)
    await _move(house, job, 1, job.keys[1].replace(str(job.job_id), str(other.job_id)))
    return {"job": job.job_id, "attach": job.attach_ids[1]}


async def path_of_another_member_and_slot(house: House, job: Made) -> dict[str, Any]:
    """The slot has the same values."""
    ids = await path_of_another_member(house, job)
    await house.sql.all(
        "update quel_dagster.picture_slot s set object_key = a.attach_file_path"
        " from quel_attach a where a.attach_id = s.attach_id"
    )
    return ids


async def directory_of_another_place(house: House, job: Made) -> dict[str, Any]:
    await house.sql.all(
        "update quel_attach set attach_directory = 'generated-images/elsewhere.webp' where attach_id = %s",
        job.attach_ids[0],
    )
    return {"job": job.job_id, "attach": job.attach_ids[0]}


async def _move(house: House, job: Made, place: int, key: str) -> None:
    await house.store.put(key, house.object_path(job.keys[place]).read_bytes(), content_type="image/webp")
    house.object_path(job.keys[place]).unlink()
    await house.sql.all(
        "update quel_attach set attach_file_path = %s, attach_directory = %s where attach_id = %s",
        key,
        key,
        job.attach_ids[place],
    )


async def path_of_a_picture_of_another_job(house: House, job: Made) -> dict[str, Any]:
    other = await house.finished(1)
    await house.sql.all(
        "update quel_attach set attach_file_path = %s where attach_id = %s", other.keys[0], job.attach_ids[1]
    )
    return {"attach": ", ".join(map(str, sorted([job.attach_ids[1], other.attach_ids[0]])))}


async def picture_moved_to_another_job(house: House, job: Made) -> dict[str, Any]:
    """Same production and payer, with all counters correct."""
    other = await house.finished(2, made=1, member_id=job.member_id)
    await house.sql.all(
        "update quel_production_jobs set generated_attach_ids = generated_attach_ids - 1, completed_images = 1,"
        " failed_images = 1, error_message = 'one failed' where job_id = %s",
        job.job_id,
    )
    await house.sql.all(
        "update quel_production_jobs set generated_attach_ids = generated_attach_ids || to_jsonb(%s::bigint),"
        " completed_images = 2, failed_images = 0 where job_id = %s",
        job.attach_ids[1],
        other.job_id,
    )
    await house.sql.all(
        "update quel_production_photo set generated_image_count = 1, attach_ids = attach_ids - 1"
        " where production_id = %s",
        job.production_id,
    )
    await house.sql.all(
        "update quel_production_photo set generated_image_count = 2, attach_ids = attach_ids || to_jsonb(%s::bigint)"
        " where production_id = %s",
        job.attach_ids[1],
        other.production_id,
    )
    return {"attach": job.attach_ids[1], "job": other.job_id}


# --- objects -------------------------------------------------------------------------------------------


async def overwritten_by_another_picture(house: House, job: Made) -> dict[str, Any]:
    """Of the same size, and it decodes."""
    other = next(
        data for colour in range(256) if len(data := _picture(f"#{colour:02x}0010")) == len(PICTURE) and data != PICTURE
    )
    house.object_path(job.keys[0]).write_bytes(other)
    return {"job": job.job_id, "attach": job.attach_ids[0]}


async def object_without_row(house: House, job: Made) -> dict[str, Any]:
    key = new_picture_key(job.member_id, job.job_id, Slot(unit=0, number=7))
    await house.store.put(key, PICTURE, content_type="image/webp")
    return {"object": key}


BROKEN: list[tuple[str, str, Damage]] = [
    ("I3", "payer", another_member_paid),
    ("I3", "production", charged_for_another_production),
    ("I3", "refunds", refunded_twice),
    ("I3", "refund", refunded_too_much),
    ("I4", "refund", refunded_without_charge),
    ("I5", "failed", failed_miscounted),
    ("I5", "no_id", job_lists_an_id_beyond_bigint),
    ("I5", "no_list", job_lists_no_list),
    ("I6", "moved", path_of_another_member),
    ("I6", "moved", path_of_another_job),
    ("I6", "moved", directory_of_another_place),
    ("I6", "another", path_of_another_member_and_slot),
    ("I6", "same_key", path_of_a_picture_of_another_job),
    ("I7", "count", production_miscounted),
    ("I7", "status", production_ended_otherwise),
    ("I7", "no_id", production_lists_an_id_beyond_bigint),
    ("I8", "moved", picture_moved_to_another_job),
    ("I9", "unexplained", fewer_without_reason),
    ("I9", "unexplained", failed_without_reason),
    ("I12", "overwritten", overwritten_by_another_picture),
    ("I12", "unnamed", object_without_row),
]


@pytest.mark.parametrize(
    ("code", "kind", "damage"), [pytest.param(*case, id=f"{case[0]}-{case[2].__name__}") for case in BROKEN]
)
async def test_hidden_breach_is_reported_alone_with_its_ids(house: House, code: str, kind: str, damage: Damage) -> None:
    await house.finished()
    job = await house.finished()
    ids = {name: str(value) for name, value in (await damage(house, job)).items()}

    breach = await only_breach(house)

    assert facts_of(breach) == (code, kind, ids)
    assert "\n" not in breach.line


async def test_an_organization_that_did_not_order_the_job_is_named_as_its_payer(house: House) -> None:
    job = await house.finished()
    organization = await house.office.organization(await house.office.member())
    await house.sql.all(
        "update quel_credits set org_id = %s, balance_after = 1000 - %s where attach_idx = %s",
        organization,
        PRICE,
        job.attach_ids[0],
    )
    await house.sql.all("update quel_organization set org_credit = 1000 - %s where org_id = %s", PRICE, organization)

    breaches = (await house.audit()).breaches

    assert ("I3", "payer", str(organization)) in {(b.code, b.kind, b.ids.get("organization")) for b in breaches}


# --- what is in order ----------------------------------------------------------------------------------


async def test_a_refunded_picture_is_in_order_and_settles_what_the_audit_asked_to_refund(house: House) -> None:
    job = await house.finished()
    late = await house.finished(1, status=JobStatus.USER_CANCELLED)
    await house.sql.all("update quel_dagster.job_cancel set seen_at = seen_at - interval '1 hour'")
    assert await codes(house) == {("I13", "late")}

    for attach_id in (*job.attach_ids, *late.attach_ids):
        await house.office.database.jobs.refund(attach_id, reason="blurred")

    assert await codes(house) == set()


async def test_an_object_in_motion_is_no_breach(house: House) -> None:
    job = await house.at_work(made=1)
    claim = await house.office.claim(job, run_id=job.run_id)
    waiting, refused = Slot(unit=0, number=1), Slot(unit=0, number=1)
    for slot in (waiting, refused):
        key = await house.office.reserve(job, claim, slot)
        await house.store.put(key, PICTURE, content_type="image/webp")
        assert await codes(house) == set()  # reserved, uploaded, not committed
        await house.office.database.work.release_slot(job.job_id, claim.token, slot, stored=True)
        assert await codes(house) == set()  # noted for deletion
    await house.office.database.work.forget_orphans([key])
    assert await codes(house) == {("I12", "unnamed")}
    assert await codes(house, grace_seconds=600) == set()  # its row may be on its way


async def test_only_objects_in_scope_are_checked(house: House) -> None:
    job, other = await house.finished(), await house.finished()
    await object_without_row(house, other)

    assert await codes(house, job_ids=[job.job_id]) == set()
    assert await codes(house, job_ids=[other.job_id]) == {("I12", "unnamed")}
    assert await codes(house, since=datetime.now(UTC) + timedelta(minutes=1)) == set()
    assert await codes(house, pictures=1) == set()


async def test_balances_beyond_the_ledgers_column_are_followed(house: House) -> None:
    member = await house.office.member(credit=CAP + 100)
    job = await house.finished(3, member_id=member)
    assert [row["balance_after"] for row in await house.sql.ledger(member_id=member)] == [CAP] * 3
    assert await codes(house) == set()

    await house.sql.all("update quel_member set quel_member_credit = 3 where quel_member_id = %s", member)
    assert await codes(house) == {("I1", "off")}
    await house.sql.all(
        "update quel_member set quel_member_credit = %s where quel_member_id = %s", CAP + 100 - 3 * PRICE, member
    )
    await house.sql.all("update quel_credits set balance_after = 5 where attach_idx = %s", job.attach_ids[1])
    assert ("I2", "gap") in await codes(house)


async def test_a_balance_that_falls_below_the_column_is_exact_again(house: House) -> None:
    member = await house.office.member(credit=CAP + PRICE + 5)
    await house.finished(4, member_id=member)
    assert [row["balance_after"] - CAP for row in await house.sql.ledger(member_id=member)] == [0, -15, -35, -55]

    assert await codes(house) == set()

    await house.sql.all(
        "update quel_member set quel_member_credit = quel_member_credit + 1 where quel_member_id = %s", member
    )
    assert await codes(house) == {("I1", "off")}


# --- one bad thing never ends the audit ----------------------------------------------------------------


async def test_a_dead_letter_that_others_wrote_is_no_breach(house: House, redis_url: str) -> None:
    await house.finished()
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(DEAD, "hello", b"\xff\xfe", "{}", "[1]", '{"job_id": 7}', "")

    assert await codes(house) == set()


async def test_an_unexpected_error_of_one_check_leaves_that_check_undone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await house.finished()
    await failed_miscounted(house, job)

    async def broken(_check: Check, _suspects: object = None) -> CheckResult:
        raise RuntimeError("an unexpected row")

    monkeypatch.setattr(Queue, "run", broken)

    report = await house.audit()

    assert report["I11"].not_done == "unexpected RuntimeError; the log has its traceback"
    assert {finding.code for finding in report.findings if finding.not_done} == {"I11"}
    assert [breach.code for breach in report.breaches] == ["I5"]


async def test_a_question_that_postgresql_cannot_answer_leaves_the_others(house: House) -> None:
    """A balance at the end of bigint."""
    await house.finished()
    member = await house.office.member(credit=2**63 - 1)
    await house.finished(1, member_id=member)
    for table in ("generated_attach_ids", "job_input_data"):
        other = await house.finished(1, made=0, status=JobStatus.FAILED, ended=DagsterRunStatus.FAILURE)
        await house.sql.all(
            f"update quel_production_jobs set {table} = '[1000000000000000000000000000000]' where job_id = %s",  # noqa: S608
            other.job_id,
        )
    broken = await house.finished()
    await failed_miscounted(house, broken)

    report = await house.audit()

    assert report.complete
    assert {(breach.code, breach.kind) for breach in report.breaches} == {("I5", "failed"), ("I5", "no_id")}
