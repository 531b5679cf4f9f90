"""Actions of users and operators at the wrong time: push again, cancel, terminate, re-execute, run out of credits."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.faults.desk import Desk, eventually, print_line
from tests.faults.installation import PRICE

#: seconds; a hang guard. The promise is 2 on a quiet machine; the time that it took is printed.
STOPPED = 60.0
MEMBER_CREDIT = "select quel_member_credit as credit from quel_member where quel_member_id = %s"
ORG_CREDIT = "select org_credit as credit from quel_organization where org_id = %s"


# --- pushed again ------------------------------------------------------------------------------------


async def test_pushed_ten_times(desk: Desk) -> None:
    """While it waits, while it runs, after its end: nothing is made or charged twice."""
    desk.site.gemini.state.latency = 1.0
    job_id = await desk.job(3, push=False)
    desk.queue.push(*[job_id] * 4)
    await desk.until_status(job_id, "processing")
    desk.queue.push(*[job_id] * 3)
    row = await desk.until_status(job_id, "completed")
    desk.queue.push(*[job_id] * 3)
    await eventually(lambda: desk.queue.depths()["queue"] == 0, "an empty queue")
    await desk.until_at_rest()
    after = desk.row(job_id)
    for name in ("status", "completed_at", "generated_attach_ids", "completed_images"):
        assert after[name] == row[name], name
    assert desk.site.gemini.state.report()["total"] == 3
    assert desk.charged(job_id) == 3 * PRICE


# --- cancelled by the user ---------------------------------------------------------------------------


async def test_cancelled_before_the_start(desk: Desk) -> None:
    job_id = await desk.job(2, push=False)
    desk.cancel(job_id)
    desk.queue.push(job_id)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("user_cancelled", 0)
    assert desk.site.gemini.state.report()["total"] == 0


async def test_cancelled_in_the_middle_of_a_call(desk: Desk) -> None:
    desk.site.gemini.state.add_rules(Rule(behaviour=Behaviour.HANG))
    job_id = await desk.job(4)
    await desk.until_calling(2)
    desk.cancel(job_id)
    asked = time.monotonic()
    row = await desk.until_ended(job_id)
    took = time.monotonic() - asked
    print_line(f"stopped after {took:.1f} s")
    assert row["status"] == "user_cancelled"
    assert took < STOPPED
    await eventually(lambda: desk.site.gemini.state.in_flight == 0, "the end of the calls")
    assert desk.charged(job_id) == 0


async def test_cancelled_between_upload_and_commit(desk: Desk) -> None:
    """The object is stored; the cancel is kept first: nothing is committed after it."""
    desk.site.proxies.gemini.hold(up=False)
    job_id = await desk.job(1)
    await desk.until_calling(1)
    desk.site.proxies.database.hold()
    desk.site.proxies.gemini.heal()
    await eventually(lambda: any(str(job_id) in name for name in desk.site.storage.objects), "the object")
    desk.cancel(job_id)
    await desk.database.work.keep_cancel(job_id)
    desk.site.proxies.database.heal()
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("user_cancelled", 0)
    assert desk.charged(job_id) == 0


@pytest.mark.fault_all
async def test_cancelled_after_the_end(desk: Desk) -> None:
    job_id = await desk.job(1)
    await desk.until_status(job_id, "completed")
    desk.cancel(job_id)
    desk.queue.push(job_id)
    await eventually(lambda: len(desk.runs(job_id)) == 2, "the second run")
    await desk.until_at_rest()
    assert desk.status(job_id) == "completed"


@pytest.mark.fault_all
async def test_cancelled_with_some_made_and_the_process_killed(desk: Desk) -> None:
    """Committed pictures stay; the retry of the killed run makes no further ones."""
    desk.site.gemini.state.latency = 1.0
    job_id = await desk.job(6)
    await desk.until_made(job_id, 2)
    await desk.kill_child_of(job_id)
    desk.cancel(job_id)
    row = await desk.until_ended(job_id)
    assert row["status"] == "user_cancelled"
    assert 2 <= row["completed_images"] < 6


# --- an operator -------------------------------------------------------------------------------------


async def test_terminated_then_run_again(desk: Desk) -> None:
    """Terminate: the job is cancelled, made pictures stay. Re-execute: only the missing ones are made."""
    desk.site.gemini.state.latency = 2.0
    job_id = await desk.job(12)
    await desk.until_made(job_id, 1)
    run = await desk.until_running(job_id)
    await desk.terminate(run.run_id)
    row = await desk.until_ended(job_id)
    assert row["status"] == "cancelled", desk.describe(job_id)
    made = row["completed_images"]
    assert 1 <= made < 12
    desk.site.gemini.state.latency = 0.0
    await desk.until_at_rest()
    asked = desk.site.gemini.state.report()["total"]
    await desk.reexecute(run.run_id)
    row = await desk.until_status(job_id, "completed")
    assert row["completed_images"] == 12
    assert desk.site.gemini.state.report()["total"] - asked == 12 - made


@pytest.mark.fault_all
@pytest.mark.parametrize("from_failure", [False, True])
async def test_reexecuted_after_every_end(desk: Desk, from_failure: bool) -> None:
    """Succeeded: nothing. Partial and failed: the missing ones."""
    state = desk.site.gemini.state
    # words are asked again twice: one picture of the partial job, two of the failed one
    state.add_rules(Rule(behaviour=Behaviour.TEXT_ONLY, match="wordbad", times=9))
    stages = [{"prompt": "wordbad", "quantity": 1}, {"prompt": "good", "quantity": 1}]
    succeeded = await desk.job(2)
    await desk.until_status(succeeded, "completed")
    partial = await desk.job(2, job_type="pipeline_stage", input_data={"stages": stages})
    if from_failure:  # its run succeeded, and is not executed again
        desk.excuse(r"words instead of a picture.* \(tried 3 times\)", partial, pictures=1)
    row = await desk.until_ended(partial)
    assert (row["status"], row["completed_images"]) == ("completed", 1)
    failed = await desk.job(2, prompt="wordbad")
    row = await desk.until_ended(failed)
    assert row["status"] == "failed"
    await desk.until_at_rest()
    asked = state.report()["total"]
    new = {}
    for job_id in (succeeded, partial, failed):
        run = desk.runs(job_id)[0]
        if from_failure and run.status.value != "FAILURE":
            continue
        new[job_id] = await desk.reexecute(run.run_id, from_failure=from_failure)
    await eventually(
        lambda: all(desk.site.instance.get_run_by_id(run).is_finished for run in new.values()), "the new runs"
    )
    for job_id in new:
        assert desk.row(job_id)["completed_images"] == 2, desk.describe(job_id)
        assert desk.status(job_id) == "completed"
        assert desk.charged(job_id) == 2 * PRICE
    assert state.report()["total"] - asked == (2 if from_failure else 3)


@pytest.mark.fault_all
async def test_reexecuted_after_the_user_cancelled(desk: Desk) -> None:
    """A job that the user stopped stays stopped, and nothing more is charged."""
    desk.site.gemini.state.latency = 1.0
    job_id = await desk.job(6)
    await desk.until_made(job_id, 1)
    desk.cancel(job_id)
    row = await desk.until_ended(job_id)
    assert row["status"] == "user_cancelled"
    await desk.until_at_rest()
    run = await desk.reexecute(desk.runs(job_id)[0].run_id)
    await eventually(lambda: desk.site.instance.get_run_by_id(run).is_finished, "the new run")
    after = desk.row(job_id)
    assert (after["status"], after["completed_images"]) == ("user_cancelled", row["completed_images"])
    assert desk.charged(job_id) == row["completed_images"] * PRICE


# --- credits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "affordable"), [(8, 10), pytest.param(32, 50, marks=pytest.mark.fault_all)], ids=["8", "32"]
)
async def test_many_jobs_on_one_balance(desk: Desk, count: int, affordable: int) -> None:
    """They want three pictures each, the balance is good for fewer: exactly those are made, and the jobs say why."""
    if count > 8:
        desk.site.add_host("b", children=4)
    member = await desk.member(affordable * PRICE + PRICE // 2)
    jobs = [await desk.job(3, member=member) for _ in range(count)]
    desk.excuse("credits, a picture costs", *jobs)
    rows = await asyncio.gather(*(desk.until_ended(job_id) for job_id in jobs))
    assert sum(row["completed_images"] for row in rows) == affordable
    assert desk.rows(MEMBER_CREDIT, member) == [{"credit": PRICE // 2}]
    for row in rows:
        if row["completed_images"] < 3:
            assert "credits" in row["error_message"]


@pytest.mark.fault_all
async def test_the_organization_runs_out_of_credits_in_the_middle(desk: Desk) -> None:
    """It is active, so no other payer is charged: the job ends with its pictures, and the reason."""
    member = await desk.member(1000)
    org = await desk.organization(member, 3 * PRICE + 1)
    job_id = await desk.job(6, member=member, org=org)
    desk.excuse("organization .* credits, a picture costs", job_id, pictures=3)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"], row["failed_images"]) == ("completed", 3, 3)
    assert "organization" in row["error_message"]
    assert "credits" in row["error_message"]
    assert desk.rows(ORG_CREDIT, org) == [{"credit": 1}]
    assert desk.rows(MEMBER_CREDIT, member) == [{"credit": 1000}]


async def test_the_organization_is_suspended_in_the_middle(desk: Desk) -> None:
    """The job stops; the member's private balance pays nothing (domain.md §8)."""
    desk.site.gemini.state.latency = 0.5
    member = await desk.member(1000)
    org = await desk.organization(member, 1000)
    job_id = await desk.job(6, member=member, org=org)
    await desk.until_made(job_id, 2)
    desk.rows("update quel_organization set org_status = 'suspended' where org_id = %s returning 1", org)
    desk.excuse("is suspended", job_id, pictures=4)
    row = await desk.until_ended(job_id)
    made = row["completed_images"]
    assert 2 <= made < 6
    assert "is suspended" in row["error_message"]
    assert desk.rows(ORG_CREDIT, org) == [{"credit": 1000 - made * PRICE}]
    assert desk.rows(MEMBER_CREDIT, member) == [{"credit": 1000}]


# --- entries of the queue ----------------------------------------------------------------------------


async def test_entries_that_are_no_job(desk: Desk) -> None:
    """They go to jobs:dead with a reason; the job behind them runs."""
    before = desk.queue.depths()["dead"]
    binary = bytes(range(256))
    huge = b"x" * 10_000_000
    marks = ["not a uuid", "", "작업", str(uuid4()), f" {uuid4()}", binary, huge]
    for entry in marks:
        desk.queue._redis.lpush("jobs:queue", entry)
    job_id = await desk.job(1)
    row = await desk.until_ended(job_id)
    assert row["status"] == "completed"
    await eventually(lambda: desk.queue.depths()["dead"] - before == len(marks), "the dead letters")
    letters = desk.queue.letters()[: len(marks)]
    assert all(letter.reason and letter.sha256 for letter in letters)
    assert {letter.length for letter in letters} >= {10_000_000, 256, 0}
    for _, text in desk.site.logs():
        assert "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" not in text
