"""SIGKILL at every point of a job's way from its push to its end.

Each test holds the installation at the point by holding a connection or watching for a row or an object, kills, and
lets go. `until_over` then asserts the promises: as many pictures as planned, one charge each, back at work in time.
"""

from __future__ import annotations

import time
from uuid import UUID

import pytest

from tests.faults.desk import Desk, eventually, say
from tests.faults.installation import PRICE

#: A hang guard: seconds from the kill of a run's process until another run has the job. Promised are 15 on a machine of
#: one's own; the time that it took is printed.
BACK_AT_WORK = 60.0


async def until_over(desk: Desk, job_id: UUID, total: int, *, killed: float | None = None, old_run: str = "") -> None:
    """The job completes by itself, whole, charged once per picture."""
    if killed is not None:
        await desk.until_leased(job_id, other_than=old_run)
        took = time.monotonic() - killed
        say(f"back at work after {took:.1f} s")
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
    say(f"killed at {killed:.1f}")
    await until_over(desk, job_id, 1)
    assert calls(desk) == 1


@pytest.mark.fault_all
async def test_between_two_pictures(desk: Desk) -> None:
    """Some are made, some under way: only the missing ones are made by the next run."""
    job_id = await desk.job(6, prompt="six")
    await desk.until_made(job_id, 3)
    run = await desk.until_running(job_id)
    killed = await desk.kill_child_of(job_id)
    made, asked = desk.row(job_id)["completed_images"], calls(desk)
    say(f"killed with {made} of 6 made, {asked} calls")
    if made < 6:
        await until_over(desk, job_id, 6, killed=killed, old_run=run.run_id)
        assert calls(desk) - asked <= 6 - made
    else:
        await until_over(desk, job_id, 6)


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
async def test_three_times_in_a_row(desk: Desk) -> None:
    """Every life makes some progress, so three deaths are no end."""
    job_id = await desk.job(8)
    runs: set[str] = set()
    for made in (1, 3, 5):
        await desk.until_made(job_id, made)
        run = await desk.until_running(job_id)
        runs.add(run.run_id)
        await desk.kill_child_of(job_id)
        await eventually(
            lambda: desk.status(job_id) == "completed" or (desk.runs(job_id)[0].run_id not in runs), "the next run"
        )
    await until_over(desk, job_id, 8)


@pytest.mark.fault_all
async def test_too_often(desk: Desk) -> None:
    """A job whose process dies every time is not tried for ever: it fails, with a reason, what is made is kept."""
    desk.site.proxies.gemini.hold(up=False)
    job_id = await desk.job(2)
    for life in range(4):
        run = await eventually(
            lambda: next((r for r in desk.runs(job_id)[:1] if r.status.value == "STARTED"), None), f"life {life}"
        )
        await desk.until_leased(job_id)
        await desk.kill_child_of(job_id)
        if life < 3:
            await eventually(lambda old=run.run_id: desk.runs(job_id)[0].run_id != old, "the next life")
    row = await desk.until_ended(job_id)
    assert row["status"] == "failed"
    assert row["error_message"]
    assert desk.charged(job_id) == 0


# --- the platform ------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", [pytest.param("code-server", marks=pytest.mark.fault_all), "daemon"])
async def test_after_the_pop_before_the_run_exists(desk: Desk, service: str) -> None:
    """The id is in jobs:processing; who would make its run is gone."""
    job_id = await desk.job(1, push=False)
    await eventually(desk.sensor_waits, "a tick that waits for an id")
    desk.site.proxies.platform_database.hold()  # that tick claims in Redis, then waits for PostgreSQL
    desk.queue.push(job_id)
    await eventually(lambda: desk.queue.depths()["processing"] == 1, "the pop")
    assert not desk.runs(job_id)
    desk.site.kill_service(service)
    desk.site.proxies.platform_database.heal()
    await until_over(desk, job_id, 1)
    assert len(desk.runs(job_id)) == 1
