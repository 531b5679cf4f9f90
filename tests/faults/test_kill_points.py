"""SIGKILL at every point of a job's way from its push to its end.

Each test holds the installation at the point by holding a connection or watching for a row or an object, kills, and
lets go. `until_over` then asserts the promises: as many pictures as planned, one charge each, back at work in time.
"""

from __future__ import annotations

import time
from uuid import UUID

import pytest

from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.faults.desk import ENDED, Desk, eventually, print_line
from tests.faults.installation import PRICE

#: A hang guard: seconds from the kill of a run's process until another run has the job. Promised are 15 on a machine of
#: one's own; the time that it took is printed.
BACK_AT_WORK = 120.0


async def until_over(desk: Desk, job_id: UUID, total: int, *, killed: float | None = None, old_run: str = "") -> None:
    """The job completes by itself, whole, charged once per picture."""
    if killed is not None:

        def back_at_work() -> bool:  # a job of two pictures may end between two looks
            lease = desk.lease(job_id)
            return bool(lease and lease["live"] and lease["run_id"] != old_run) or desk.status(job_id) in ENDED

        await eventually(back_at_work, f"job {job_id} back at work")
        took = time.monotonic() - killed
        print_line(f"back at work after {took:.1f} s")
        assert took < BACK_AT_WORK
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"], row["failed_images"]) == ("completed", total, 0), desk.describe(
        job_id
    )
    assert desk.charged(job_id) == total * PRICE


def calls(desk: Desk) -> int:
    return int(desk.site.gemini.state.report()["total"])


# --- the run's process -------------------------------------------------------------------------------


async def test_before_the_claim(desk: Desk) -> None:
    """The run has started; the process never reached the database."""
    held = desk.site.proxies.database
    held.hold()
    job_id = await desk.job(2)
    run = await desk.until_running(job_id)
    killed = await desk.kill_child_of(job_id)
    held.heal()
    await until_over(desk, job_id, 2, killed=killed, old_run=run.run_id)
    assert calls(desk) == 2


@pytest.mark.fault_all
async def test_while_a_reference_is_fetched(desk: Desk) -> None:
    """The job is in processing, nothing was asked of Gemini."""
    desk.site.proxies.storage.hold()
    job_id = await desk.job(2, references=[await desk.reference()])
    await desk.until_status(job_id, "processing")
    run = await desk.until_running(job_id)
    killed = await desk.kill_child_of(job_id)
    desk.site.proxies.storage.heal()
    await until_over(desk, job_id, 2, killed=killed, old_run=run.run_id)
    assert calls(desk) == 2


@pytest.mark.fault_all
async def test_during_a_call(desk: Desk) -> None:
    """Gemini has answered; the answers never arrive."""
    desk.site.proxies.gemini.hold(up=False)
    job_id = await desk.job(2)
    await desk.until_calling(2)
    run = await desk.until_running(job_id)
    killed = await desk.kill_child_of(job_id)
    desk.site.proxies.gemini.heal()
    await until_over(desk, job_id, 2, killed=killed, old_run=run.run_id)


async def test_after_the_upload(desk: Desk) -> None:
    """The object is in the store; the transaction is not even begun: the next run overwrites the object."""
    desk.site.proxies.gemini.hold(up=False)
    job_id = await desk.job(1)
    await desk.until_calling(1)
    desk.site.proxies.database.hold()
    desk.site.proxies.gemini.heal()
    await eventually(lambda: any(str(job_id) in name for name in desk.site.storage.objects), "the object")
    run = await desk.until_running(job_id)
    killed = await desk.kill_child_of(job_id)
    assert desk.charged(job_id) == 0
    desk.site.proxies.database.heal()
    await until_over(desk, job_id, 1, killed=killed, old_run=run.run_id)
    assert len({name for name in desk.site.storage.objects if str(job_id) in name}) == 1


