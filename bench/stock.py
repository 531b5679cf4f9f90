"""C1: against Dagster as it comes, on the same ops: its daemon, its launcher, its executor, its storage."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.installation import ROOT, Client, Installation, installation
from bench.report import Figure, grid, median

#: What a careful operator of stock Dagster would set: runs start as they are asked for, no queue in between.
DAGSTER_YAML = """
storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
run_launcher: {module: dagster.core.launcher, class: DefaultRunLauncher}
sensors: {use_threads: true, num_workers: 8}
telemetry: {enabled: false}
nux: {enabled: false}
"""
PICTURES, CALL = 4, 1.0


def c1(*, quick: bool) -> Figure:
    """Both on a warm installation, spaced jobs of one unit."""
    jobs = 2 if quick else 5
    with installation(workers=1) as at, at.celery(1):
        ours = asyncio.run(_jobs(at, jobs, random.Random(1)))
    with installation(workers=1, only=("postgres", "redis")) as at, _stock(at):
        stock = asyncio.run(_jobs(at, jobs, random.Random(1)))
    first = median([row[0] for row in stock]) / median([row[0] for row in ours])
    end = median([row[1] for row in stock]) / median([row[1] for row in ours])

    def cells(rows: list[tuple[float, float]]) -> tuple[str, str]:
        return f"{median([row[0] for row in rows]):.2f}", f"{median([row[1] for row in rows]):.2f}"

    return Figure(
        "C1",
        f"stock Dagster on the same ops: first call, and the end of a job of {PICTURES} pictures with {CALL:g} s calls",
        "≥ 10 × sooner, ≥ 4 × sooner",
        f"{first:.0f} × and {end:.1f} × sooner",
        first >= 10 and end >= 4,
        f"Medians of {jobs} spaced jobs, one unit each, so that stock Dagster starts the fewest processes; its "
        "multiprocess executor forks steps from a server that has everything imported, and runs start as soon as its "
        "sensor asks for them.\n\n"
        + grid(
            ("", "first request, s", "end of the job, s"), [("this project", *cells(ours)), ("stock", *cells(stock))]
        ),
    )


async def _jobs(at: Installation, jobs: int, rng: random.Random) -> list[tuple[float, float]]:
    """Seconds from each push to the first request, and to the end."""
    client = await at.client()
    try:
        await client.run(1)
        rows = []
        for _ in range(jobs):
            await asyncio.sleep(rng.uniform(1, 6))
            rows.append(await _job(at, client))
        return rows
    finally:
        await client.close()


async def _job(at: Installation, client: Client) -> tuple[float, float]:
    at.gemini.latency(CALL)
    pushed = time.time()
    _job_id, wall = await client.run(PICTURES, per_unit=PICTURES)
    return at.gemini.requests()[0]["time"] - pushed, wall


@contextmanager
def _stock(at: Installation) -> Iterator[None]:
    """Code server and daemon of stock Dagster."""
    home = at.home / "stock"
    home.mkdir()
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workspace = {"load_from": [{"grpc_server": {"host": "127.0.0.1", "port": port, "location_name": "stock"}}]}
    (home / "workspace.yaml").write_text(json.dumps(workspace))
    environment = {**os.environ, **at.environment(), "DAGSTER_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    server = ["dagster", "api", "grpc", "-m", "bench.stock_definitions", "--location-name", "stock"]
    with ExitStack() as exits:
        for name, command in (
            ("code-server", [*server, "--host", "127.0.0.1", "--port", str(port)]),
            ("daemon", ["dagster._daemon", "run", "--workspace", str(home / "workspace.yaml")]),
        ):
            log = at.home / f"stock-{name}.log"
            process = _start(command, environment, log)
            exits.callback(_end, process)
            if name == "code-server":
                _wait_port(port, process, log)
        yield


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_port(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The stock code server did not start: {log.read_text()[-800:]}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
