"""M1: the memory of `quel up` at rest, and of one worker process. M2: what one more run in flight costs.

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
    "redis": r"valkey-server",
    "stand-in Gemini": r"gemini_server",
    "code server": r"dagster api grpc|code.server",
    "webserver": r"webserver",
    "daemon": r"platform\.daemon",
    "worker": r"quel_dagster\.platform\.worker",
    "fork server": r"services\.fork_server",
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
    """`quel up` as a user starts it."""
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
        "memory of `quel up` at rest, PSS of all its processes; one worker process",
        "≤ 700 MB",
        f"{total:.0f} MB; {child:.0f} MB",
        total <= 700,
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
        if name == "worker" and parent is not None and "platform.worker" in " ".join(parent.cmdline()):
            children.append(size)
    return parts, children


def m2(*, quick: bool) -> Figure:
    """Few, more and many runs in flight in one process; then many with pictures being encoded."""
    counts = (2, 10) if quick else (10, 50, 100)
    with installation(max_runs=max(counts)) as at:
        sizes = {count: _in_flight(at, count) for count in counts}
        encoding = {count: _encoding(at, count) for count in counts}
    workers, _ = line([(count, at_work) for count, (at_work, _) in sizes.items()])
    postgres, _ = line([(count, behind) for count, (_, behind) in sizes.items()])
    slope = workers + postgres
    most = max(counts)
    per_encoding = encoding[most] / most
    return Figure(
        "M2",
        "memory that one more run in flight costs while it waits for Gemini; while the pictures of all are encoded",
        "≤ 2 MB; ≤ 8 MB",
        f"{slope:.1f} MB ({workers:.1f} the worker's, {postgres:.1f} PostgreSQL's); {per_encoding:.1f} MB",
        slope <= 2 and per_encoding <= 8,
        "One worker process, every run in the midst of a job of four pictures; PSS of the worker and of "
        "PostgreSQL with its connections. Then the answers of all calls come at once: the worker's highest PSS from "
        "there to the last picture, less that before.\n\n"
        + grid(
            ("runs", "worker, MB", "PostgreSQL, MB", "more while encoding, MB"),
            [
                (count, f"{at_work:.0f}", f"{behind:.0f}", f"{encoding[count]:.0f}")
                for count, (at_work, behind) in sizes.items()
            ],
        ),
    )


def _encoding(at: Installation, count: int) -> float:
    """MB that a worker with so many runs needs more while all their pictures are encoded."""
    with at.worker(1, count) as workers:
        return asyncio.run(_weigh_encoding(at, workers, count))


async def _weigh_encoding(at: Installation, workers: Workers, count: int) -> float:
    client = await at.client()
    try:
        at.gemini.latency(0.0)
        await client.run_all([await client.insert(4) for _ in range(2 * count)])
        at.gemini.latency(60.0)
        job_ids = [await client.insert(4) for _ in range(count)]
        client.queue.push(*job_ids)
        await _until_calling(at, 2 * count)
        before = highest = _sum(workers.all())
        at.gemini.latency(0.0)  # ends the waits as well
        ended = asyncio.ensure_future(client.ended(job_ids))
        while not ended.done():
            highest = max(highest, await asyncio.to_thread(lambda: _sum(workers.all())))
            await asyncio.sleep(0.02)
        ended.result()
        return highest - before
    finally:
        await client.close()


def _in_flight(at: Installation, count: int) -> tuple[float, float]:
    """MB of the worker and of PostgreSQL while so many runs wait for Gemini."""
    with at.worker(1, count) as workers:
        return asyncio.run(_weigh_runs(at, workers, count))


async def _weigh_runs(at: Installation, workers: Workers, count: int) -> tuple[float, float]:
    client = await at.client()
    try:
        at.gemini.latency(0.0)
        warm = [await client.insert(4) for _ in range(2 * count)]
        await client.run_all(warm)
        at.gemini.latency(60.0)
        job_ids = [await client.insert(4) for _ in range(count)]
        client.queue.push(*job_ids)
        await _until_calling(at, 2 * count)
        postgres = family(psutil.Process(at.stack.supervisor.pids()["postgres"]))
        sizes = _sum(workers.all()), _sum(postgres)
        at.gemini.latency(0.0)
        await client.ended(job_ids)
        return sizes
    finally:
        await client.close()


async def _until_calling(at: Installation, calls: int) -> None:
    """Wait until so many calls are under way."""
    deadline = time.monotonic() + 120
    while sum(request["seconds"] is None for request in at.gemini.requests()) < calls:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{calls} calls were not under way within 120 s")
        await asyncio.sleep(0.1)


def _sum(processes: Iterable[psutil.Process]) -> float:
    return sum(pss(process) for process in processes)
