"""A backup with pg_dump of an installation at work, and its restore beside a Redis that is empty, newer or older.

The order of the steps is that of docs/operations.md, Backup and restore.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
import redis
import trustme

from quel_dagster.adapters.database.jobs import JobReport
from quel_dagster.services.endpoints import Endpoints, settings_environment
from tests.documented_commands import block_command
from tests.integration.conftest import eventually
from tests.production.servers import HANG_SECONDS, SharedDatabase, shared_database, system_postgres
from tests.production.site import Client, Surroundings, site, site_settings, surroundings

pytestmark = pytest.mark.skipif(not os.environ.get("SKIP_NO_TESTS"), reason="minutes; `make production` runs it")

#: seconds of a call of Gemini: the dump is taken while jobs are at work
LATENCY = 2.0


@dataclass(frozen=True)
class Place:
    """Where an installation was, and will be again."""

    home: Path
    database: SharedDatabase
    around: Surroundings
    redis: redis.Redis
    redis_url: str

    @property
    def client(self) -> Client:
        """The web app and the operator, also while nothing runs."""
        settings = site_settings(self.home, self.around, url=self.database.url, redis_url=self.redis_url)
        return Client(self.database, settings)

    def type(self, *beginnings: str) -> None:
        """Type the commands of docs/operations.md that begin so, in a folder with `.env`."""
        folder = self.home / "operator"
        folder.mkdir(exist_ok=True)
        values = {**settings_environment(self.client.settings), "DATABASE_URL": self.database.url}
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        done = subprocess.run(
            ["bash", "-e", "-c", "\n".join(map(block_command, beginnings))],
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "OWNER_URL": self.database.owner_url,
            },
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def dump(self) -> None:
        self.type("pg_dump")

    def restore(self) -> None:
        self.type("pg_restore")


@pytest.fixture
def place(outside: Endpoints, tmp_path: Path) -> Iterator[Place]:
    with (
        redis.Redis.from_url(outside.redis_url) as client,
        system_postgres(trustme.CA().issue_cert("127.0.0.1"), plain=True) as port,
        shared_database(f"postgresql://quel:quel@127.0.0.1:{port}/postgres", "web_app") as database,
        surroundings(tmp_path, latency=LATENCY) as around,
    ):
        client.flushall()
        yield Place(tmp_path, database, around, client, outside.redis_url)


async def _end_of(client: Client, job_id: UUID) -> JobReport:
    """Wait until the job has ended and return its row."""

    async def ended() -> JobReport | None:
        (report,) = await client.reports([job_id])
        return report if report.status.ended else None

    return await eventually(ended, seconds=4 * HANG_SECONDS, pause=0.1)


async def _dumped_at_work(place: Place) -> tuple[list[UUID], UUID]:
    """Dump an installation with jobs at work, then let it finish, but for one job, which its user cancels.

    Returns:
        all jobs, and the cancelled one; both were open in the dump.
    """
    with site(place.home, place.database, url=place.database.url, redis_url=place.redis_url, around=place.around) as at:
        jobs = await at.order(6)
        await at.wait_for_pictures(jobs, 2)
        place.dump()
        cancelled = next(report.job_id for report in await at.reports(jobs) if report.status == "pending")
        place.redis.set(f"job:{cancelled}:cancelled", "true", ex=3600)
        assert (await _end_of(at, cancelled)).status == "user_cancelled"
        await at.wait_until_made([job for job in jobs if job != cancelled])
    return jobs, cancelled


async def _restored(place: Place, jobs: list[UUID], cancelled: UUID, *, end: str) -> None:
    """Start the restored installation: every job is made whole and charged once, but for the cancelled one."""
    (before,) = await place.client.reports([cancelled])
    with site(place.home, place.database, url=place.database.url, redis_url=place.redis_url, around=place.around) as at:
        await at.wait_until_made([job for job in jobs if job != cancelled])
        after = await _end_of(at, cancelled)
        assert after.status == end, after
        assert after.completed_images == before.completed_images, "a picture of the cancelled job was made"
        assert after.credits == before.credits, "a picture of the cancelled job was charged"
        audit = at.quel("audit", "--grace", "0", "--no-objects")
        assert audit.returncode == 0, audit.stdout


async def test_restore_with_an_emptied_redis_goes_on_and_keeps_a_cancel_given_before_the_start(place: Place) -> None:
    jobs, cancelled = await _dumped_at_work(place)
    place.restore()
    place.type('eval "$(quel env)"', 'redis-cli -u "$REDIS_URL" del jobs:queue')
    place.redis.delete(f"job:{cancelled}:cancelled")
    open_jobs = place.client.quel("list", "--open", "--json")
    assert str(cancelled) in open_jobs.stdout, open_jobs
    given = place.client.quel("cancel", cancelled)
    assert given.returncode == 0, given
    await _restored(place, jobs, cancelled, end="cancelled")


async def test_restore_beside_a_newer_redis_keeps_the_users_cancel(place: Place) -> None:
    jobs, cancelled = await _dumped_at_work(place)
    place.restore()
    await _restored(place, jobs, cancelled, end="user_cancelled")


async def test_restore_beside_an_older_redis_makes_and_charges_nothing_twice(place: Place) -> None:
    """Its lists hold ids of jobs that the dump has as completed, and it has no flag of the cancel."""
    jobs, cancelled = await _dumped_at_work(place)
    place.restore()
    place.redis.flushall()
    place.redis.lpush("jobs:queue", *map(str, jobs))
    given = place.client.quel("cancel", cancelled)
    assert given.returncode == 0, given
    await _restored(place, jobs, cancelled, end="cancelled")
