"""D1: round trips of our own statements to PostgreSQL. D2: what distance to PostgreSQL and Redis costs a job."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.installation import Client, Installation, installation
from bench.report import Figure, grid, line, median
from bench.wire import Line

DISTANCE = 0.080
#: the job of D2
PICTURES, CALL = 8, 2.0


@dataclass
class Lines:
    """Between a worker and its servers."""

    database: Line
    dagster: Line
    redis: Line

    @classmethod
    def lay(cls, at: Installation, exits: ExitStack) -> Lines:
        where = at.stack.endpoints
        database, dagster = (urlsplit(url).port or 5432 for url in (where.database_url, where.dagster_postgres_url))
        return cls(
            exits.enter_context(Line(database, postgres=True)),
            exits.enter_context(Line(dagster, postgres=True)),
            exits.enter_context(Line(urlsplit(where.redis_url).port or 6379)),
        )

    def environment(self, at: Installation) -> dict[str, str]:
        """For a worker at the end of these lines."""
        where = at.stack.endpoints
        return {
            "DATABASE_URL": self.database.through(where.database_url),
            "DAGSTER_POSTGRES_URL": self.dagster.through(where.dagster_postgres_url),
            "REDIS_URL": self.redis.through(where.redis_url),
        }

    def distances(self, *, ours: float, dagster: float) -> None:
        self.database.distance = self.redis.distance = ours
        self.dagster.distance = dagster


def d1(*, quick: bool) -> Figure:
    """Count on the wire, in jobs of several sizes."""
    sizes = (4, 20) if quick else (4, 10, 20, 40)
    with installation() as at, ExitStack() as exits:
        lines = Lines.lay(at, exits)
        exits.enter_context(at.worker(1, 1, **lines.environment(at)))
        pairs, singles = asyncio.run(_count(at, lines, sizes))
    slope, job = line([(size, ours) for size, (ours, _) in pairs.items()])
    slope_alone, _ = line([(size, ours) for size, (ours, _) in singles.items()])
    whole = pairs[20][0] / 20
    return Figure(
        "D1",
        "round trips of our own statements to PostgreSQL per picture, Dagster's event log apart",
        "≤ 2",
        f"{slope:.2f} a picture and {job:.0f} a job; a job of 20 pictures, all in all: {whole:.2f} a picture",
        0 < slope <= 2 and whole <= 2,
        "Messages of the worker's own connections that PostgreSQL answers (Query, Sync), counted by a proxy, and "
        "those of Dagster's storage beside them. One picture a unit, the dearest form: "
        f"{slope_alone:.2f} a picture.\n\n"
        + grid(
            ("pictures", "ours, two a unit", "a picture", "ours, one a unit", "a picture", "Dagster's, two a unit"),
            [
                (
                    size,
                    pairs[size][0],
                    f"{pairs[size][0] / size:.2f}",
                    singles[size][0],
                    f"{singles[size][0] / size:.2f}",
                    pairs[size][1],
                )
                for size in sizes
            ],
        ),
    )


async def _count(
    at: Installation, lines: Lines, sizes: tuple[int, ...]
) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
    """Round trips by size, ours and Dagster's, in units of two pictures and of one."""
    client = await at.client()
    try:
        with at.dagster() as instance:
            for size in (20, 4):  # open every connection that a job needs
                job_id, _wall = await client.run(size)
                await at.runs_finished(instance, [job_id])
            found: tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]] = ({}, {})
            for per_unit, counts in zip((2, 1), found, strict=True):
                for size in sizes:
                    await asyncio.sleep(1)
                    lines.database.forget()
                    lines.dagster.forget()
                    job_id, _wall = await client.run(size, per_unit=per_unit)
                    await at.runs_finished(instance, [job_id])
                    await asyncio.sleep(1)
                    counts[size] = (lines.database.round_trips, lines.dagster.round_trips)
        return found
    finally:
        await client.close()


@dataclass(frozen=True)
class _Trial:
    #: seconds from LPUSH to the end
    wall: float
    #: calls in flight on average, between the first request and the last
    at_once: float
    #: and at most
    most: int


def d2(*, quick: bool) -> Figure:
    """The same job near and far."""
    rounds = 1 if quick else 3
    with installation() as at, ExitStack() as exits:
        lines = Lines.lay(at, exits)
        exits.enter_context(at.worker(1, 1, **lines.environment(at)))
        kinds = {
            "no distance": (0.0, 0.0),
            "80 ms to our tables and Redis": (DISTANCE, 0.0),
            "80 ms to Dagster's storage too": (DISTANCE, DISTANCE),
        }
        trials = asyncio.run(_trials(at, lines, kinds, rounds))
    walls = {name: median([trial.wall for trial in found]) for name, found in trials.items()}
    at_once = {name: median([trial.at_once for trial in found]) for name, found in trials.items()}
    near, ours, both = walls
    adds = {name: (walls[name] - walls[near]) / PICTURES * 1000 for name in walls}
    return Figure(
        "D2",
        "80 ms between worker and PostgreSQL, and worker and Redis: what a picture takes longer; calls in flight",
        "≤ 160 ms; no fewer",
        f"{adds[both]:.0f} ms ({adds[ours]:.0f} ms with Dagster's storage near); "
        f"{at_once[both]:.2f} calls at a time against {at_once[near]:.2f}",
        adds[both] <= 2 * DISTANCE * 1000 and at_once[both] >= 0.98 * at_once[near],
        f"A job of {PICTURES} pictures in units of two, Gemini {CALL:g} s, two at a time; a proxy makes every answer "
        f"80 ms later. Medians of {rounds}. What is added holds the job's beginning and end too, spread over its "
        "pictures.\n\n"
        + grid(
            ("", "wall, s", "added a picture, ms", "calls at a time", "at most"),
            [
                (
                    name,
                    f"{walls[name]:.2f}",
                    f"{adds[name]:.0f}",
                    f"{at_once[name]:.2f}",
                    max(trial.most for trial in found),
                )
                for name, found in trials.items()
            ],
        ),
    )


async def _trials(
    at: Installation, lines: Lines, kinds: dict[str, tuple[float, float]], rounds: int
) -> dict[str, list[_Trial]]:
    client = await at.client()
    try:
        await client.run(2)
        trials: dict[str, list[_Trial]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, (ours, dagster) in kinds.items():
                lines.distances(ours=ours, dagster=dagster)
                trials[name].append(await _trial(at, client))
        lines.distances(ours=0.0, dagster=0.0)
        return trials
    finally:
        await client.close()


async def _trial(at: Installation, client: Client) -> _Trial:
    with at.dagster() as instance:
        at.gemini.latency(CALL)
        job_id, wall = await client.run(PICTURES)
        await at.runs_finished(instance, [job_id])
    requests = at.gemini.requests()
    ends = [request["time"] + request["seconds"] for request in requests]
    span = max(ends) - min(request["time"] for request in requests)
    busy = sum(request["seconds"] for request in requests)
    return _Trial(wall, busy / span, max(request["in_flight"] for request in requests))
