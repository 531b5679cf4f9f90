"""Calls begin only for pictures that the balance covers; unpaid pictures are not kept (domain.md §8)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from quel_dagster.engine.engine import Engine
from quel_dagster.engine.orphans import OrphanSweep
from quel_dagster.errors import PayerError
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.sandbox.gemini_server import Behaviour, GeminiStandIn, Rule
from quel_dagster.settings import Settings
from tests.integration.conftest import PRICE, Look, Office, eventually
from tests.integration.engine.conftest import combinations, run_job


def stored(environment: Mapping[str, str]) -> list[Path]:
    """The generated pictures in the store."""
    return [path for path in Path(urlsplit(environment["STORAGE_URL"]).path).rglob("*.webp") if path.is_file()]


@pytest.fixture
def eight_at_a_time(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> Mapping[str, str]:
    monkeypatch.setenv("QUEL_MAX_CONCURRENT_IMAGES", "8")
    return environment


async def test_a_balance_for_one_of_eight_pictures_makes_one_call_and_one_object(
    office: Office, sql: Look, gemini: GeminiStandIn, eight_at_a_time: Mapping[str, str]
) -> None:
    engine = Engine.from_settings(Settings.read(_env_file=None))
    gemini.state.latency = 0.3
    job = await office.job(8, credit=PRICE)

    await run_job(engine, job)

    assert gemini.state.report()["total"] == 1
    assert len(stored(eight_at_a_time)) == 1
    row = await sql.job(job.job_id)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 1, 7)
    assert "add credits" in row["error_message"]
    await office.check_books(job)
    await engine.aclose()


async def test_two_jobs_of_one_payer_share_what_the_balance_covers(
    office: Office, sql: Look, gemini: GeminiStandIn, eight_at_a_time: Mapping[str, str]
) -> None:
    engine = Engine.from_settings(Settings.read(_env_file=None))
    gemini.state.latency = 0.3
    member_id = await office.member(3 * PRICE)
    jobs = [await office.job(4, member_id=member_id) for _ in range(2)]

    await asyncio.gather(*(run_job(engine, job) for job in jobs))

    assert gemini.state.report()["total"] == 3
    assert len(stored(eight_at_a_time)) == 3
    await office.check_books(*jobs)
    await engine.aclose()


async def test_credits_reserved_for_a_picture_that_fails_pay_for_the_next(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1))
    gemini.state.latency = 0.2
    job = await office.job(2, credit=PRICE)

    run = await run_job(engine, job)

    assert (run.ended.status, run.ended.completed) == (JobStatus.COMPLETED, 1)
    assert gemini.state.report()["total"] == 2
    await office.check_books(job)


async def test_picture_with_a_refused_charge_is_deleted(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, environment: Mapping[str, str]
) -> None:
    gemini.state.latency = 120.0
    job = await office.job(1)
    running = asyncio.create_task(run_job(engine, job))
    await eventually(lambda: sql.all("select 1 from quel_dagster.picture_slot where job_id = %s", job.job_id))
    await sql.all("update quel_member set quel_member_credit = 0 where quel_member_id = %s", job.member_id)
    gemini.state.latency = 0.0
    await running

    assert stored(environment) == []
    assert await sql.all("select 1 from quel_dagster.picture_slot where job_id = %s", job.job_id) == []
    assert await sql.all("select 1 from quel_dagster.orphan_object where job_id = %s", job.job_id) == []
    assert (await sql.job(job.job_id))["job_status"] == "failed"


async def test_the_object_of_a_run_that_died_is_noted_for_deletion(office: Office, sql: Look) -> None:
    job = await office.job(1)
    dead = await office.processing(job, run_id="run-1")
    old = await office.reserve(job, dead, Slot(unit=0, number=0))
    alive = await office.processing(job, run_id="run-2", retry_of=("run-1",))

    new = (await office.commit(job, alive, 0)).key

    assert new != old
    rows = await sql.all("select object_key from quel_dagster.orphan_object where job_id = %s", job.job_id)
    assert [row["object_key"] for row in rows] == [old]
    assert old in await office.database.work.orphans(older_than_seconds=0, most=10_000)
    assert new not in await office.database.work.orphans(older_than_seconds=0, most=10_000)


async def test_the_objects_of_dead_runs_are_deleted(
    office: Office, sql: Look, engine: Engine, environment: Mapping[str, str]
) -> None:
    job = await office.job(1)
    key = await office.reserve(job, await office.processing(job), Slot(unit=0, number=0))
    await engine.dependencies.store.put(key, b"a picture that was never committed", content_type="image/webp")
    await office.database.recovery.end_abandoned(
        job.job_id, status=JobStatus.FAILED, error="It died.", run_ids=["run-1"]
    )
    await sql.all("update quel_dagster.orphan_object set noted_at = noted_at - interval '1 hour'")

    await OrphanSweep(engine.dependencies).sweep()

    assert stored(environment) == []
    assert await sql.all("select 1 from quel_dagster.orphan_object where job_id = %s", job.job_id) == []


# --- who pays --------------------------------------------------------------------------------------------


async def test_user_id_of_the_browser_charges_no_other_member(office: Office, sql: Look, engine: Engine) -> None:
    victim = await office.member(1000)
    job = await office.job(2, input_data={"prompt": "x", "userId": str(victim), "aspect-ratio": "1:1"})

    run = await run_job(engine, job)

    assert await sql.ledger(member_id=victim) == []
    assert len(await sql.ledger(member_id=job.member_id)) == 2
    keys = [made.key for outcome in run.outcomes for made in outcome.made]
    assert all(f"user-{job.member_id}/" in key for key in keys)
    assert any("userId" in line for line in run.lines), "the difference is logged as a repair"
    await office.check_books(job)


async def test_the_user_id_counts_where_the_rows_name_no_member(office: Office, sql: Look, engine: Engine) -> None:
    member = await office.member(100)
    job = await office.job(1, input_data={"prompt": "x", "userId": f" {member} ", "aspect-ratio": "1:1"})
    await sql.all("update quel_production_jobs set quel_member_id = null where job_id = %s", job.job_id)
    await sql.all("update quel_production_photo set quel_member_id = null where production_id = %s", job.production_id)
    await run_job(engine, job)
    assert len(await sql.ledger(member_id=member)) == 1


LEFT = "update quel_organization_member set status = 'left' where org_id = %s"
BANNED = "update quel_organization_member set status = 'banned' where org_id = %s"
NEVER = "delete from quel_organization_member where org_id = %s"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (LEFT, "neither owns"),
        (BANNED, "neither owns"),
        (NEVER, "neither owns"),
        ("update quel_organization set deleted_at = now() where org_id = %s", "is deleted"),
        ("update quel_organization set org_status = 'suspended' where org_id = %s", "is suspended"),
        ("update quel_organization set org_status = 'pending' where org_id = %s", "is pending"),
    ],
)
async def test_an_organization_that_may_not_pay_fails_the_job_before_any_call(
    *, office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, change: str, said: str
) -> None:
    member, owner = await office.member(1000), await office.member(0)
    org = await office.organization(owner, 1000)
    await sql.all(
        "insert into quel_organization_member (org_id, member_id, role) values (%s, %s, 'member')", org, member
    )
    await sql.all(change, org)
    job = await office.job(1, member_id=member, org_id=org)

    run = await run_job(engine, job)

    assert isinstance(run.error, PayerError)
    row = await sql.job(job.job_id)
    assert (row["job_status"], said in row["error_message"]) == ("failed", True)
    assert gemini.state.report()["total"] == 0
    await office.check_books(job)


async def test_an_active_member_and_the_owner_of_an_organization_may_use_it(
    office: Office, sql: Look, engine: Engine
) -> None:
    member, owner = await office.member(0), await office.member(0)
    org = await office.organization(owner, 1000)
    await sql.all(
        "insert into quel_organization_member (org_id, member_id, role) values (%s, %s, 'member')", org, member
    )
    await sql.all("delete from quel_organization_member where member_id = %s", owner)
    jobs = [await office.job(1, member_id=who, org_id=org) for who in (member, owner)]
    for job in jobs:
        assert (await run_job(engine, job)).ended.completed == 1
    assert len(await sql.ledger(org_id=org)) == 2
    await office.check_books(*jobs)


@pytest.mark.parametrize("status", ["suspended", "deleted", "inactive"])
async def test_an_inactive_member_gets_no_pictures(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn, status: str
) -> None:
    job = await office.job(1)
    await sql.all("update quel_member set quel_member_status = %s where quel_member_id = %s", status, job.member_id)
    await run_job(engine, job)
    row = await sql.job(job.job_id)
    assert (row["job_status"], f"is {status}" in row["error_message"]) == ("failed", True)
    assert gemini.state.report()["total"] == 0


async def test_an_organization_suspended_in_mid_run_stops_the_job_and_no_private_balance_pays(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    gemini.state.add_rules(Rule(behaviour=Behaviour.OK, times=1), Rule(behaviour=Behaviour.SLOW, seconds=120.0))
    member = await office.member(1000)
    org = await office.organization(member, 1000)
    job = await office.job(6, member_id=member, org_id=org, job_type="single_batch", input_data=combinations(*[1] * 6))
    running = asyncio.create_task(run_job(engine, job))
    await eventually(lambda: sql.ledger(org_id=org))
    await sql.all("update quel_organization set org_status = 'suspended' where org_id = %s", org)
    gemini.state.reset()
    await running

    row = await sql.job(job.job_id)
    assert row["completed_images"] < 6
    assert "is suspended" in row["error_message"]
    assert await sql.ledger(member_id=member) == []
    await office.check_books(job)


# --- a database that refuses -----------------------------------------------------------------------------


async def test_a_row_that_cannot_be_updated_ends_the_run_and_keeps_postgresqls_words(
    office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(1)
    name = f"refuse_{uuid4().hex}"
    await sql.all(
        f"create function {name}() returns trigger language plpgsql as $$ begin "
        f"if new.job_id = '{job.job_id}' then raise exception 'rows of finance are locked'; end if; return new; end $$"
    )
    await sql.all(f"create trigger {name} before update on quel_production_jobs for each row execute function {name}()")
    try:
        run = await run_job(engine, job)
    finally:
        await sql.all(f"drop trigger {name} on quel_production_jobs")

    assert "rows of finance are locked" in str(run.error)
    assert gemini.state.report()["total"] == 0
    refusals = await office.database.recovery.refusals([job.job_id])
    assert "rows of finance are locked" in refusals[job.job_id].trouble


REFUND = "select * from quel_credits where transaction_type = 'refund' and attach_idx = %s"


# --- refunds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("organization_pays", [False, True], ids=["member", "organization"])
async def test_a_refund_gives_the_price_back_once(
    office: Office, sql: Look, engine: Engine, organization_pays: bool
) -> None:
    member = await office.member(100)
    org = await office.organization(member, 100) if organization_pays else None
    job = await office.job(1, member_id=member, org_id=org)
    attach_id = (await run_job(engine, job)).ended.attach_ids[0]

    answers: list[Any] = await asyncio.gather(
        *(office.database.jobs.refund(attach_id, reason="blurred") for _ in range(5))
    )

    assert sorted(answer.outcome for answer in answers) == ["refunded"] + ["refunded_before"] * 4
    (refund,) = await sql.all(REFUND, attach_id)
    assert (refund["amount"], refund["balance_after"], refund["org_id"]) == (PRICE, 100, org)
    assert (refund["user_id"], refund["production_idx"]) == (member, job.production_id)
    assert await sql.credit(org_id=org, member_id=member) == 100
    assert (await sql.job(job.job_id))["generated_attach_ids"] == [attach_id], "the picture stays in its job"


async def test_a_picture_that_was_never_charged_is_not_refunded(office: Office) -> None:
    assert (await office.database.jobs.refund(2**60, reason="x")).outcome == "not_charged"
