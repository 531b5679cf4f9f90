"""O2: what Dagster adds in CPU, per picture and per job. T1: pictures a second when Gemini takes no time."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

from bench.installation import Client, Installation, Workers, installation

SIZES = (1, 5, 10, 20, 40)


def line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and height at zero of the least-squares line."""
    slope, height = statistics.linear_regression(*zip(*points, strict=True))
    return slope, height


async def cpu(client: Client, workers: Workers, sizes: list[int], settle) -> list[tuple[float, float]]:
    points = []
    await client.run(2)
    for size in sizes:
        await settle(None)
        before = workers.cpu_seconds()
        job_id, wall = await client.run(size)
        await settle(job_id)
        points.append((size, workers.cpu_seconds() - before))
        print(size, round(points[-1][1], 3), round(wall, 2), file=sys.stderr)
    return points


async def o2(at: Installation, sizes):
    with at.bare(1) as workers:
        client = await at.client(bare=True)

        async def settle(_):
            await asyncio.sleep(0.5)

        bare = await cpu(client, workers, sizes, settle)
        await client.close()
    with at.dagster() as instance, at.celery(1) as workers:
        client = await at.client()

        async def settle2(job_id):
            if job_id:
                await at.runs_finished(instance, [job_id])
            await asyncio.sleep(0.5)

        full = await cpu(client, workers, sizes, settle2)
        await client.close()
    print("bare", line(bare), "full", line(full))


async def t1(at: Installation, jobs: int, size: int):
    for kind in ("bare", "celery"):
        with getattr(at, kind)(2):
            client = await at.client(bare=kind == "bare")
            ids = [await client.insert(size) for _ in range(jobs + 2)]
            client.queue.push(*ids[:2])
            await client.ended(ids[:2])
            t = time.time()
            client.queue.push(*ids[2:])
            reports = await client.ended(ids[2:])
            wall = max(r["completed_at"].timestamp() for r in reports.values()) - t
            print(kind, jobs * size / wall, "pictures/s")
            await client.close()


if __name__ == "__main__":
    with installation() as at:
        if "o2" in sys.argv:
            asyncio.run(o2(at, [1, 10, 20]))
        if "t1" in sys.argv:
            asyncio.run(t1(at, 6, 20))
