"""The questions of an operator's day: stats, members, short ids, lists in the order of service, acting by filter."""

from __future__ import annotations

from uuid import UUID

import pytest
from dagster import DagsterRunStatus

from quel_dagster.adapters.database.usage import encoded, note_usage
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.jobs.models import Usage
from tests.integration.cli.conftest import Quel, Runs
from tests.integration.cli.test_acting import ended, waiting
from tests.integration.conftest import PRICE, Look, Office

# --- names -----------------------------------------------------------------------------------------------


async def test_beginning_of_an_id_names_the_job(quel: Quel, office: Office) -> None:
    job = await office.job(2)
    for word in (str(job.job_id)[:13], str(job.job_id).upper(), str(job.production_id)[:13]):
        assert (await quel("show", "--json", word)).ok().data["job"]["job_id"] == str(job.job_id)


async def test_a_run_id_or_its_beginning_names_the_job(quel: Quel, office: Office, runs: Runs, sql: Look) -> None:
    queued, at_work = await office.job(2), await office.job(2)
    run_id = runs.add(queued.job_id, DagsterRunStatus.QUEUED)
    leased = "0123abcd-0000-4000-8000-00000000beef"
    await office.processing(at_work, run_id=leased)
    assert (await quel("status", "--json", run_id)).ok().data["job_id"] == str(queued.job_id)
    assert (await quel("status", "--json", run_id[:12])).ok().data["job_id"] == str(queued.job_id)
    assert (await quel("status", "--json", leased[:12])).ok().data["job_id"] == str(at_work.job_id)


async def test_a_production_name_names_the_job_unless_two_have_it(quel: Quel, office: Office, sql: Look) -> None:
    one, two = await office.job(1), await office.job(1)
    rename = "update quel_production_photo set production_name = %s where production_id = %s"
    await sql.all(rename, "Autumn lookbook 7", one.production_id)
    assert (await quel("show", "--json", "autumn LOOKBOOK 7")).ok().data["job"]["job_id"] == str(one.job_id)
    await sql.all(rename, "Autumn lookbook 7", two.production_id)
    assert str(two.job_id) in (await quel("show", "autumn lookbook 7")).wrong().err
    assert "No job, production or run" in (await quel("show", "no such name")).wrong().err


# --- stats and members -----------------------------------------------------------------------------------


async def test_stats_counts_what_ended_and_names_the_reasons(quel: Quel, office: Office) -> None:
    before = (await quel("stats", "--since", "1h", "--json")).ok().data
    job = await office.job(3)
    claim = await office.processing(job)
    await office.commit(job, claim, 0)
    why = "2 of 3 pictures failed. general #1, general #2: The model is overloaded in test 71."
    await office.database.work.settle(job.job_id, claim.token, status=JobStatus.COMPLETED, total=3, error=why, inputs=0)
    cancelled = await office.job(1)
    claim = await office.processing(cancelled)
    await office.database.work.settle(
        cancelled.job_id, claim.token, status=JobStatus.CANCELLED, total=1, error="Cancelled in test 72.", inputs=0
    )
    after = (await quel("stats", "--since", "1h", "--json")).ok().data
    assert after["ended"]["partial"] == before["ended"]["partial"] + 1
    assert after["ended"]["missing"] == before["ended"]["missing"] + 2
    assert after["credits"]["charged"] == before["credits"]["charged"] + PRICE
    assert "The model is overloaded in test N." in [reason["reason"] for reason in after["reasons"]]
    assert not [reason for reason in after["reasons"] if "Cancelled in test" in reason["reason"]], "no failure"
    assert after["pictures_a_minute"] > 0
    out = (await quel("stats", "--since", "1h")).ok().out
    assert "intake      open" in out
    assert "pictures per minute" in out


async def test_stats_counts_dollars_and_pictures_without_a_price(quel: Quel, office: Office) -> None:
    before = (await quel("stats", "--since", "1h", "--json")).ok().data
    job = await office.job(2)
    for number, usd in enumerate((0.25, None)):
        usage = encoded(Usage(input=1, image=1), model="gemini-82", calls=3, usd=usd)
        await note_usage(office.database, job.job_id, Slot(unit=0, number=number), usage)
    after = (await quel("stats", "--since", "1h", "--json")).ok().data
    assert after["gemini_usd"] == pytest.approx(before["gemini_usd"] + 0.25)
    out = (await quel("stats", "--since", "1h")).ok().out
    assert f"{after['gemini_usd']:,.2f} USD for " in out
    assert "of unknown price" in out


async def test_enqueue_takes_the_beginning_of_an_id_and_is_logged(
    quel: Quel, office: Office, queue: JobQueue, sql: Look
) -> None:
    job = await office.job(1)
    (await quel("enqueue", str(job.job_id)[:13], "--as", "mina", "--why", "lost")).ok()
    assert job.job_id in waiting(queue)
    row = await sql.one("select * from quel_dagster.action where job_id = %s", job.job_id)
    assert (row["actor"], row["via"], row["action"], row["reason"]) == ("mina", "cli", "enqueue", "lost")
    assert "No job, production or run" in (await quel("enqueue", "no such name")).wrong().err


