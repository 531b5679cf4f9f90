"""M1: the memory of `quel up` at rest, and of one worker child. M2: what one more run in flight costs.

Proportional set sizes: a page that several processes share counts once, in parts.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil

from bench.installation import Installation, Workers, installation
from bench.report import Figure, grid, line

_NAMES = {
    "postgres": r"bin/postgres|^postgres: ",
    "redis": r"redis-server",
    "stand-in Gemini": r"gemini_server",
    "code server": r"dagster api grpc|code.server",
    "webserver": r"dagster_webserver|pipeline\.webserver",
    "daemon": r"pipeline\.daemon",
    "worker": r"celery",
    "quel up itself": r"quel_dagster\.cli|quel up|supervisor|tether",
}


def pss(process: psutil.Process) -> float:
    """Proportional set size, MB; 0 of a process that is gone."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def m1(*, quick: bool) -> Figure:
    """`quel up` as a user starts it, with two workers."""
    with tempfile.TemporaryDirectory(prefix="quel-bench-") as home:
        names = {name for name in os.environ if re.match(r"QUEL_|REDIS_|DATABASE|DAGSTER|GEMINI|STORAGE|CELERY", name)}
        environment = {name: value for name, value in os.environ.items() if name not in names}
        log = Path(home) / "up.log"
        with log.open("wb") as output:
            up = subprocess.Popen(
                [sys.executable, "-m", "quel_dagster.cli.main", "up", "--port", "0"],
                env={**environment, "QUEL_HOME": f"{home}/quel", "PYTHONUNBUFFERED": "1"},
                cwd=home,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_up(up, log)
            time.sleep(5 if quick else 30)
            parts, children = _weigh(up)
        finally:
            up.terminate()
            up.wait(60)
    total, child = sum(parts.values()), max(children)
    return Figure(
        "M1",
        "memory of `quel up` at rest, PSS of all its processes; one worker child",
        "≤ 1.0 GB; ≤ 150 MB",
        f"{total:.0f} MB; {child:.0f} MB",
        total <= 1000 and child <= 150,
        "The embedded PostgreSQL, Redis and Gemini are among them.\n\n"
        + grid(("", "MB"), [(name, f"{size:.0f}") for name, size in sorted(parts.items(), key=lambda part: -part[1])]),
    )


def _wait_up(up: subprocess.Popen[bytes], log: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while "Everything is ready" not in log.read_text(errors="replace"):
        if up.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"quel up did not come up: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.1)


def _weigh(up: subprocess.Popen[bytes]) -> tuple[dict[str, float], list[float]]:
    """MB of each part, and of each worker child."""
    parts: defaultdict[str, float] = defaultdict(float)
    children = []
    for process in family(psutil.Process(up.pid)):
        command = " ".join(process.cmdline())
        name = next((name for name, pattern in _NAMES.items() if re.search(pattern, command)), "other")
        size = pss(process)
        parts[name] += size
        parent = process.parent()
        if name == "worker" and parent is not None and "celery" in " ".join(parent.cmdline()):
            children.append(size)
    return parts, children


def m2(*, quick: bool) -> Figure:
    """One, three and five runs in flight, each with a slot of its own."""
    counts = (1, 3) if quick else (1, 3, 5)
    with installation(workers=max(counts)) as at:
        sizes = {count: _in_flight(at, count) for count in counts}
    workers, _ = line([(count, at_work) for count, (at_work, _) in sizes.items()])
    postgres, _ = line([(count, behind) for count, (_, behind) in sizes.items()])
    slope = workers + postgres
    return Figure(
        "M2",
        "memory that one more run in flight costs, its slot included (PSS)",
        "≤ 40 MB",
        f"{slope:.0f} MB ({workers:.0f} the worker's, {postgres:.0f} PostgreSQL's)",
        slope <= 40,
        "A worker with as many children as runs, each in the midst of a job of four pictures; PSS of the worker and of "
        "PostgreSQL with its connections.\n\n"
        + grid(
            ("runs", "worker, MB", "PostgreSQL, MB"),
            [(count, f"{at_work:.0f}", f"{behind:.0f}") for count, (at_work, behind) in sizes.items()],
        ),
    )


def _in_flight(at: Installation, count: int) -> tuple[float, float]:
    """MB of the worker and of PostgreSQL while so many runs wait for Gemini."""
    with at.celery(count) as workers:
        return asyncio.run(_weigh_runs(at, workers, count))


async def _weigh_runs(at: Installation, workers: Workers, count: int) -> tuple[float, float]:
    client = await at.client()
    try:
        at.gemini.latency(0.0)
        warm = [await client.insert(4) for _ in range(2 * count)]
        await client.run_all(warm)
        at.gemini.latency(5.0)
        job_ids = [await client.insert(4) for _ in range(count)]
        client.queue.push(*job_ids)
        deadline = time.monotonic() + 60
        while sum(request["seconds"] is None for request in at.gemini.requests()) < 2 * count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{count} runs were not in flight within 60 s")
            await asyncio.sleep(0.1)
        postgres = family(psutil.Process(at.stack.supervisor.pids()["postgres"]))
        sizes = _sum(workers.all()), _sum(postgres)
        await client.ended(job_ids)
        return sizes
    finally:
        await client.close()


def _sum(processes: Iterable[psutil.Process]) -> float:
    return sum(pss(process) for process in processes)
