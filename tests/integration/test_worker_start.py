"""How a worker starts, and what its parent replaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from quel_dagster.platform.workers import WorkerBoard
from quel_dagster.services.endpoints import Endpoints
from tests.faults.proxy import TcpProxy

HANG_SECONDS = 120.0


class StartedWorker:
    """`quel_dagster.platform.worker` with one process."""

    def __init__(self, environment: Mapping[str, str], log: Path, *arguments: str) -> None:
        self._log = log
        command = [sys.executable, "-m", "quel_dagster.platform.worker", "--processes", "1", "--runs-per-process", "2"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *arguments],
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def until(self, seen: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        while not seen():
            assert self.process.poll() is None, f"the worker ended before {what}:\n{self.log()[-2000:]}"
            assert time.monotonic() < deadline, f"no {what}:\n{self.log()[-2000:]}"
            time.sleep(0.05)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANG_SECONDS)


Start = Callable[..., StartedWorker]


@pytest.fixture
def start(environment: Mapping[str, str], endpoints: Endpoints, tmp_path: Path) -> Iterator[Start]:
    """Starts workers of this test, and ends them."""
    started: list[StartedWorker] = []

    def begin(*arguments: str, **more: str) -> StartedWorker:
        log = tmp_path / f"worker-{len(started)}.log"
        worker = StartedWorker({**endpoints.environment(), **environment, **more}, log, *arguments)
        started.append(worker)
        return worker

    yield begin
    for worker in started:
        if worker.process.poll() is None:
            worker.stop()


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DAGSTER_POSTGRES_URL"])
def test_while_postgresql_is_unreachable_the_parent_waits(variable: str, start: Start, endpoints: Endpoints) -> None:
    assert endpoints.postgres_port is not None
    with TcpProxy(endpoints.postgres_port) as proxy:
        proxy.refuse()
        url = endpoints.environment()[variable].replace(f":{endpoints.postgres_port}/", f":{proxy.port}/")
        assert f":{proxy.port}/" in url
        worker = start(**{variable: url})
        worker.until(lambda: f"waiting for PostgreSQL: {variable}" in worker.log(), "the line that names the database")
        worker.until(lambda: proxy.refused >= 3, "several tries")
        assert worker.children() == [], "no process starts that would only fail"
        proxy.heal()
        worker.until(lambda: "ready." in worker.log(), "readiness")
        assert worker.stop() == 0
    assert worker.log().count("waiting for PostgreSQL") == 1
    assert "Traceback" not in worker.log()


def test_sigterm_ends_a_parent_that_waits(start: Start) -> None:
    worker = start(DATABASE_URL="postgresql://quel@127.0.0.1:9/quel")
    worker.until(lambda: "waiting for PostgreSQL" in worker.log(), "the line that names the database")
    assert worker.stop() == 0


def test_a_process_that_grew_is_replaced(start: Start, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "grow").write_text("300")
    arguments = ("--import-first", "tests.integration.growing_process")
    worker = start(*arguments, QUEL_WORKER_MEMORY_MB="400", GROW_ONCE=str(tmp_path / "grow"))
    worker.until(lambda: "ready." in worker.log(), "readiness")
    [grown] = worker.children()
    worker.until(lambda: not grown.is_running(), "the end of the process that grew")
    board = WorkerBoard(redis_url)
    worker.until(lambda: board.read().capacity == 2, "another process")
    assert grown.pid not in board.read().pids.values()
    assert "more than QUEL_WORKER_MEMORY_MB" in worker.log()
    assert "with exit code 0" in worker.log(), "it ends in order"
    board.close()