async def test_member_shows_what_they_got_paid_and_have(quel: Quel, office: Office, sql: Look) -> None:
    member = await office.member(credit=100)
    await sql.all(
        "update quel_member set quel_name = %s, quel_email = %s where quel_member_id = %s",
        "Mina of test 72",
        "mina.72@quel.example",
        member,
    )
    await ended(office, JobStatus.COMPLETED, member_id=member, made=2)
    for word in ("mina.72@quel.example", "Mina of test 72", "mina.72", str(member)[:13]):
        account = (await quel("member", word, "--json")).ok().data
        assert account["member"]["member_id"] == str(member)
        assert (account["paid"], account["pictures"], account["member"]["credit"]) == (2 * PRICE, 2, 100 - 2 * PRICE)
    assert "60 credits" in (await quel("member", "mina.72")).ok().out
    assert "No member matches" in (await quel("member", "no such member")).wrong().err


# --- the order of service --------------------------------------------------------------------------------


async def test_open_jobs_are_listed_in_the_order_of_service(
    quel: Quel, office: Office, queue: JobQueue, runs: Runs
) -> None:
    member = await office.member()
    in_redis, next_in_redis, launched, at_work, forgotten = [await office.job(2, member_id=member) for _ in range(5)]
    queue.push(next_in_redis.job_id, in_redis.job_id)
    runs.add(launched.job_id, DagsterRunStatus.QUEUED)
    await office.processing(at_work)
    listed = (await quel("list", "--open", "--json", "--member", member)).ok().data
    order = [at_work, launched, next_in_redis, in_redis, forgotten]
    assert [job["job_id"] for job in listed] == [str(job.job_id) for job in order]
    places = [job["place"] for job in listed]
    assert places[0] is None
    assert places[-1] is None
    assert places[1] < places[2] < places[3], "runs that wait in Dagster come before ids in Redis"


# --- acting by filter ------------------------------------------------------------------------------------


async def test_retry_by_filter_takes_what_matches_and_asks_first(
    quel: Quel, office: Office, sql: Look, queue: JobQueue
) -> None:
    member = await office.member()
    failed = await ended(office, JobStatus.FAILED, member_id=member, made=0)
    partial = await ended(office, JobStatus.COMPLETED, member_id=member)
    await ended(office, JobStatus.COMPLETED, member_id=member, made=3)
    await sql.all(
        "update quel_production_jobs set error_message = 'The model is Overloaded' where job_id = %s", failed.job_id
    )
    both = ("retry", "--status", "failed", "--status", "partial", "--since", "1h", "--member", member)

    would = (await quel(*both, "--dry-run", "--json")).ok().data
    assert {deed["job_id"] for deed in would} == {str(failed.job_id), str(partial.job_id)}
    assert waiting(queue) == [], "a dry run does nothing"

    answer = await quel(*both, stdin="n\n")
    assert answer.code == 1
    assert "Retry 2 jobs?" in answer.err
    assert waiting(queue) == []

    assert "pushed again" in (await quel(*both, "--reason", "overloaded", "--yes")).ok().out
    assert waiting(queue) == [failed.job_id]
    await quel(*both, stdin="y\n")
    assert set(waiting(queue)) == {failed.job_id, partial.job_id}


async def test_cancel_by_filter_touches_only_what_matches(quel: Quel, office: Office, sql: Look) -> None:
    member = await office.member()
    mine, other = await office.job(1, member_id=member), await office.job(1)
    await quel("cancel", "--status", "pending", "--member", member, "--dry-run")
    assert (await sql.job(mine.job_id))["job_status"] == "pending"
    await quel("cancel", "--status", "pending", "--member", member, "--yes")
    assert "cancelled" in (await sql.job(mine.job_id))["job_status"]
    assert (await sql.job(other.job_id))["job_status"] == "pending"


@pytest.mark.parametrize("verb", ["retry", "cancel"])
async def test_acting_on_nothing_named_is_refused(quel: Quel, office: Office, verb: str) -> None:
    assert "name the jobs" in (await quel(verb)).wrong(2).err
    job = await office.job(1)
    assert "not both" in (await quel(verb, job.job_id, "--since", "1h")).wrong(2).err


# --- pause -----------------------------------------------------------------------------------------------


async def test_pause_is_kept_with_its_reason_until_resume(quel: Quel, queue: JobQueue) -> None:
    assert "quel resume" in (await quel("pause", "--reason", "the store is moved", "--as", "mina")).ok().out
    assert "paused" in (await quel("stats")).ok().out
    assert "! Redis: The intake is paused since" in (await quel("doctor")).out
    assert "by mina: the store is moved" in (await quel("stats", "--json")).ok().data["redis"]["paused"]
    assert "the store is moved" in (await quel("resume", "--as", "mina")).ok().out
    assert (await quel("stats", "--json")).ok().data["redis"]["paused"] is None
    assert "was not paused" in (await quel("resume")).wrong().err


# --- show ------------------------------------------------------------------------------------------------


async def test_show_of_a_large_job_fits_a_screen_with_the_advice_first(quel: Quel, office: Office) -> None:
    job = await office.job(400)
    lines = (await quel("show", job.job_id)).ok().out.splitlines()
    assert len(lines) <= 60
    assert "quel retry" in lines[0]
    assert len((await quel("show", "--all", job.job_id)).ok().out.splitlines()) > 400
    assert UUID((await quel("show", "--json", job.job_id)).ok().data["job"]["job_id"]) == job.job_id
