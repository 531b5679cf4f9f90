"""Whole machines, servers and networks that fail, hang, or come back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from uuid import UUID

import pytest
import redis

from tests.faults.desk import Desk, eventually, print_line
from tests.faults.installation import PRICE

#: seconds; a hang guard. Promised are 45; the time that it took is printed.
HOST_NOTICED = 120.0
#: seconds; a hang guard over the grace period of 20 s, after which a stopped worker ends itself
STOPPED = 60.0
#: runs at a time in this installation
SLOTS = 4


async def completed(desk: Desk, *jobs: UUID, total: int, seconds: float = 180.0) -> None:
    for job_id in jobs:
        row = await desk.until_ended(job_id, seconds=seconds)
        assert (row["status"], row["completed_images"]) == ("completed", total), desk.describe(job_id)
        assert desk.charged(job_id) == total * PRICE


# --- worker hosts ------------------------------------------------------------------------------------


async def test_a_lost_host(desk: Desk) -> None:
    """Kill parent and children at once: another host continues, and makes only the missing pictures."""
    site = desk.site
    site.gemini.state.latency = 1.0
    jobs = [await desk.job(4) for _ in range(2)]
    for job_id in jobs:
        await desk.until_made(job_id, 1)
    site.add_host("b", children=2)
    before = {job_id: desk.runs(job_id)[0].run_id for job_id in jobs}
    working = [job_id for job_id in jobs if desk.status(job_id) == "processing"]
    site.hosts["a"].kill()
    killed = time.monotonic()
    for job_id in working:
        await desk.until_leased(job_id, other_than=before[job_id])
        took = time.monotonic() - killed
        print_line(f"back at work on another host after {took:.1f} s")
        assert took < HOST_NOTICED
    await completed(desk, *jobs, total=4)


@pytest.mark.fault_all
async def test_a_host_stands_still_and_comes_back(desk: Desk) -> None:
    """Frozen for longer than its lease, then thawed: it can write nothing more."""
    site = desk.site
    site.proxies.gemini.hold(up=False)
    job_id = await desk.job(2)
    await desk.until_calling(2)
    run = await desk.until_running(job_id)
    site.hosts["a"].freeze()
    site.add_host("b", children=1)
    frozen = time.monotonic()
    await desk.until_leased(job_id, other_than=run.run_id)
    print_line(f"taken over after {time.monotonic() - frozen:.1f} s")
    site.proxies.gemini.heal()
    await completed(desk, job_id, total=2)
    ended = desk.row(job_id)
    site.hosts["a"].thaw()
    await desk.until_at_rest()
    again = await desk.job(1)  # the thawed host is of use again
    await completed(desk, again, total=1)
    after = desk.row(job_id)
    assert after["generated_attach_ids"] == ended["generated_attach_ids"]
    assert after["status"] == "completed"


@pytest.mark.fault_all
@pytest.mark.parametrize("seconds", [10.0, 60.0])
async def test_the_event_loop_stalls(desk: Desk, seconds: float) -> None:
    """The lease is renewed by a separate thread: no false recovery; nothing is committed twice."""
    site = desk.site
    site.gemini.state.latency = 0.5
    job_id = await desk.job(6)
    await desk.until_made(job_id, 1)
    site.stall_event_loop(await desk.child_of(job_id), seconds)
    await completed(desk, job_id, total=6)
    assert len(desk.runs(job_id)) == 1, desk.describe(job_id)


@pytest.mark.fault_all
async def test_a_host_gets_a_stop(desk: Desk) -> None:
    """A deploy: pictures in flight are finished, the rest is handed over, nothing is repeated."""
    site = desk.site
    site.gemini.state.latency = 1.0
    job_id = await desk.job(6)
    await desk.until_made(job_id, 1)
    site.add_host("b", children=1)
    site.hosts["a"].terminate()
    await completed(desk, job_id, total=6)
    await asyncio.to_thread(site.hosts["a"].wait_gone, 60)
    assert site.gemini.state.report()["total"] == 6, "a picture was asked for twice"


# --- Redis -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [pytest.param(signal.SIGTERM, marks=pytest.mark.fault_all), signal.SIGKILL])
async def test_redis_restarts(desk: Desk, how: signal.Signals) -> None:
    """With its append-only file: live runs finish, queued ids are still there."""
    site = desk.site
    site.gemini.state.latency = 1.0
    jobs = [await desk.job(3) for _ in range(2)]
    for job_id in jobs:
        await desk.until_status(job_id, "processing", "completed")
    site.kill_service("redis", how)
    jobs += [await _job_while_redis_restarts(desk)]
    await completed(desk, *jobs, total=3)


async def _job_while_redis_restarts(desk: Desk) -> UUID:
    job_id = await desk.job(3, push=False)

    def push() -> bool:
        try:
            desk.queue.push(job_id)
        except redis.RedisError:
            return False
        return True

    await eventually(push, "a Redis to push to")
    return job_id


@pytest.mark.fault_all
async def test_redis_forgets_everything(desk: Desk) -> None:
    """A live run finishes, once; an id that waited comes back by the sweep over PostgreSQL."""
    site = desk.site
    site.gemini.state.latency = 2.0
    working = await desk.job(6)
    await desk.until_made(working, 1)
    waiting = await desk.job(1, push=False)  # as if it had been pushed, and was forgotten
    site.empty_redis()
    site.wait_services()
    await completed(desk, working, total=6)
    assert len(desk.runs(working)) == 1, desk.describe(working)
    await completed(desk, waiting, total=1, seconds=240)


# --- PostgreSQL --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.fault_all), signal.SIGKILL])
async def test_postgres_restarts(desk: Desk, how: signal.Signals) -> None:
    """Everything waits for it and continues."""
    site = desk.site
    site.gemini.state.latency = 0.5
    job_id = await desk.job(6)
    await desk.until_made(job_id, 2)
    site.kill_service("postgres", how)
    site.wait_services()
    await completed(desk, job_id, total=6)


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "silent"])
async def test_worker_stopped_while_postgresql_is_unreachable_ends_within_its_grace(desk: Desk, silent: bool) -> None:
    """Without a process manager that kills it. The leases expire; afterwards every picture is made and charged once."""
    site = desk.site
    host = site.hosts["a"]
    site.gemini.state.latency = 1.0
    job_id = await desk.job(6)
    await desk.until_made(job_id, 1)
    links = (site.proxies.database, site.proxies.dagster)
    for link in links:
        if silent:
            link.hold()
        else:
            link.refuse()
    words = b"the database does not answer" if silent else b"Dagster's storage is unreachable"
    await eventually(
        lambda: words in host.log_bytes(), f"the worker notices the outage: {words!r}", seconds=2 * STOPPED
    )
    host.terminate()
    asked = time.monotonic()
    await asyncio.to_thread(host.wait_gone, STOPPED)
    print_line(f"ended after {time.monotonic() - asked:.1f} s")
    for link in links:
        link.cut()
        link.heal()
    host.start()
    host.wait_ready()
    await completed(desk, job_id, total=6)


async def test_connections_are_cut_at_random(desk: Desk, rng: random.Random) -> None:
    """Between and within transactions: a picture is committed completely or not at all, and the run continues."""
    site = desk.site
    site.gemini.state.latency = 0.3
    jobs = [await desk.job(8) for _ in range(2)]
    for job_id in jobs:  # a message that Redis was handing over is lost with its connection: another row
        await desk.until_status(job_id, "processing", "completed")
    links = [site.proxies.database, site.proxies.redis]
    while not all(desk.status(job_id) in {"completed", "failed"} for job_id in jobs):
        rng.choice(links).cut()
        await asyncio.sleep(rng.uniform(0.05, 0.4))
    await completed(desk, *jobs, total=8)


@pytest.mark.fault_all
@pytest.mark.parametrize("link", ["database", "dagster", "redis", "storage", "gemini"])
async def test_a_link_of_the_workers_is_dead_for_a_while(desk: Desk, link: str) -> None:
    """Nothing passes for 8 seconds, then everything does again."""
    site = desk.site
    site.gemini.state.latency = 0.5
    job_id = await desk.job(6)
    await desk.until_made(job_id, 1)
    proxy = getattr(site.proxies, link)
    proxy.hold()
    await asyncio.sleep(8)
    proxy.cut()
    proxy.heal()
    await completed(desk, job_id, total=6)


@pytest.mark.fault_all
async def test_a_worker_is_cut_off_for_longer_than_its_lease(desk: Desk) -> None:
    """It renews no lease and reaches no server; when the network returns it must not repeat the others' work."""
    site = desk.site
    site.gemini.state.latency = 0.5
    job_id = await desk.job(6)
    await desk.until_made(job_id, 1)
    links = [site.proxies.database, site.proxies.dagster, site.proxies.redis]
    for link in links:
        link.hold()
    await asyncio.sleep(25)
    for link in links:
        link.heal()
    await completed(desk, job_id, total=6)


# --- the daemon --------------------------------------------------------------------------------------


@pytest.mark.fault_all
async def test_the_daemon_was_down_and_many_wait(desk: Desk) -> None:
    """Everything that was pushed meanwhile runs, oldest first."""
    daemon = desk.site.platform.supervisor.pids()["daemon"]
    os.kill(daemon, signal.SIGSTOP)
    try:
        jobs = [await desk.job(1, credit=PRICE) for _ in range(40)]
        assert desk.queue.depths()["queue"] > len(jobs) / 2  # a tick that was under way takes a few
    finally:
        os.kill(daemon, signal.SIGCONT)
    await completed(desk, *jobs, total=1, seconds=300)
    begun = sorted(jobs, key=lambda job_id: desk.row(job_id)["started_at"])
    # side by side in the workers' processes, one may overtake another
    assert all(abs(begun.index(job_id) - place) <= 2 * SLOTS for place, job_id in enumerate(jobs)), "not in order"
