"""Two platforms on one installation, and a worker on another Dagster storage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import psycopg
import pytest
import redis

from quel_dagster.adapters.database import platform_place
from quel_dagster.adapters.database.platform_place import storage_identity
from quel_dagster.adapters.database.url import in_own_schema
from quel_dagster.cli.doctor.dagster_parts import _platform_findings
from quel_dagster.errors import SettingsError
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.platform_holder import PlatformHolder, check_storage
from quel_dagster.services.stack import PLATFORM
from quel_dagster.settings import Settings
from tests.faults.proxy import TcpProxy
from tests.production.servers import HANG_SECONDS, SharedDatabase
from tests.production.site import site, surroundings
from tests.production.test_preparation import prepared


@pytest.fixture
def where(shared: SharedDatabase, outside: Endpoints, tmp_path: Path) -> Iterator[Endpoints]:
    """A prepared installation, without processes."""
    yield prepared(shared.url, tmp_path, outside)


def _holder(where: Endpoints, home: str, lost: list[Exception]) -> PlatformHolder:
    return PlatformHolder(where.database_url, home=Path(home), storage_id="storage-1", lost=lost.append)


def test_a_second_platform_stands_by_until_the_first_stops(where: Endpoints) -> None:
    lost: list[Exception] = []
    lines: list[str] = []
    stood_by = threading.Event()
    first, second = _holder(where, "/first", lost), _holder(where, "/second", lost)

    def echo(line: str) -> None:
        lines.append(line)
        stood_by.set()

    first.take(lines.append)
    assert lines == []
    waiting = threading.Thread(target=second.take, args=(echo,), daemon=True)
    waiting.start()
    assert stood_by.wait(HANG_SECONDS)
    assert ":/first; stop it there, or run `quel worker` here" in lines[0]
    assert waiting.is_alive(), "two platforms at once"
    first.leave()
    waiting.join(HANG_SECONDS)
    assert not waiting.is_alive()
    second.leave()
    assert lost == []


def test_outage_of_postgresql_does_not_end_a_platform_that_stands_by(where: Endpoints) -> None:
    port = int(where.database_url.rpartition(":")[2].partition("/")[0])
    lines: Queue[str] = Queue()
    first = _holder(where, "/first", [])
    first.take(print)
    with TcpProxy(port) as proxy:
        through = where.model_copy(update={"database_url": where.database_url.replace(f":{port}/", f":{proxy.port}/")})
        second = _holder(through, "/second", [])
        waiting = threading.Thread(target=second.take, args=(lines.put,), daemon=True)
        waiting.start()
        assert "Standing by" in lines.get(timeout=HANG_SECONDS)
        proxy.refuse()
        assert "Waiting for PostgreSQL: " in lines.get(timeout=HANG_SECONDS)
        proxy.heal()
        assert "Standing by" in lines.get(timeout=HANG_SECONDS)
        first.leave()
        waiting.join(HANG_SECONDS)
        assert not waiting.is_alive()
        second.leave()


def test_the_same_home_takes_over_from_its_process_that_died(where: Endpoints) -> None:
    died, again = _holder(where, "/home", []), _holder(where, "/home", [])
    died.take(print)
    again.take(print)
    died.leave()
    again.leave()


def test_platform_that_lost_its_place_is_notified(where: Endpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that slept longer than the place lasts."""
    monkeypatch.setattr("quel_dagster.services.platform_holder.RENEW_SECONDS", 0.05)
    notified = threading.Event()
    slept = PlatformHolder(where.database_url, home=Path("/slept"), storage_id="s", lost=lambda _error: notified.set())
    slept.take(print)
    with psycopg.connect(where.database_url, autocommit=True) as connection:
        connection.execute(
            "update quel_dagster.platform set holder = 'x', place = 'other:/home', expires_at = now() + interval '1 h'"
        )
    assert notified.wait(HANG_SECONDS)
    slept.leave()


def test_a_worker_on_another_storage_is_refused_and_doctor_says_it(
    where: Endpoints, shared: SharedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = storage_identity(where.dagster_postgres_url, create=True)
    assert identity == storage_identity(where.dagster_postgres_url, create=True), "it stays"
    platform_place.hold(where.database_url, holder="p", place="host:/home", storage_id=str(identity))
    check_storage(where.database_url, where.dagster_postgres_url)

    shared.execute(f"create schema elsewhere authorization {shared.role}")
    other = in_own_schema(shared.url).replace("quel_dagster", "elsewhere")
    with pytest.raises(SettingsError, match=r"is not that of the platform at host:/home"):
        check_storage(where.database_url, other)

    settings = Settings.read(_env_file=None, database_url=where.database_url)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", where.dagster_postgres_url)
    assert [finding.said for finding in _platform_findings(settings)] == ["runs at host:/home"]
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", other)
    assert "another one than that of DAGSTER_POSTGRES_URL" in [f.said for f in _platform_findings(settings)][-1]


async def test_platform_without_workers_installs_the_schema_and_a_worker_that_comes_later_makes_the_jobs(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path
) -> None:
    """`quel up --no-workers` failed until a worker had been there."""
    with redis.Redis.from_url(outside.redis_url) as client:
        client.flushall()
    with surroundings(tmp_path) as around:
        where = {"url": shared.url, "redis_url": outside.redis_url, "around": around}
        with site(tmp_path / "first", shared, **where, only=PLATFORM) as platform:
            assert "job_lease" in shared.tables("quel_dagster")
            jobs = await platform.order(2)
            with site(tmp_path / "second", shared, **where, only=("worker",)):
                await platform.wait_until_made(jobs)
