"""LPUSH → first request to Gemini, over spaced jobs on a warm installation.

    python -m bench.latency [--jobs 50] [--seed 1]

Prints median, 95th percentile and the parts: pushed → claimed (gone from `jobs:queue`) → run created → run started →
first request. Jobs are one picture each; pauses between them are random, so that no rhythm of a loop is met by chance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import redis.asyncio
from dagster import DagsterInstance, RunsFilter

from quel_dagster.adapters.database.store import Database, NewJob
from quel_dagster.adapters.queue import QUEUE, JobQueue
from quel_dagster.pipeline.runs import JOB_ID_TAG
from quel_dagster.sandbox.services import Stack
from quel_dagster.sandbox.web_app import sandbox_member
from quel_dagster.settings import Settings

WARM_UP = 3
PARTS = ("claimed", "run created", "run started", "first request")


@dataclass
class Probe:
    """One job: when it was pushed, and seconds from there to each part."""

    job_id: UUID
    pushed: float
    claimed: float
    ended: float


async def probe(database: Database, queue: JobQueue, watch: redis.asyncio.Redis, member_id: UUID) -> Probe:
    """Push one job and wait for its end."""
    job_id, _ = await database.insert_job(
        NewJob(
            job_type="simple_general",
            total_images=1,
            path="fashion",
            member_id=member_id,
            input_data={"prompt": "A coat"},
        ),
        price=20,
    )
    pushed = time.time()
    queue.push(job_id)
    while await watch.llen(QUEUE):
        await asyncio.sleep(0.002)
    claimed = time.time()
    while (report := (await database.report([job_id]))[job_id])["completed_at"] is None:
        await asyncio.sleep(0.05)
    if report["status"] != "completed":
        raise SystemExit(f"Job {job_id} ended {report['status']}: {report['error_message']}")
    return Probe(job_id, pushed, claimed, report["completed_at"].timestamp())


async def probes(stack: Stack, jobs: int, rng: random.Random) -> list[Probe]:
    """The measured jobs, after some that warm everything up."""
    database = Database(stack.endpoints.database_url)
    queue = JobQueue(stack.endpoints.redis_url)
    watch = redis.asyncio.Redis.from_url(stack.endpoints.redis_url)
    try:
        member_id = await sandbox_member(database)
        found = []
        for number in range(WARM_UP + jobs):
            found.append(await probe(database, queue, watch, member_id))
            if number >= WARM_UP:
                await asyncio.sleep(rng.uniform(0.3, 3.0))
        return found[WARM_UP:]
    finally:
        await watch.aclose()
        queue.close()
        await database.aclose()


def parts_of(found: list[Probe], requests: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Seconds from the push to each part."""
    rows = []
    with DagsterInstance.get() as instance:
        for one in found:
            record = instance.get_run_records(RunsFilter(tags={JOB_ID_TAG: str(one.job_id)}))[0]
            first = min(request["time"] for request in requests if one.pushed < request["time"] < one.ended)
            rows.append(
                {
                    "claimed": one.claimed - one.pushed,
                    "run created": record.create_timestamp.timestamp() - one.pushed,
                    "run started": (record.start_time or 0) - one.pushed,
                    "first request": first - one.pushed,
                }
            )
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quel-bench-") as home:
        settings = Settings.read().embedded(Path(home))
        with Stack(settings) as stack:
            os.environ.update(stack.endpoints.environment())
            found = asyncio.run(probes(stack, arguments.jobs, random.Random(arguments.seed)))
            with urllib.request.urlopen(f"{stack.endpoints.gemini_base_url}/control/requests") as answer:
                rows = parts_of(found, json.load(answer)["requests"])
    print(f"LPUSH to first request to Gemini, {len(rows)} spaced jobs, seed {arguments.seed}")
    print(f"{'seconds from the push':<24}{'median':>8}{'p95':>8}{'longest':>9}")
    for part in PARTS:
        values = sorted(row[part] for row in rows)
        p95 = statistics.quantiles(values, n=20)[-1]
        print(f"{part:<24}{statistics.median(values):>8.2f}{p95:>8.2f}{values[-1]:>9.2f}")


if __name__ == "__main__":
    main()
