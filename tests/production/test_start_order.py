"""A host that boots faster than its servers: `quel worker` waits for PostgreSQL and Redis, and comes up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from quel_dagster.services.endpoints import Endpoints
from tests.faults.proxy import TcpProxy
from tests.production.foreground import foreground
from tests.production.servers import HANG_SECONDS, SharedDatabase

#: refused connections after which the worker has tried again
TRIES = 3


def _environment(database_url: str, redis_url: str, home: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "STORAGE_URL": home.as_uri(),
        "GEMINI_API_KEY": "key-of-these-tests",
        "GEMINI_BASE_URL": "http://127.0.0.1:9",
        "QUEL_HOME": str(home),
        "QUEL_WORKER_PROCESSES": "1",
    }


@pytest.mark.parametrize("server", ["PostgreSQL", "Redis"])
def test_worker_that_starts_before_a_server_waits_for_it(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path, server: str
) -> None:
    given = {"PostgreSQL": shared.url, "Redis": outside.redis_url}
    port = int(given[server].rpartition(":")[2].partition("/")[0])
    with TcpProxy(port) as proxy:
        proxy.refuse()
        given[server] = given[server].replace(f":{port}/", f":{proxy.port}/")
        environment = _environment(given["PostgreSQL"], given["Redis"], tmp_path)
        with foreground("worker", environment=environment) as worker:
            worker.until(f"Waiting for {server}")
            deadline = time.monotonic() + HANG_SECONDS
            while proxy.refused < TRIES:
                assert worker.process.poll() is None, worker.lines
                assert time.monotonic() < deadline, f"{proxy.refused} tries: {worker.lines}"
                time.sleep(0.1)
            proxy.heal()
            worker.until("Taking runs")
            assert worker.stop() == 0
        assert sum("Waiting for" in line for line in worker.lines) == 1, worker.lines


def test_worker_that_waits_ends_at_a_signal(tmp_path: Path) -> None:
    environment = _environment("postgresql://u@127.0.0.1:9/d", "redis://127.0.0.1:9/0", tmp_path)
    with foreground("worker", environment=environment) as worker:
        assert "connection refused; check DATABASE_URL" in worker.until("Waiting for PostgreSQL")
        assert worker.stop() == 0


def test_a_wrong_database_is_refused_at_once(shared: SharedDatabase, outside: Endpoints, tmp_path: Path) -> None:
    environment = _environment(f"{shared.url}_of_another", outside.redis_url, tmp_path)
    with foreground("worker", environment=environment) as worker:
        worker.until("there is no such database")
        assert worker.process.wait(HANG_SECONDS) == 1
