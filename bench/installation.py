"""An installation under measurement: everything of `quel up`, with the workers apart.

    PostgreSQL, Redis, code server, webserver, daemon   as `quel up` runs them
    Gemini        a process of its own that answers every request with the same picture, after a set time
    workers       the product's worker, or bare ones (`bare_worker.py`), started by each benchmark as it needs them

Bare workers wait on the same list of ids in another database of the same Redis.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from dagster import DagsterInstance, DagsterRunStatus
from pydantic import SecretStr

from quel_dagster.adapters.database.jobs import JobReport
from quel_dagster.adapters.database.records import NewJob
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.jobs.model import JobStatus
from quel_dagster.platform.runs import runs_of
from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.services.endpoints import settings_environment
from quel_dagster.services.processes import FORK_SERVER
from quel_dagster.services.stack import PLATFORM, Stack
from quel_dagster.settings import Settings

ROOT = Path(__file__).parents[1]
#: pictures of one combination of a batch job
PER_UNIT = 2
#: seconds between two reads of the jobs' rows; walls are taken from `completed_at`
POLL_SECONDS = 0.25
SERVICES = tuple(name for name in PLATFORM if name != "gemini")
_RICH = 1_000_000_000


class Gemini:
    """The stand-in in its own process, with one picture for all."""

    def __init__(self, log: Path) -> None:
        command = [sys.executable, "-m", "quel_dagster.sandbox.gemini_server", "--canned", "--port", "0"]
        self._log = log.open("wb")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", first)
        if found is None:
            raise RuntimeError(f"The stand-in Gemini said {first!r} instead of its address; see {log}")
        self.url = found[0]

    def latency(self, seconds: float) -> None:
        """Wait so long before every answer from now on; forget the requests seen."""
        self._post("reset", {})
        self._post("latency", {"seconds": seconds})

    def requests(self) -> list[dict[str, Any]]:
        """Every request since `latency`, oldest first."""
        with urllib.request.urlopen(f"{self.url}/control/requests") as answer:
            return list(json.load(answer)["requests"])

    def _post(self, name: str, body: object) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/control/{name}", json.dumps(body).encode(), headers)
        urllib.request.urlopen(request).close()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self._log.close()


class Workers:
    """Worker processes under measurement: started, ready, and warm."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def parents(self) -> list[psutil.Process]:
        return [psutil.Process(process.pid) for process in self._processes]

    def all(self) -> list[psutil.Process]:
        """Parents and children."""
        return [each for parent in self.parents() for each in (parent, *parent.children(recursive=True))]

    def cpu_seconds(self) -> float:
        """CPU of all of them so far."""
        return sum(map(cpu_of_family, self.parents()))

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Client:
    """What the web app does, and what it sees of its jobs. Lives on one event loop."""

    database: Database
    queue: JobQueue
    member_id: UUID

    @classmethod
    async def open(cls, database_url: str, redis_url: str) -> Client:
        database = Database(database_url)
        await database.installation.ensure_schema()
        email = "bench@localhost"
        member_id = await database.web_app.member_by_email(email) or await database.web_app.insert_member(
            email=email, name="Bench", credit=_RICH
        )
        return cls(database, JobQueue(redis_url), member_id)

    async def close(self) -> None:
        self.queue.close()
        await self.database.aclose()

    async def insert(self, pictures: int, *, per_unit: int = PER_UNIT) -> UUID:
        """The rows of a batch job of so many pictures, without pushing it."""
        counts = [per_unit] * (pictures // per_unit) + [pictures % per_unit] * (pictures % per_unit > 0)
        combinations = [
            {"angle": "front", "shot": "full-body", "quantity": count, "fx": fx}
            for count, fx in zip(counts, itertools.cycle(("speed-lines", "impact", "aura", "emotion")), strict=False)
        ]
        job_id, _ = await self.database.web_app.insert_job(
            NewJob(
                job_type="single_batch",
                total_images=pictures,
                path="cartoon",
                member_id=self.member_id,
                input_data={"basePrompt": "A small red fox on a windy hill", "combinations": combinations},
            ),
            price=20,
        )
        return job_id

    async def ended(self, job_ids: Sequence[UUID], *, seconds: float = 300.0) -> dict[UUID, JobReport]:
        """The rows of these jobs once all are completed.

        Raises:
            RuntimeError: one ended otherwise, or not in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            reports = await self.database.jobs.report(job_ids)
            if all(report.status.ended for report in reports.values()):
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(job_ids)} jobs did not end within {seconds:g} s")
            await asyncio.sleep(POLL_SECONDS)
        for job_id, report in reports.items():
            if report.status is not JobStatus.COMPLETED or report.error_message:
                raise RuntimeError(f"Job {job_id} ended {report.status}: {report.error_message}")
        return reports

    async def run(self, pictures: int, *, per_unit: int = PER_UNIT) -> tuple[UUID, float]:
        """Push one job and wait for its end; its id and the seconds between."""
        job_id = await self.insert(pictures, per_unit=per_unit)
        pushed = time.time()
        self.queue.push(job_id)
        report = (await self.ended([job_id]))[job_id]
        return job_id, _completed(report) - pushed

    async def run_all(self, job_ids: Sequence[UUID]) -> float:
        """Push these and wait for their ends; the seconds to the last one."""
        pushed = time.time()
        self.queue.push(*job_ids)
        reports = await self.ended(job_ids)
        return max(map(_completed, reports.values())) - pushed


def _completed(report: JobReport) -> float:
    assert report.completed_at is not None
    return report.completed_at.timestamp()


@dataclass
class Installation:
    """Made by `installation()`."""

    home: Path
    stack: Stack
    gemini: Gemini
    settings: Settings
    exits: ExitStack
    workers: list[Workers] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """For programs that reach these services."""
        return {**settings_environment(self.settings), **self.stack.endpoints.environment()}

    @property
    def bare_redis_url(self) -> str:
        """Where bare workers wait."""
        return self.stack.endpoints.redis_url.removesuffix("/0") + "/1"

    @contextmanager
    def worker(
        self, processes: int | None = None, runs_each: int | None = None, **environment: str
    ) -> Iterator[Workers]:
        """The worker of the product, ready; with its default settings unless told otherwise."""
        command = [sys.executable, "-m", "quel_dagster.platform.worker"]
        command += ["--processes", str(processes)] if processes else []
        command += ["--runs-per-process", str(runs_each)] if runs_each else []
        with self._started([command], r"runs each: ready\.", environment) as workers:
            yield workers

    @contextmanager
    def bare(self, processes: int, **environment: str) -> Iterator[Workers]:
        """As many bare workers, ready."""
        command = [sys.executable, "-m", "bench.bare_worker"]
        more = {"REDIS_URL": self.bare_redis_url, **environment}
        with self._started([command] * processes, r"ready", more) as workers:
            yield workers

    @contextmanager
    def _started(
        self, commands: Sequence[Sequence[str]], ready: str, environment: Mapping[str, str]
    ) -> Iterator[Workers]:
        everything = {**os.environ, **self.environment(), "PYTHONUNBUFFERED": "1", **environment}
        logs = [self.home / f"worker-{time.monotonic_ns()}-{number}.log" for number in range(len(commands))]
        processes = []
        for command, log in zip(commands, logs, strict=True):
            with log.open("wb") as output:
                processes.append(
                    subprocess.Popen(command, env=everything, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
                )
        workers = Workers(processes)
        try:
            for process, log in zip(processes, logs, strict=True):
                _wait_ready(process, log, ready)
            yield workers
        finally:
            workers.close()

    @contextmanager
    def dagster(self) -> Iterator[DagsterInstance]:
        """Dagster's instance, in this process."""
        before = dict(os.environ)
        os.environ.update(self.environment())
        try:
            with DagsterInstance.get() as instance:
                yield instance
        finally:
            os.environ.clear()
            os.environ.update(before)

    async def runs_finished(self, instance: DagsterInstance, job_ids: Sequence[UUID]) -> None:
        """Wait until the runs of these jobs are over for Dagster too."""
        while True:
            runs = runs_of(instance, job_ids)
            if len(runs) == len(job_ids) and all(run.is_finished for found in runs.values() for run in found):
                break
            await asyncio.sleep(0.1)
        wrong = [run for found in runs.values() for run in found if run.status is not DagsterRunStatus.SUCCESS]
        if wrong:
            raise RuntimeError(f"Run {wrong[0].run_id} ended {wrong[0].status}")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU of each service so far, the workers apart."""
        pids = self.stack.supervisor.pids()
        # the others are the fork server's descendants
        return {name: cpu_of_family(psutil.Process(pids[name])) for name in pids if name != FORK_SERVER}

    async def client(self, *, bare: bool = False) -> Client:
        where = self.stack.endpoints
        return await Client.open(where.database_url, self.bare_redis_url if bare else where.redis_url)


def cpu_of_family(parent: psutil.Process) -> float:
    """CPU seconds so far of a process and its descendants, of those that ended too."""
    total = 0.0
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user, system, and both of children that ended
    return total


@contextmanager
def installation(
    *, workers: int | None = None, only: Sequence[str] = SERVICES, **settings: Any
) -> Iterator[Installation]:
    """Everything but workers, in a home that is removed afterwards.

    Args:
        only: services to run.
        settings: more settings, by their field names.
    """
    with ExitStack() as exits:
        home = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="quel-bench-")))
        home.chmod(0o711)  # as root, PostgreSQL is another user, and opens no folder by itself
        gemini = Gemini(home / "gemini.log")
        exits.callback(gemini.close)
        given = Settings.read(_env_file=None).embedded(home)
        given = given.model_copy(update={"gemini_base_url": gemini.url, **settings})
        given = given.model_copy(update={"gemini_api_key": SecretStr("stand-in")})
        stack = exits.enter_context(Stack(given, embedded=EmbeddedServers(), only=only))
        yield Installation(home, stack, gemini, given, exits)


def _wait_ready(process: subprocess.Popen[bytes], log: Path, ready: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not re.search(ready, log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"A worker did not become ready: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.05)
