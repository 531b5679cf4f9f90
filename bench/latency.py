"""L1: from LPUSH to the first request to Gemini, on an idle installation and with many runs in flight. L2: from a
burst of LPUSHes to its last run.

Pauses between the jobs of L1 are random, so that no rhythm of a loop is met by chance.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any
from uuid import UUID

import redis.asyncio
from dagster import DagsterInstance, RunsFilter

from bench.installation import Client, Installation, installation
from bench.report import Figure, grid, median, p95
from quel_dagster.adapters.queue import QUEUE
from quel_dagster.platform.tags import JOB_ID_TAG

WARM_UP = 3
#: longer than the row takes: no call ends while it is measured
LONG_CALL_SECONDS = 900.0
PARTS = ("claimed", "run created", "run started", "first request")
TICK_TAG = "dagster/tick"


def l1(*, quick: bool) -> Figure:
    """Spaced jobs of one picture on a warm installation: idle, and with many runs in flight."""
    jobs, crowd = (5, 10) if quick else (50, 100)
    with installation() as at, at.dagster() as instance, at.worker():
        rows = asyncio.run(_spaced(at, instance, jobs))
    with installation(gemini_timeout_seconds=LONG_CALL_SECONDS) as at, at.worker():
        beside = asyncio.run(_spaced_beside(at, jobs, crowd))
    values = [row["first request"] for row in rows]
    middle, late, late_beside = median(values), p95(values), p95(beside)
    return Figure(
        "L1",
        f"LPUSH → first Gemini request, warm, {jobs} spaced jobs; with {crowd} runs in flight",
        "median ≤ 0.15 s, p95 ≤ 0.17 s; p95 ≤ 1 s",
        f"median {middle:.2f} s, p95 {late:.2f} s; median {median(beside):.2f} s, p95 {late_beside:.2f} s",
        round(middle, 2) <= 0.15 and round(late, 2) <= 0.17 and late_beside <= 1.0,
        "Jobs of one picture, random pauses of 0.3 to 3 s between them (seed 1). Seconds from the push, while no other "
        "run is in flight:\n\n"
        + grid(
            ("", "median", "p95", "longest"),
            [(part, *(f"{of([row[part] for row in rows]):.2f}" for of in (median, p95, max))) for part in PARTS],
        )
        + f"\n\nWith {crowd} runs in flight, each with two calls under way: longest {max(beside):.2f} s.",
    )


async def _spaced_beside(at: Installation, jobs: int, crowd: int) -> list[float]:
    """Seconds from push to first request of spaced jobs, while `crowd` runs wait for Gemini."""
    rng = random.Random(1)
    client = await at.client()
    try:
        at.gemini.latency(0.0)
        await client.run_all([await client.insert(2) for _ in range(WARM_UP)])
        at.gemini.latency(LONG_CALL_SECONDS)
        client.queue.push(*[await client.insert(2) for _ in range(crowd)])
        await _until_requests(at, 2 * crowd)
        found = []
        for number in range(1, jobs + 1):
            job_id = await client.insert(1)
            pushed = time.time()
            client.queue.push(job_id)
            requests = await _until_requests(at, 2 * crowd + number)
            found.append(requests[-1]["time"] - pushed)
            await asyncio.sleep(rng.uniform(0.3, 3.0))
        return found
    finally:
        await client.close()


async def _until_requests(at: Installation, count: int) -> list[dict[str, Any]]:
    """All requests, once there are so many."""
    deadline = time.monotonic() + 120
    while len(requests := at.gemini.requests()) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(requests)} of {count} requests came within 120 s")
        await asyncio.sleep(0.1)
    return requests


async def _spaced(at: Installation, instance: DagsterInstance, jobs: int) -> list[dict[str, float]]:
    rng = random.Random(1)
    client = await at.client()
    watch: Any = redis.asyncio.Redis.from_url(at.stack.endpoints.redis_url)
    try:
        rows = []
        for number in range(WARM_UP + jobs):
            at.gemini.latency(0.0)
            row = await _probe(at, instance, client, watch)
            if number >= WARM_UP:
                rows.append(row)
                await asyncio.sleep(rng.uniform(0.3, 3.0))
        return rows
    finally:
        await watch.aclose()
        await client.close()


async def _probe(at: Installation, instance: DagsterInstance, client: Client, watch: Any) -> dict[str, float]:
    """One job: seconds from its push to each part."""
    job_id = await client.insert(1)
    pushed = time.time()
    client.queue.push(job_id)
    while await watch.llen(QUEUE):
        await asyncio.sleep(0.002)
    claimed = time.time()
    await client.ended([job_id])
    await at.runs_finished(instance, [job_id])
    record = instance.get_run_records(RunsFilter(tags={JOB_ID_TAG: str(job_id)}))[0]
    return {
        "claimed": claimed - pushed,
        "run created": record.create_timestamp.timestamp() - pushed,
        "run started": (record.start_time or 0) - pushed,
        "first request": at.gemini.requests()[0]["time"] - pushed,
    }


def l2(*, quick: bool) -> Figure:
    """Bursts of twenty ids on a queue that was quiet."""
    bursts = 1 if quick else 5
    with installation() as at, at.dagster() as instance, at.worker():
        rows = asyncio.run(_bursts(at, instance, bursts))
    seconds, ticks = [row[0] for row in rows], [row[1] for row in rows]
    return Figure(
        "L2",
        "burst of 20 ids: ticks that claimed them; last run created",
        "one tick or two; ≤ 1.5 s after the push",
        f"{max(ticks)} at most; median {median(seconds):.2f} s, longest {max(seconds):.2f} s",
        max(ticks) <= 2 and median(seconds) <= 1.5,
        f"{bursts} bursts, pushed one id after the other; counted from the last push.",
    )


async def _bursts(at: Installation, instance: DagsterInstance, bursts: int) -> list[tuple[float, int]]:
    client = await at.client()
    try:
        await client.run(1)
        rows = []
        for _ in range(bursts):
            await asyncio.sleep(1.3)
            job_ids = [await client.insert(1) for _ in range(20)]
            for job_id in job_ids:
                client.queue.push(job_id)
            pushed = time.time()
            await client.ended(job_ids)
            await at.runs_finished(instance, job_ids)
            rows.append(_burst(instance, job_ids, pushed))
        return rows
    finally:
        await client.close()


def _burst(instance: DagsterInstance, job_ids: list[UUID], pushed: float) -> tuple[float, int]:
    records = instance.get_run_records(RunsFilter(tags={JOB_ID_TAG: [str(job_id) for job_id in job_ids]}))
    last = max(record.create_timestamp.timestamp() for record in records)
    return last - pushed, len({record.dagster_run.tags[TICK_TAG] for record in records})