async def test_after_the_commit_before_its_answer(desk: Desk) -> None:
    """PostgreSQL has committed; the process dies before it knows. The picture is not made again."""
    desk.site.proxies.gemini.hold(up=False)
    job_id = await desk.job(1)
    await desk.until_calling(1)
    desk.site.proxies.database.hold(up=False)
    desk.site.proxies.gemini.heal()
    await desk.until_made(job_id, 1)
    killed = await desk.kill_child_of(job_id)
    desk.site.proxies.database.heal()
    print_line(f"killed at {killed:.1f}")
    await until_over(desk, job_id, 1)
    assert calls(desk) == 1


@pytest.mark.parametrize("units", [10, pytest.param(40, marks=pytest.mark.fault_all)])
async def test_between_two_units_when_most_have_not_begun(desk: Desk, units: int) -> None:
    """The next run makes the units of which the killed one had not begun a step, and no picture twice."""
    desk.site.gemini.state.latency = 1.0
    combinations = [{"angle": "front", "shot": "full", "quantity": 1} for _ in range(units)]
    job_id = await desk.job(units, job_type="single_batch", input_data={"combinations": combinations})
    await desk.until_made(job_id, 2)
    run = await desk.until_running(job_id)
    killed = await desk.kill_child_of(job_id)
    made, asked = desk.row(job_id)["completed_images"], calls(desk)
    assert made < units / 2
    desk.site.gemini.state.latency = 0.0
    await until_over(desk, job_id, units, killed=killed, old_run=run.run_id)
    assert calls(desk) - asked == units - made


@pytest.mark.fault_all
async def test_after_the_job_ended_before_its_run(desk: Desk) -> None:
    """The rows say completed; the run's own end is lost. The next run finds nothing to do."""
    job_id = await desk.job(1)
    await desk.until_calling(1)
    await desk.until_status(job_id, "completed")
    desk.site.proxies.dagster.hold()
    await desk.kill_child_of(job_id)
    desk.site.proxies.dagster.heal()
    ended = desk.row(job_id)["completed_at"]
    await desk.until_at_rest()
    assert desk.row(job_id)["completed_at"] == ended
    assert calls(desk) == 1


@pytest.mark.fault_all
async def test_five_times_in_a_row_with_progress(desk: Desk) -> None:
    """Every life makes a picture more, so the job is not given up."""
    desk.site.gemini.state.latency = 0.5
    job_id = await desk.job(12)
    run_id = ""
    for made in (1, 3, 5, 7, 9):
        run_id = (await desk.until_leased(job_id, other_than=run_id))["run_id"]
        await desk.until_made(job_id, made)
        await desk.kill_child_of(job_id)
    await until_over(desk, job_id, 12)


@pytest.mark.fault_all
async def test_three_times_in_a_row_without_a_picture_more(desk: Desk) -> None:
    """The job is given up in words, with the pictures it has; others go on."""
    state = desk.site.gemini.state
    state.add_rules(Rule(behaviour=Behaviour.HANG, match="wordhang"))
    stages = [{"prompt": "a fine coat", "quantity": 1}, {"prompt": "wordhang", "quantity": 1}]
    job_id = await desk.job(2, job_type="pipeline_stage", input_data={"stages": stages})
    desk.excuse("3 worker processes in a row died with this job", job_id, pictures=1)
    await desk.until_made(job_id, 1)
    run_id = ""
    for _ in range(3):
        run_id = (await desk.until_leased(job_id, other_than=run_id))["run_id"]
        await desk.kill_child_of(job_id)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("failed", 1)
    assert desk.charged(job_id) == PRICE
    other = await desk.job(1)
    await until_over(desk, other, 1)


# --- the platform ------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", [pytest.param("code-server", marks=pytest.mark.fault_all), "daemon", "fork-server"])
async def test_after_the_pop_before_the_run_exists(desk: Desk, service: str) -> None:
    """The id is in jobs:processing; the process that would launch its run is dead.

    The tick looks the row up, moves the id, and asks for the run within milliseconds: no proxy can hold it between, so
    the id is put where that tick had left it.
    """
    job_id = await desk.job(1, push=False)
    desk.site.kill_service(service)
    desk.queue._redis.lpush("jobs:processing", str(job_id))
    assert not desk.runs(job_id)
    await until_over(desk, job_id, 1)
    assert len(desk.runs(job_id)) == 1
