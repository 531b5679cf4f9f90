"""C1: against Dagster as it comes, on the same ops: its daemon, its launcher, its executor, its storage."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.installation import ROOT, Client, Installation, installation
from bench.report import Figure, grid, median
from quel_dagster.adapters.database import statements

#: Passed to the definitions in this variable.
STEPS_AT_A_TIME = "BENCH_STEPS_AT_A_TIME"

#: What a careful operator of stock Dagster would set: runs start as they are asked for, no queue in between.
DAGSTER_YAML = """
storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
run_launcher: {module: dagster.core.launcher, class: DefaultRunLauncher}
sensors: {use_threads: true, num_workers: 8}
telemetry: {enabled: false}
nux: {enabled: false}
"""
PICTURES, CALL, CALLS_AT_A_TIME = 4, 1.0, 2
#: Shape of the job → pictures a step. The row's figure is the first; the other spares stock Dagster the most processes.
SHAPES = {"four steps of one picture": 1, "one step of four pictures": PICTURES}
#: Step processes that stock Dagster may have: calls are waiting, so that it ends sooner than with 2 or 3 on two cores.
STEPS = PICTURES
#: Changes to the claim of a job: a run that claims again keeps its token, and its other process has not died.
_OF_ONE_RUN = {
    "v_token := nextval('quel_dagster.lease_token');": (
        "v_token := coalesce("
        "case when v_lease.run_id = p_run then v_lease.token end, nextval('quel_dagster.lease_token'));"
    ),
    "v_lease.worker <> p_worker": "v_lease.worker <> p_worker and v_lease.run_id <> p_run",
}


@dataclass(frozen=True)
class Times:
    """Seconds from the push of a job, or the medians of several."""

    first_request: float
    end: float

    @classmethod
    def median(cls, rows: Sequence[Times]) -> Times:
        return cls(median([row.first_request for row in rows]), median([row.end for row in rows]))

    def cells(self) -> tuple[str, str]:
        return f"{self.first_request:.2f}", f"{self.end:.2f}"


def c1(*, quick: bool) -> Figure:
    """Both on a warm installation, spaced jobs of both shapes."""
    jobs = 2 if quick else 8
    with installation() as at, at.worker(1, 1):
        ours = asyncio.run(_shapes(at, jobs))
    # steps in processes of their own have only the quota of all runs to keep their calls within the limit
    with installation(only=("postgres", "redis"), gemini_max_in_flight=CALLS_AT_A_TIME) as at, _stock(at):
        stock = asyncio.run(_shapes(at, jobs, steps_share_leases=True))

    def ratios(shape: str) -> tuple[float, float]:
        return stock[shape].first_request / ours[shape].first_request, stock[shape].end / ours[shape].end

    def cells(shape: str) -> list[tuple[str, ...]]:
        first, end = ratios(shape)
        return [
            (shape, "this project", *ours[shape].cells()),
            ("", "stock", *stock[shape].cells()),
            ("", "sooner", f"{first:.0f} ×", f"{end:.1f} ×"),
        ]

    first, end = ratios(next(iter(SHAPES)))
    return Figure(
        "C1",
        f"stock Dagster on the same ops: first call, and the end of a job of {PICTURES} pictures with {CALL:g} s "
        "calls, a step each",
        "≥ 10 × sooner, ≥ 4 × sooner",
        f"{first:.0f} × and {end:.1f} × sooner",
        first >= 10 and end >= 4,
        f"Medians of {jobs} spaced jobs of either shape, with calls of {PICTURES / CALLS_AT_A_TIME * CALL:.1f} s at "
        f"best: no more than {CALLS_AT_A_TIME} are under way in either program. The row's figure is that of four steps "
        "of one picture each, which the aim was stated for; one step of four pictures, where stock Dagster starts the "
        "fewest processes, stands beside it. Stock Dagster's multiprocess executor forks steps from a server that has "
        f"everything imported, {STEPS} at a time, and runs start as soon as its sensor asks for them.\n\n"
        + grid(("job", "", "first request, s", "end of the job, s"), [row for shape in SHAPES for row in cells(shape)]),
    )


async def _shapes(at: Installation, jobs: int, *, steps_share_leases: bool = False) -> dict[str, Times]:
    """The medians of so many jobs of each shape."""
    rng = random.Random(1)
    client = await at.client()
    try:
        if steps_share_leases:
            _share_leases(at)
        await client.run(1)
        rows: dict[str, list[Times]] = {shape: [] for shape in SHAPES}
        for _ in range(jobs):
            for shape, per_unit in SHAPES.items():  # in turn, so that both meet the same machine
                await asyncio.sleep(rng.uniform(1, 6))
                rows[shape].append(await _job(at, client, per_unit))
        return {shape: Times.median(times) for shape, times in rows.items()}
    finally:
        await client.close()


async def _job(at: Installation, client: Client, per_unit: int) -> Times:
    at.gemini.latency(CALL)
    pushed = time.time()
    _job_id, end = await client.run(PICTURES, per_unit=per_unit)
    requests = at.gemini.requests()
    most = max(request["in_flight"] for request in requests)
    if most > CALLS_AT_A_TIME:
        raise RuntimeError(f"{most} calls were under way at a time, where {CALLS_AT_A_TIME} may be")
    return Times(requests[0]["time"] - pushed, end)


def _share_leases(at: Installation) -> None:
    """Let steps in processes of their own hold their run's lease together.

    In the product, where a run has one process, each claim takes a new token and so fences off the one before.
    """
    name = re.search(r"\w+\.claim_job_v\d+", str(statements.CLAIM_JOB))
    assert name is not None
    with psycopg.connect(at.stack.endpoints.database_url, autocommit=True) as connection:
        row = connection.execute("select pg_get_functiondef(%s::regproc)", (name[0],)).fetchone()
        claim = str(row[0]) if row else ""
        for found, changed in _OF_ONE_RUN.items():
            assert claim.count(found) == 1, f"{name[0]} has not {found!r} once"
            claim = claim.replace(found, changed)
        connection.execute(claim.encode())


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
    environment[STEPS_AT_A_TIME] = str(STEPS)
    server = ["dagster", "api", "grpc", "-m", "bench.stock_definitions", "--location-name", "stock"]
    logs = []
    with ExitStack() as exits:
        for name, command in (
            ("code-server", [*server, "--host", "127.0.0.1", "--port", str(port)]),
            ("daemon", ["dagster._daemon", "run", "--workspace", str(home / "workspace.yaml")]),
        ):
            log = at.home / f"stock-{name}.log"
            logs.append(log)
            process = _start(command, environment, log)
            exits.callback(_end, process)
            if name == "code-server":
                _wait_port(port, process, log)
        try:
            yield
        except RuntimeError as error:  # the logs go with the home
            for log in logs:
                error.add_note(f"{log.name} ends\n{log.read_text(errors='replace')[-2000:]}")
            raise


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
