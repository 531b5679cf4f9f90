"""Many runs in each worker process: the effect of one fault on all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
import redis
from dagster import DagsterRunStatus

from tests.faults.desk import Desk, eventually, print_line
from tests.faults.installation import PRICE, Installation

JOBS = 16
#: longer than all jobs of a test take to begin
CALL_SECONDS = 40.0
#: seconds; a hang guard. Row K1 of the benchmarks measures the time on a quiet machine.
BACK_AT_WORK = 180.0
#: longer than QUEL_WORKER_GRACE_SECONDS
HANG_SECONDS = 180.0


@pytest.fixture(scope="module", autouse=True)
def _crowd(_site: Installation) -> Iterator[None]:
    """The first host takes many runs."""
    _site.remove_host("a")
    _site.add_host("a", children=2, runs_per_process=30, environment={"GEMINI_TIMEOUT_SECONDS": "120"}, wait=False)
    yield
    _site.remove_host("a")
    _site.add_host("a", children=2, start=False)


async def at_work(desk: Desk, count: int, total: int = 2) -> list[UUID]:
    """Start this many jobs, each with calls to Gemini that last CALL_SECONDS."""
    desk.site.gemini.state.latency = CALL_SECONDS
    jobs = [await desk.job(total) for _ in range(count)]
    await eventually(lambda: all(desk.lease(job_id) for job_id in jobs), f"{count} jobs at work")
    return jobs


async def whole(desk: Desk, jobs: list[UUID], total: int = 2) -> None:
    for job_id in jobs:
        row = await desk.until_ended(job_id, seconds=240)
        assert (row["status"], row["completed_images"], row["error_message"]) == ("completed", total, None)
        assert desk.charged(job_id) == total * PRICE


def _run_with_lease(desk: Desk, job_id: UUID) -> str | None:
    lease = desk.lease(job_id)
    return str(lease["run_id"]) if lease and lease["live"] else None


async def test_a_killed_process_loses_nothing_and_all_of_its_runs_are_back_soon(desk: Desk) -> None:
    jobs = await at_work(desk, JOBS)
    holders = desk.site.workers.read().holders
    processes = desk.site.living_workers()
    name = max(processes, key=lambda each: sum(holder == each for holder in holders.values()))
    held = {run_id for run_id, holder in holders.items() if holder == name}
    before = {job_id: desk.runs(job_id)[0].run_id for job_id in jobs}
    struck = [job_id for job_id in jobs if before[job_id] in held]
    assert len(struck) >= JOBS // 4
    processes[name].kill()
    killed = time.monotonic()
    back: set[UUID] = set()

    def all_back() -> bool:  # one that is back may have ended before the last one is
        back.update(
            job_id
            for job_id in struck
            if _run_with_lease(desk, job_id) not in {None, before[job_id]} or desk.status(job_id) == "completed"
        )
        return len(back) == len(struck)

    await eventually(all_back, "all runs of the killed process at work again", seconds=BACK_AT_WORK)
    took = time.monotonic() - killed
    print_line(f"{len(struck)} runs back at work after {took:.1f} s")
    desk.site.gemini.state.latency = 0.1
    await whole(desk, jobs)
    for job_id in set(jobs) - set(struck):
        assert len(desk.runs(job_id)) == 1, "a run of the other process goes on"


async def test_terminate_stops_only_its_run(desk: Desk) -> None:
    jobs = await at_work(desk, 8)
    stopped = jobs[3]
    await desk.terminate(desk.runs(stopped)[0].run_id)
    row = await desk.until_ended(stopped)
    assert row["status"] == "cancelled"
    run = desk.runs(stopped)[0]
    await eventually(lambda: desk.runs(stopped)[0].status is DagsterRunStatus.CANCELED, f"the end of {run.run_id}")
    desk.site.gemini.state.latency = 0.1
    await whole(desk, [job_id for job_id in jobs if job_id != stopped])


async def test_sigterm_hands_over_every_run_within_the_grace_period(desk: Desk) -> None:
    jobs = await at_work(desk, JOBS)
    host = desk.site.hosts["a"]
    host.terminate()
    asked = time.monotonic()
    await asyncio.to_thread(host.wait_gone, HANG_SECONDS)
    print_line(f"{JOBS} runs handed over after {time.monotonic() - asked:.1f} s")
    left = [desk.describe(job_id) for job_id in jobs if _run_with_lease(desk, job_id)]
    assert not left, f"no lease is left to run out:\n{left}\n{host.log_bytes().decode()[-6000:]}"
    desk.site.gemini.state.latency = 0.1
    host.start()
    host.wait_ready()
    await whole(desk, jobs)


async def test_processes_that_stand_still_for_long_lose_no_run(desk: Desk) -> None:
    """Overload at its worst: no lease is renewed for longer than it lives, and still the parent sees its processes."""
    jobs = await at_work(desk, 10)
    processes = desk.site.living_workers().values()
    for process in processes:
        process.suspend()
    try:
        await asyncio.sleep(20.0)  # twice as long as a lease and a record live
        assert desk.site.workers.read().holders
    finally:
        for process in processes:
            process.resume()
    desk.site.gemini.state.latency = 0.1
    await whole(desk, jobs)
    await desk.until_at_rest()  # a job ends before its run
    for job_id in jobs:
        assert [run.status for run in desk.runs(job_id)] == [DagsterRunStatus.SUCCESS], "no run was failed or repeated"


@pytest.mark.own_hosts
async def test_a_broker_that_refuses_leaves_runs_in_the_queue(desk: Desk) -> None:
    desk.site.add_host("b", children=1, runs_per_process=2)
    desk.site.gemini.state.latency = 3.0
    jobs = [await desk.job(2) for _ in range(6)]
    await eventually(lambda: all(desk.runs(job_id) for job_id in jobs), "a run for each job")
    await eventually(lambda: sum(bool(desk.lease(job_id)) for job_id in jobs) == 2, "two jobs at work")
    with redis.Redis.from_url(desk.site.redis_url) as client:
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        try:
            await asyncio.sleep(13.0)  # without the pause of the queue, runs were failed within it
        finally:
            client.config_set("maxmemory", before)
    await whole(desk, jobs)
    await desk.until_at_rest()  # a job ends before its run
    for job_id in jobs:
        assert [run.status for run in desk.runs(job_id)] == [DagsterRunStatus.SUCCESS]


@pytest.mark.own_hosts
async def test_the_run_queue_follows_workers_as_they_come_and_go(desk: Desk) -> None:
    await eventually(lambda: desk.site.workers.read().capacity == 0, "no capacity")
    jobs = [await desk.job(1) for _ in range(3)]

    def statuses() -> set[DagsterRunStatus | None]:
        return {runs[0].status if (runs := desk.runs(job_id)) else None for job_id in jobs}

    await eventually(lambda: statuses() == {DagsterRunStatus.QUEUED}, "a queued run for each job")
    await asyncio.sleep(3.0)  # the queue is looked at several times
    assert statuses() == {DagsterRunStatus.QUEUED}, "without a worker runs wait"
    desk.site.add_host("c", children=1, runs_per_process=3)
    await whole(desk, jobs, total=1)
