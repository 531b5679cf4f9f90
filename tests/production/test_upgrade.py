"""An upgrade from the oldest version and a rollback to it, whole programs of both side by side, with jobs in flight."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from quel_dagster.services.endpoints import Endpoints
from tests.older_version import OlderVersion, install_older_version
from tests.production.foreground import Foreground, foreground
from tests.production.servers import SharedDatabase
from tests.production.site import Client, Site, Surroundings, site, site_settings, surroundings

pytestmark = pytest.mark.skipif(not os.environ.get("SKIP_NO_TESTS"), reason="minutes; `make production` runs it")

#: seconds of a call of Gemini: jobs are in flight while versions change
LATENCY = 1.0


@pytest.fixture(scope="module")
def older() -> OlderVersion:
    return install_older_version()


@dataclass(frozen=True)
class Installation:
    """One database, Redis, store and Gemini, for processes of two versions."""

    folder: Path
    database: SharedDatabase
    redis_url: str
    around: Surroundings
    older: OlderVersion

    @property
    def client(self) -> Client:
        settings = site_settings(self.folder, self.around, url=self.database.url, redis_url=self.redis_url)
        return Client(self.database, settings)

    def newer(self) -> AbstractContextManager[Site]:
        """`quel up` of this version."""
        return site(self.folder, self.database, url=self.database.url, redis_url=self.redis_url, around=self.around)

    def older_one(self, *words: str, home: str) -> AbstractContextManager[Foreground]:
        """A command of the older version."""
        folder = self.folder / home
        folder.mkdir(exist_ok=True)
        environment = {**self.client.variables, **self.older.variables, "QUEL_HOME": str(folder)}
        return foreground(*words, environment=environment, python=self.older.python)


@pytest.fixture
def installation(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path, older: OlderVersion
) -> Iterator[Installation]:
    with redis.Redis.from_url(outside.redis_url) as client:
        client.flushall()
    # the older version makes the schema with `if not exists`, which wants this right even when it is there
    shared.execute(f"grant create on database {shared.name} to {shared.role}")
    with surroundings(tmp_path, latency=LATENCY) as around:
        yield Installation(tmp_path, shared, outside.redis_url, around, older)


async def test_upgrade_beside_an_older_worker_that_restarts_loses_and_doubles_nothing(
    installation: Installation,
) -> None:
    client = installation.client
    with installation.older_one("worker", home="worker") as worker:
        worker.until("Taking runs")
        with installation.older_one("up", "--port", "0", "--no-workers", home="quel") as platform:
            platform.until("Everything is ready")
            jobs = await client.order(8)
            await client.wait_for_pictures(jobs, 3)
            assert platform.stop() == 0
        jobs += await client.order(3)
        with installation.newer() as newer:
            jobs += await client.order(3)
            await client.wait_for_pictures(jobs, 12)
            worker.kill()
            with installation.older_one("worker", home="worker") as again:
                again.until("Taking runs")
                jobs += await client.order(3)
                await client.wait_until_made(jobs)
                audit = newer.quel("audit", "--grace", "0")
                assert audit.returncode == 0, audit.stdout
                assert again.stop() == 0


async def test_rollback_of_the_code_finishes_the_jobs_in_flight(installation: Installation) -> None:
    client = installation.client
    with installation.newer():
        jobs = await client.order(8)
        await client.wait_for_pictures(jobs, 3)
    with installation.older_one("up", "--port", "0", home="quel") as older:
        older.until("Everything is ready")
        jobs += await client.order(3)
        await client.wait_until_made(jobs)
        assert older.stop() == 0
    with installation.newer() as again:
        jobs += await client.order(1)
        await client.wait_until_made(jobs)
        audit = again.quel("audit", "--grace", "0")
        assert audit.returncode == 0, audit.stdout + audit.stderr
