"""O1: the wall time of a job against a bare worker. O2: the CPU of the whole installation beyond the bare work, per
picture and per job. T1: pictures a second when Gemini takes no time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence

from bench.installation import Client, Installation, Workers, installation
from bench.report import Figure, grid, line, median

#: a call's length in O2, so that all its jobs are in flight together
IN_FLIGHT_SECONDS = 3.0


def o1(*, quick: bool) -> Figure:
    """Eight pictures, two at a time, with calls as long as Gemini's."""
    call = 1.0 if quick else 8.0
    rounds = 1 if quick else 2
    ideal = 4 * call
    with installation() as at, at.bare(1), at.worker(1, 1):
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
    """CPU of everything but Gemini, many runs in flight, over jobs of several sizes."""
    sizes, jobs, rounds = ((1, 6), 10, 1) if quick else ((1, 4, 12), 50, 5)
    cores = len(os.sched_getaffinity(0))
    with installation() as at, at.bare(cores) as bare, at.worker() as full:
        taken = asyncio.run(_cpu(at, (bare, full), sizes, jobs, rounds))
    added = [(size, median([sum(full.values()) - sum(bare.values()) for bare, full in taken[size]])) for size in sizes]
    per_picture, per_job = line(added)
    middles = {size: [_middles(takes) for takes in zip(*taken[size], strict=True)] for size in sizes}
    return Figure(
        "O2",
        f"CPU of the whole installation beyond the bare work, {jobs} runs in flight, per job and per picture "
        f"(line over {sizes[0]} … {sizes[-1]} pictures)",
        "≤ 0.15 s + 5 ms",
        f"{per_job:.3f} s + {per_picture * 1000:.1f} ms",
        per_job <= 0.15 and per_picture <= 0.005,
        f"CPU of worker, daemon, code server, webserver, Redis and PostgreSQL for {jobs} jobs pushed at once, Gemini "
        f"{IN_FLIGHT_SECONDS:g} s a call, less what they take at rest in that time, less the same for {cores} bare "
        f"workers. Both kinds of worker run; medians of {rounds} pairs of takes, one right after the other. "
        "Milliseconds a job:\n\n"
        + grid(
            ("", *(f"{size} pictures{of}" for size in sizes for of in ("", ", bare"))),
            [
                (part, *(f"{1000 * found[part]:.0f}" for size in sizes for found in reversed(middles[size])))
                for part in sorted(middles[sizes[0]][0])
            ]
            + [("added", *(each for _, more in added for each in (f"{1000 * more:.0f}", "")))],
        ),
    )


def _middles(takes: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each part."""
    return {part: median([take[part] for take in takes]) for part in takes[0]}


async def _cpu(
    at: Installation, workers: tuple[Workers, Workers], sizes: tuple[int, ...], jobs: int, rounds: int
) -> dict[int, list[tuple[dict[str, float], dict[str, float]]]]:
    """CPU seconds of each part for a job of each size: of the bare worker, and of the product."""
    clients = await at.client(bare=True), await at.client()
    try:
        with at.dagster() as instance:

            async def cpu_of(act: Callable[[], Awaitable[object]]) -> tuple[dict[str, float], float]:
                before, began = _parts(at, *workers), time.monotonic()
                await act()
                after = _parts(at, *workers)
                return {part: after[part] - before[part] for part in after}, time.monotonic() - began

            async def make(client: Client, size: int) -> None:
                job_ids = [await client.insert(size) for _ in range(jobs)]
                await client.run_all(job_ids)
                if client is clients[1]:
                    await at.runs_finished(instance, job_ids)
                await asyncio.sleep(0.5)  # what is done after a job is part of it

            at.gemini.latency(0.0)
            for client in clients:
                await make(client, 2)
            at.gemini.latency(IN_FLIGHT_SECONDS)
            rest, seconds = await cpu_of(lambda: asyncio.sleep(5.0))

            async def take(client: Client, size: int) -> dict[str, float]:
                spent, took = await cpu_of(lambda: make(client, size))
                return {part: (cpu - rest[part] * took / seconds) / jobs for part, cpu in spent.items()}

            return {
                size: [(await take(clients[0], size), await take(clients[1], size)) for _ in range(rounds)]
                for size in sizes
            }
    finally:
        for client in clients:
            await client.close()


def _parts(at: Installation, *workers: Workers) -> dict[str, float]:
    return {**at.cpu_seconds(), "worker": sum(each.cpu_seconds() for each in workers)}


def t1(*, quick: bool) -> Figure:
    """All workers busy with jobs of twenty pictures that Gemini answers at once."""
    jobs, rounds = (4, 1) if quick else (8, 5)
    cores = len(os.sched_getaffinity(0))
    rates: dict[bool, list[float]] = {True: [], False: []}
    with installation() as at:
        for _ in range(rounds):
            with at.bare(cores):
                rates[True].append(asyncio.run(_rate(at, jobs, bare=True)))
            with at.worker():
                rates[False].append(asyncio.run(_rate(at, jobs, bare=False)))
    ratio = median(rates[False]) / median(rates[True])
    return Figure(
        "T1",
        "Gemini of zero latency, jobs of 20 pictures, all workers busy: pictures/s against the bare worker",
        "≥ 0.85 ×",
        f"{ratio:.2f} × ({median(rates[False]):.1f} against {median(rates[True]):.1f} pictures/s)",
        ratio >= 0.85,
        f"{jobs} jobs on {cores} processes, from the first push to the last `completed_at`; medians of {rounds}. The "
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
