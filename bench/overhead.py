"""O1: the wall time of a job against a bare worker. O2: the CPU that Dagster adds to a worker, per picture and per job.
T1: pictures a second when Gemini takes no time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from uuid import UUID

from bench.installation import Installation, Workers, installation
from bench.report import Figure, grid, line, median

Settle = Callable[[UUID], Awaitable[None]]


def o1(*, quick: bool) -> Figure:
    """Eight pictures, two at a time, with calls as long as Gemini's."""
    call = 1.0 if quick else 8.0
    rounds = 1 if quick else 2
    ideal = 4 * call
    with installation(workers=1) as at, at.bare(1), at.celery(1):
        bare, full = asyncio.run(_walls(at, call, rounds))
    ratio = median(full) / median(bare)
    return Figure(
        "O1",
        f"job of 8 pictures, Gemini {call:g} s, 2 at a time (ideal {ideal:g} s): wall against the bare worker",
        "≤ 1.05 ×",
        f"{ratio:.3f} × ({median(full):.2f} s against {median(bare):.2f} s)",
        ratio <= 1.05,
        f"From LPUSH to `completed_at`, medians of {rounds}, in turn, the other worker idle meanwhile.",
    )


async def _walls(at: Installation, call: float, rounds: int) -> tuple[list[float], list[float]]:
    bare, full = await at.client(bare=True), await at.client()
    try:
        at.gemini.latency(0.0)
        for client in (bare, full):
            await client.run(2)
        at.gemini.latency(call)
        walls: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for client, found in zip((bare, full), walls, strict=True):
                found.append((await client.run(8))[1])
        return walls
    finally:
        await bare.close()
        await full.close()


def o2(*, quick: bool) -> Figure:
    """CPU of a worker, parent and child, over jobs of several sizes."""
    sizes = (1, 10, 20) if quick else (1, 5, 10, 20, 40)
    rounds = 1 if quick else 3
    with installation(workers=1) as at:
        with at.bare(1) as workers:
            bare = asyncio.run(_cpu(at, workers, sizes, rounds, bare=True))
        with at.celery(1) as workers:
            full = asyncio.run(_cpu(at, workers, sizes, rounds, bare=False))
    added = {size: full[size] - bare[size] for size in sizes}
    per_picture, per_job = line(list(added.items()))
    return Figure(
        "O2",
        f"CPU added to the worker, per picture and per job (line over 1 … {sizes[-1]} pictures)",
        "≤ 60 ms and ≤ 0.8 s",
        f"{per_picture * 1000:.0f} ms and {per_job:.2f} s",
        per_picture <= 0.060 and per_job <= 0.8,
        "CPU of the Celery worker, parent and child, less that of the bare worker on jobs of the same size, two "
        f"pictures a unit, Gemini of zero latency; medians of {rounds}. Seconds a job:\n\n"
        + grid(
            ("pictures", "bare", "with Dagster", "added"),
            [(size, f"{bare[size]:.2f}", f"{full[size]:.2f}", f"{added[size]:.2f}") for size in sizes],
        ),
    )


async def _cpu(
    at: Installation, workers: Workers, sizes: tuple[int, ...], rounds: int, *, bare: bool
) -> dict[int, float]:
    """CPU seconds of a job of each size."""
    client = await at.client(bare=bare)
    try:
        with at.dagster() as instance:
            await client.run(2)
            found: dict[int, list[float]] = {size: [] for size in sizes}
            for _ in range(rounds):
                for size in sizes:
                    await asyncio.sleep(0.5)
                    before = workers.cpu_seconds()
                    job_id, _wall = await client.run(size)
                    if not bare:
                        await at.runs_finished(instance, [job_id])
                    await asyncio.sleep(0.5)  # what a worker does after a job is part of it
                    found[size].append(workers.cpu_seconds() - before)
        return {size: median(values) for size, values in found.items()}
    finally:
        await client.close()


def t1(*, quick: bool) -> Figure:
    """All workers busy with jobs of twenty pictures that Gemini answers at once."""
    jobs, rounds = (4, 1) if quick else (8, 3)
    children = 2
    with installation(workers=children) as at:
        kinds: tuple[tuple[bool, Callable[[int], AbstractContextManager[Workers]]], ...] = (
            (True, at.bare),
            (False, at.celery),
        )
        rates: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for bare, started in kinds:
                with started(children):
                    rates[bare].append(asyncio.run(_rate(at, jobs, bare=bare)))
    ratio = median(rates[False]) / median(rates[True])
    return Figure(
        "T1",
        "Gemini of zero latency, jobs of 20 pictures, all workers busy: pictures/s against the bare worker",
        "≥ 0.6 ×",
        f"{ratio:.2f} × ({median(rates[False]):.1f} against {median(rates[True]):.1f} pictures/s)",
        ratio >= 0.6,
        f"{jobs} jobs on {children} workers, from the first push to the last `completed_at`; medians of {rounds}. The "
        "machine's cores are shared with PostgreSQL, the daemon and the stand-in, as they are on one host.",
    )


async def _rate(at: Installation, jobs: int, *, bare: bool) -> float:
    """Pictures a second."""
    client = await at.client(bare=bare)
    try:
        warm = [await client.insert(2) for _ in range(4)]
        client.queue.push(*warm)
        await client.ended(warm)
        job_ids = [await client.insert(20) for _ in range(jobs)]
        wall = await client.run_all(job_ids)
        return jobs * 20 / wall
    finally:
        await client.close()
