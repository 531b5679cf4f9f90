"""The transaction that a picture is: wholly there or not at all, once, paid, and by the right one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from quel_dagster.adapters.database.records import Committed
from quel_dagster.adapters.database.store import Database
from quel_dagster.errors import InsufficientCreditsError, JobCancelledError, LeaseLostError, PayerError, QuelError
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.services.endpoints import Endpoints
from tests.integration.conftest import PRICE, Look, NewlyMade, Office


@pytest.fixture
async def databases(endpoints: Endpoints) -> AsyncIterator[list[Database]]:
    """The connections of several processes."""
    databases = [Database(endpoints.database_url) for _ in range(4)]
    yield databases
    await asyncio.gather(*(database.aclose() for database in databases))


async def test_the_rows_of_one_picture(office: Office, sql: Look) -> None:
    job = await office.job(total=2)
    claim = await office.processing(job)

    committed = await office.commit(job, claim, 1)

    assert committed == Committed(
        attach_id=committed.attach_id, completed=1, key=committed.key, taken=False, balance=980
    )
    attach = await sql.one("select * from quel_attach where attach_id = %s", committed.attach_id)
    key = committed.key
    folder, name = key.rsplit("/", 1)
    assert folder == f"generated-images/user-{job.member_id}"
    assert name.startswith(f"{job.job_id}_u0000_p0001_")
    assert attach["attach_file_path"] == attach["attach_directory"] == key
    assert attach["attach_original_name"] == attach["attach_file_name"] == name
    assert (attach["attach_file_type"], attach["attach_storage_type"]) == ("image/webp", "file")
    assert attach["attach_file_size"] == 1234
    (charge,) = await sql.ledger(member_id=job.member_id)
    assert charge["transaction_type"] == "DEDUCT"
    assert (charge["amount"], charge["balance_after"]) == (-PRICE, 980)
    assert charge["description"] == "Generated With Image"
    assert charge["attach_idx"] == committed.attach_id
    assert charge["production_idx"] == job.production_id
    assert charge["api_provider"] == "gemini-banana"
    assert (charge["org_id"], charge["used_by_member_id"]) == (None, None)
    row = await sql.job(job.job_id)
    assert row["generated_attach_ids"] == [committed.attach_id]
    assert row["completed_images"] == 1
    await office.check_books(job)


async def test_every_slot_raced_by_four_is_filled_and_charged_once(
    office: Office, sql: Look, databases: list[Database]
) -> None:
    job = await office.job(total=12)
    claim = await office.processing(job)

    keys = [await office.reserve(job, claim, Slot(unit=number // 6, number=number % 6)) for number in range(12)]

    answers = await asyncio.gather(
        *(
            office.commit(job, claim, number % 6, unit=number // 6, database=database, key=keys[number])
            for database in databases
            for number in reversed(range(12))
        )
    )

    assert sum(not answer.taken for answer in answers) == 12
    assert sorted(answer.completed for answer in answers if not answer.taken) == list(range(1, 13))
    row = await sql.job(job.job_id)
    assert row["completed_images"] == 12
    assert {answer.attach_id for answer in answers} == set(row["generated_attach_ids"])
    names = await sql.all(
        "select attach_file_name as name from quel_attach join unnest(%s::bigint[]) with ordinality as i (id, place)"
        " on attach_id = id order by place",
        row["generated_attach_ids"],
    )
    assert [name["name"][:48] for name in names] == [
        f"{job.job_id}_u{unit:04d}_p{number:04d}" for unit in range(2) for number in range(6)
    ]
    await office.check_books(job)
    assert len(await sql.ledger(member_id=job.member_id)) == 12


@pytest.mark.parametrize("organization_pays", [False, True], ids=["member", "organization"])
async def test_32_jobs_on_a_balance_for_a_third_of_them_are_exact_to_the_credit(
    office: Office, sql: Look, databases: list[Database], organization_pays: bool
) -> None:
    pays_for, rest = 32, 7
    credit = pays_for * PRICE + rest
    member_id = await office.member(5 * PRICE if organization_pays else credit)
    org_id = await office.organization(member_id, credit) if organization_pays else None
    jobs = [await office.job(total=3, member_id=member_id, org_id=org_id) for _ in range(32)]
    claims = [await office.processing(job) for job in jobs]

    answers = await asyncio.gather(
        *(
            office.commit(job, claim, number, database=databases[(place + number) % 4])
            for number in range(3)
            for place, (job, claim) in enumerate(zip(jobs, claims, strict=True))
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(answer, Committed) for answer in answers) == pays_for
    assert sum(isinstance(answer, InsufficientCreditsError) for answer in answers) == 96 - pays_for
    assert await sql.credit(org_id=org_id, member_id=member_id) == rest
    await office.check_books(*jobs)


async def test_an_active_organization_pays_and_names_who_used_it(office: Office, sql: Look) -> None:
    member_id = await office.member(500)
    org_id = await office.organization(member_id, 60)
    job = await office.job(member_id=member_id, org_id=org_id)
    claim = await office.processing(job)

    await office.commit(job, claim, 0)

    (charge,) = await sql.ledger(org_id=org_id)
    assert charge["description"] == "Organization Generated With Image"
    assert (charge["user_id"], charge["used_by_member_id"], charge["org_id"]) == (member_id, member_id, org_id)
    assert charge["balance_after"] == 40
    assert await sql.credit(org_id=org_id) == 40
    assert await sql.credit(member_id=member_id) == 500
    await office.check_books(job)


@pytest.mark.parametrize("status", ["suspended", "pending", "inactive", "deleted"])
async def test_an_organization_that_stops_being_active_mid_run_stops_the_job(
    office: Office, sql: Look, status: str
) -> None:
    member_id = await office.member(100)
    org_id = await office.organization(member_id, 100)
    job = await office.job(member_id=member_id, org_id=org_id)
    claim = await office.processing(job)
    await office.commit(job, claim, 0)

    await sql.all("update quel_organization set org_status = %s where org_id = %s", status, org_id)
    with pytest.raises(PayerError, match=f"is {status}"):
        await office.commit(job, claim, 1)

    assert await sql.credit(org_id=org_id) == 80
    assert await sql.credit(member_id=member_id) == 100
    await office.check_books(job)


async def test_a_suspension_racing_with_commits_lets_no_private_balance_pay(
    office: Office, sql: Look, databases: list[Database]
) -> None:
    member_id = await office.member(1000)
    org_id = await office.organization(member_id, 1000)
    job = await office.job(total=24, member_id=member_id, org_id=org_id)
    claim = await office.processing(job)

    commits = [
        asyncio.create_task(office.commit(job, claim, number, database=databases[number % 4])) for number in range(24)
    ]
    await asyncio.wait(commits, return_when=asyncio.FIRST_COMPLETED)
    await sql.all("update quel_organization set org_status = 'suspended' where org_id = %s", org_id)
    charged_before = len(await sql.ledger(org_id=org_id))
    answers = await asyncio.gather(*commits, return_exceptions=True)

    assert len(await sql.ledger(org_id=org_id)) == charged_before
    assert await sql.ledger(member_id=member_id) == []
    assert sum(isinstance(answer, Committed) for answer in answers) == charged_before
    assert sum(isinstance(answer, PayerError) for answer in answers) == 24 - charged_before
    await office.check_books(job)


@pytest.mark.parametrize("credit", [0, PRICE - 1, None])
async def test_a_balance_below_the_price_pays_for_nothing(office: Office, sql: Look, credit: int | None) -> None:
    job = await office.job()
    claim = await office.processing(job)
    await sql.all("update quel_member set quel_member_credit = %s where quel_member_id = %s", credit, job.member_id)

    with pytest.raises(InsufficientCreditsError, match="credits, a picture costs 20"):
        await office.commit(job, claim, 0)

    assert (await sql.job(job.job_id))["generated_attach_ids"] == []
    assert await sql.ledger(member_id=job.member_id) == []
    assert await sql.value("select count(*) from quel_attach where attach_file_name like %s", f"{job.job_id}%") == 0
    assert (
        await sql.value("select quel_member_credit from quel_member where quel_member_id = %s", job.member_id) == credit
    )


async def test_an_active_organization_without_credits_is_not_helped_out_by_the_member(
    office: Office, sql: Look
) -> None:
    member_id = await office.member(1000)
    org_id = await office.organization(member_id, PRICE)
    job = await office.job(member_id=member_id, org_id=org_id)
    claim = await office.processing(job)
    await office.commit(job, claim, 0)

    with pytest.raises(InsufficientCreditsError, match="organization"):
        await office.commit(job, claim, 1)

    assert await sql.ledger(member_id=member_id) == []
    await office.check_books(job)


async def test_repeating_taken_slots_changes_nothing(office: Office, sql: Look) -> None:
    job = await office.job(total=3)
    claim = await office.processing(job)
    first = [await office.commit(job, claim, number) for number in range(3)]
    before = await sql.job(job.job_id)
    sequence = await sql.value("select last_value from quel_attach_attach_id_seq")

    again = [await office.commit(job, claim, number) for number in range(3)]

    assert [answer.attach_id for answer in again] == [answer.attach_id for answer in first]
    assert all(answer.taken and answer.balance is None for answer in again)
    assert await sql.job(job.job_id) == before
    assert await sql.value("select last_value from quel_attach_attach_id_seq") == sequence
    await office.check_books(job)


async def test_a_filled_slot_is_known_when_the_jobs_own_list_was_emptied(office: Office, sql: Look) -> None:
    job = await office.job(total=2)
    claim = await office.processing(job)
    first = await office.commit(job, claim, 0)
    await sql.all("update quel_production_jobs set generated_attach_ids = '[]' where job_id = %s", job.job_id)

    again, second = await office.commit(job, claim, 0), await office.commit(job, claim, 1)

    assert again.taken
    assert again.attach_id == first.attach_id
    assert (await sql.job(job.job_id))["generated_attach_ids"] == [first.attach_id, second.attach_id]
    await office.check_books(job)


async def test_a_job_never_gets_more_than_its_total(office: Office, sql: Look, databases: list[Database]) -> None:
    job = await office.job(total=5)
    claim = await office.processing(job)

    answers = await asyncio.gather(
        *(office.commit(job, claim, number, database=databases[number % 4]) for number in range(15)),
        return_exceptions=True,
    )

    assert sum(isinstance(answer, Committed) for answer in answers) == 5
    refused = [answer for answer in answers if not isinstance(answer, Committed)]
    assert all(isinstance(answer, QuelError) and "already has its 5 pictures" in str(answer) for answer in refused)
    await office.check_books(job)


async def test_pictures_of_an_older_worker_count_and_stay_in_front(office: Office, sql: Look) -> None:
    job = await office.job(total=3)
    foreign = [await office.foreign_picture(job), await office.foreign_picture(job)]
    claim = await office.processing(job)

    ours = await office.commit(job, claim, 2)

    assert (await sql.job(job.job_id))["generated_attach_ids"] == [*foreign, ours.attach_id]
    with pytest.raises(QuelError, match="already has its 3 pictures"):
        await office.commit(job, claim, 1)


async def test_ids_that_a_browser_or_an_older_worker_wrote_as_floats_are_read(office: Office, sql: Look) -> None:
    job = await office.job(total=3)
    foreign = await office.foreign_picture(job)
    await sql.all(
        "update quel_production_jobs set generated_attach_ids = %s::jsonb where job_id = %s",
        f"[{foreign}.0]",
        job.job_id,
    )
    claim = await office.processing(job)
    assert [made.attach_id for made in claim.made] == [foreign]

    ours = await office.commit(job, claim, 1)

    assert (await sql.job(job.job_id))["generated_attach_ids"] == [foreign, ours.attach_id]


@pytest.mark.parametrize("value", [None, "{}", '"x"', "null"])
async def test_a_list_of_ids_that_is_none_is_read_as_empty(office: Office, sql: Look, value: str | None) -> None:
    job = await office.job(total=1)
    await sql.all("update quel_production_jobs set generated_attach_ids = %s where job_id = %s", value, job.job_id)
    claim = await office.processing(job)
    assert claim.made == ()

    ours = await office.commit(job, claim, 0)

    assert (await sql.job(job.job_id))["generated_attach_ids"] == [ours.attach_id]


async def test_the_token_of_a_run_that_lost_its_job_writes_nothing(office: Office, sql: Look) -> None:
    job = await office.job()
    old = await office.processing(job, run_id="run-1")
    new = await office.processing(job, run_id="run-2", retry_of=("run-1",))
    before = await sql.job(job.job_id)

    with pytest.raises(LeaseLostError):
        await office.commit(job, old, 0)
    with pytest.raises(LeaseLostError):
        await office.database.work.begin(job.job_id, old.token, price=PRICE)

    assert await sql.job(job.job_id) == before
    assert await sql.ledger(member_id=job.member_id) == []
    assert (await office.commit(job, new, 0)).completed == 1


async def test_a_claim_racing_with_commits_ends_them_at_once(
    office: Office, sql: Look, databases: list[Database]
) -> None:
    job = await office.job(total=20)
    old = await office.processing(job, run_id="run-1")
    commits = [
        asyncio.create_task(office.commit(job, old, number, database=databases[number % 4])) for number in range(20)
    ]
    await asyncio.wait(commits, return_when=asyncio.FIRST_COMPLETED)

    new = await office.claim(job, run_id="run-2", retry_of=("run-1",))
    answers = await asyncio.gather(*commits, return_exceptions=True)

    stored = [answer.attach_id for answer in answers if isinstance(answer, Committed)]
    assert all(isinstance(answer, Committed | LeaseLostError) for answer in answers)
    assert sorted(made.attach_id for made in new.made) == sorted(stored), "a picture was committed after the claim"
    await office.check_books(job)


async def test_nothing_is_committed_after_a_kept_cancel(office: Office, sql: Look, databases: list[Database]) -> None:
    job = await office.job(total=20)
    claim = await office.processing(job)
    commits = [
        asyncio.create_task(office.commit(job, claim, number, database=databases[number % 4])) for number in range(20)
    ]
    await asyncio.wait(commits, return_when=asyncio.FIRST_COMPLETED)

    await office.database.work.keep_cancel(job.job_id)
    made = len((await sql.job(job.job_id))["generated_attach_ids"])
    answers = await asyncio.gather(*commits, return_exceptions=True)

    assert sum(isinstance(answer, Committed) for answer in answers) == made
    assert sum(isinstance(answer, JobCancelledError) for answer in answers) == 20 - made
    assert len((await sql.job(job.job_id))["generated_attach_ids"]) == made
    await office.check_books(job)


async def test_a_cancel_kept_twice_is_kept(office: Office) -> None:
    job = await office.job()
    claim = await office.processing(job)
    await office.database.work.keep_cancel(job.job_id)
    await office.database.work.keep_cancel(job.job_id)
    with pytest.raises(JobCancelledError):
        await office.commit(job, claim, 0)


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled", "user_cancelled", None])
async def test_a_job_that_is_not_processing_gets_no_picture(office: Office, sql: Look, status: str | None) -> None:
    job = await office.job()
    claim = await office.processing(job)
    await sql.all("update quel_production_jobs set job_status = %s where job_id = %s", status, job.job_id)

    with pytest.raises(JobCancelledError if status in {"user_cancelled", "cancelled"} else LeaseLostError):
        await office.commit(job, claim, 0)

    assert await sql.ledger(member_id=job.member_id) == []


async def settle(database: Database, job: NewlyMade, token: int) -> tuple[int, ...]:
    settled = await database.work.settle(
        job.job_id, token, status=JobStatus.COMPLETED, total=job.total, error=None, inputs=0
    )
    return settled.attach_ids


async def test_two_jobs_of_one_production_commit_and_settle_side_by_side(
    office: Office, sql: Look, databases: list[Database]
) -> None:
    """Their transactions meet at the production's row from both sides: neither deadlock nor lost id."""
    member_id = await office.member(10_000)
    first = await office.job(total=6, member_id=member_id)
    jobs = [first] + [
        await office.into_production_of(first, await office.job(total=6, member_id=member_id)) for _ in range(3)
    ]

    async def work(job: NewlyMade, database: Database) -> tuple[int, ...]:
        claim = await office.processing(job)
        await asyncio.gather(*(office.commit(job, claim, number, database=database) for number in range(6)))
        return await settle(database, job, claim.token)

    ids = await asyncio.gather(*(work(job, database) for job, database in zip(jobs, databases, strict=True)))

    production = await sql.production(first.production_id)
    assert sorted(production["attach_ids"]) == sorted(attach_id for each in ids for attach_id in each)
    assert production["production_status"] == "completed"
    assert production["generated_image_count"] == 24
    await office.check_books(*jobs)
