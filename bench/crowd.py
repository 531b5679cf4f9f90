"""B1: many jobs pushed at once. B2: the same against the bare worker. M3: memory of all with many runs in flight.
K1: how long until the runs of a killed process are at work again."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import psutil
import psycopg

from bench.installation import Client, Installation, Workers, installation
from bench.memory import family, pss
from bench.report import Figure

CALL_SECONDS = 8.0
PICTURES = 2
MEGABYTES_PER_GIGABYTE = 1024


async def _crowd(at: Installation, jobs: int, *, bare: bool = False) -> float:
    """Seconds from the push of all to the end of the last."""
    client = await at.client(bare=bare)
    try:
        at.gemini.latency(0.0)
        await client.run(PICTURES)
        at.gemini.latency(CALL_SECONDS)
        job_ids = [await client.insert(PICTURES) for _ in range(jobs)]
        return await client.run_all(job_ids)
    finally:
        await client.close()


def b1(*, quick: bool) -> Figure:
    """Default settings, nothing but the crowd."""
    jobs = 10 if quick else 100
    with installation() as at, at.worker():
        seconds = asyncio.run(_crowd(at, jobs))
    return Figure(
        "B1",
        f"{jobs} jobs of {PICTURES} pictures, {CALL_SECONDS:g} s a call, pushed at once, as shipped: last job done",
        "≤ 25 s",
        f"{seconds:.1f} s",
        seconds <= 25,
        "From LPUSH of all ids to the last `completed_at`.",
    )


def b2(*, quick: bool) -> Figure:
    """The product and the bare worker, one after the other on one installation."""
    jobs = 10 if quick else 100
    with installation() as at:
        with at.bare(1):
            bare = asyncio.run(_crowd(at, jobs, bare=True))
        with at.worker():
            full = asyncio.run(_crowd(at, jobs))
    return Figure(
        "B2",
        f"the same {jobs} jobs against a bare asyncio worker without limits",
        "≤ 1.5 ×",
        f"{full / bare:.2f} × ({full:.1f} s against {bare:.1f} s)",
        full / bare <= 1.5,
        "Both on this installation, one after the other.",
    )


async def _in_flight(at: Installation, client: Client, jobs: int) -> list[UUID]:
    """So many jobs, each with a lease."""
    at.gemini.latency(0.0)
    await client.run(PICTURES)
    at.gemini.latency(60.0)
    job_ids = [await client.insert(PICTURES) for _ in range(jobs)]
    client.queue.push(*job_ids)
    deadline = time.monotonic() + 120
    while len(_leases(at)) < jobs:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{jobs} runs were not in flight within 120 s")
        await asyncio.sleep(0.2)
    return job_ids


def _leases(at: Installation) -> dict[UUID, str]:
    """Job → run, of leases that live."""
    with psycopg.connect(at.stack.endpoints.database_url, autocommit=True) as connection:
        rows = connection.execute(
            "select job_id, run_id from quel_dagster.job_lease where expires_at > clock_timestamp()"
        ).fetchall()
    return dict(rows)


def m3(*, quick: bool) -> Figure:
    """Everything, the stand-in included."""
    runs = 10 if quick else 200

    async def weigh(at: Installation, workers: Workers) -> float:
        client = await at.client()
        try:
            await _in_flight(at, client, runs)
            services = {each for pid in at.stack.supervisor.pids().values() for each in family(psutil.Process(pid))}
            return sum(pss(process) for process in [*services, *workers.all()])
        finally:
            await client.close()

    with installation() as at, at.worker() as workers:
        gigabytes = asyncio.run(weigh(at, workers)) / MEGABYTES_PER_GIGABYTE
    return Figure(
        "M3",
        f"memory of everything with {runs} runs in flight (PSS)",
        "≤ 1.2 GB",
        f"{gigabytes:.2f} GB",
        gigabytes <= 1.2,
        "PostgreSQL, Redis, code server, webserver, daemon, worker; the stand-in runs in the benchmark.",
    )


def k1(*, quick: bool) -> Figure:
    """SIGKILL to one of two processes."""
    runs = 10 if quick else 100

    async def kill(at: Installation, workers: Workers) -> tuple[int, float]:
        client = await at.client()
        try:
            await _in_flight(at, client, runs)
            before = _leases(at)
            parent = workers.parents()[0]
            children = parent.children()
            with psycopg.connect(at.stack.endpoints.database_url) as connection:
                rows = connection.execute("select job_id, worker from quel_dagster.job_lease").fetchall()
            struck = {job_id for job_id, worker in rows if job_id in before and worker.endswith(f":{children[0].pid}")}
            if not struck:
                raise RuntimeError("the killed process held no run")
            children[0].kill()
            killed = time.monotonic()
            back: set[UUID] = set()
            while back != struck:  # one that is back may end before the last one is
                back |= {job_id for job_id, run_id in _leases(at).items() if run_id != before.get(job_id)} & struck
                if time.monotonic() - killed > 120:
                    missing = await client.database.jobs.report(sorted(struck - back))
                    raise RuntimeError(f"not all runs were at work again within 120 s: {missing}")
                await asyncio.sleep(0.1)
            return len(struck), time.monotonic() - killed
        finally:
            await client.close()

    with installation() as at, at.worker(2) as workers:
        struck, seconds = asyncio.run(kill(at, workers))
    return Figure(
        "K1",
        f"a process with {struck} runs killed: all at work again",
        "≤ 15 s",
        f"{seconds:.1f} s",
        seconds <= 15,
        "From SIGKILL to the last lease of another run.",
    )
