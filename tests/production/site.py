"""A whole installation in the shape of production, and an operator's shell beside it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

from quel_dagster.adapters.database.jobs import JobReport
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.samples import SAMPLE_JOBS, reference_pictures
from quel_dagster.sandbox.web_app import WebApp
from quel_dagster.services.endpoints import settings_environment
from quel_dagster.services.preparation import connections_needed
from quel_dagster.services.stack import Stack
from quel_dagster.settings import Settings
from tests.faults.storage_server import running_storage
from tests.integration.conftest import eventually
from tests.integration.storage.supabase_server import SERVICE_KEY
from tests.production.servers import HANG_SECONDS, PASSWORD, SharedDatabase

GEMINI_KEY = "canary-key-of-production"
PRICE = 20
#: connections beyond those that are kept
MOMENTARY = 6


@dataclass(frozen=True)
class Surroundings:
    """The Gemini and the object store of an installation; they outlive it."""

    gemini: GeminiStandIn
    store_url: str


@contextmanager
def surroundings(folder: Path, *, latency: float = 0.0) -> Iterator[Surroundings]:
    """Start a stand-in Gemini and an object store, for an installation or for several, one after the other.

    Args:
        folder: keeps the objects.
        latency: seconds of each call of Gemini.
    """
    with (
        GeminiStandIn(api_key=GEMINI_KEY, canned=True, latency=latency) as gemini,
        running_storage(folder / "objects") as storage,
    ):
        yield Surroundings(gemini, f"http://127.0.0.1:{storage.port}")


@dataclass(frozen=True)
class Client:
    """The web app and an operator's shell: they need no running installation."""

    database: SharedDatabase
    settings: Settings

    @property
    def variables(self) -> dict[str, str]:
        """The environment of an operator: what .env of the installation holds, and nothing of its processes."""
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        return {**kept, **settings_environment(self.settings)}

    def quel(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a command in the operator's shell."""
        return quel(*words, environment=self.variables)

    async def order(self, count: int) -> list[UUID]:
        """Order sample jobs as the web app does."""
        async with self._opened() as database:
            store, queue = open_store(self.settings), JobQueue(self.settings.redis() or "")
            web_app = WebApp(database, store, PRICE)
            try:
                accounts = await web_app.open_accounts(member_credit=1000, org_credit=1000)
                attach_ids = await web_app.upload(reference_pictures())
                samples = [SAMPLE_JOBS[number % len(SAMPLE_JOBS)] for number in range(count)]
                jobs = [await web_app.insert(sample, attach_ids, accounts) for sample in samples]
                queue.push(*jobs)
                return jobs
            finally:
                queue.close()
                await store.aclose()

    async def reports(self, jobs: Sequence[UUID]) -> list[JobReport]:
        """Return the rows of the jobs."""
        async with self._opened() as database:
            return [*(await database.jobs.report(jobs)).values()]

    async def wait_for_pictures(self, jobs: Sequence[UUID], count: int) -> None:
        """Wait until the jobs have that many pictures together."""

        async def made() -> bool:
            return sum(report.completed_images for report in await self.reports(jobs)) >= count

        await eventually(made, seconds=4 * HANG_SECONDS)

    async def wait_until_made(self, jobs: Sequence[UUID], *, look: Callable[[], object] = lambda: None) -> None:
        """Wait until every job has ended with all of its pictures.

        Args:
            look: called again and again meanwhile.
        """
        async with self._opened() as database, asyncio.timeout(4 * HANG_SECONDS):
            while True:
                reports = await database.jobs.report(jobs)
                if all(report.status.ended for report in reports.values()):
                    break
                look()
                await asyncio.sleep(0.1)
        for report in reports.values():
            assert (report.status, report.error_message) == ("completed", None), report
            assert report.completed_images == report.total_images

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Database]:
        database = Database(self.database.owner_url)
        try:
            yield database
        finally:
            await database.aclose()


@dataclass(frozen=True)
class Site(Client):
    """A running installation."""

    stack: Stack
    #: connections that the role had at each look of `make_jobs`
    connections: list[int] = field(default_factory=list)

    async def make_jobs(self, count: int) -> list[UUID]:
        """Order sample jobs as the web app does, and wait until all are made."""
        jobs = await self.order(count)
        await self.wait_until_made(jobs, look=self._look)
        return jobs

    def _look(self) -> None:
        self.connections.append(self.database.connections())
        self.stack.check()


def quel(*words: object, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "quel_dagster.cli.main", *map(str, words)],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
        cwd=environment.get("QUEL_HOME", "/"),
        timeout=4 * HANG_SECONDS,
    )


def site_settings(home: Path, around: Surroundings, *, url: str, redis_url: str, **more: Any) -> Settings:
    """Return the settings of an installation with servers elsewhere, each given by its URL alone."""
    return Settings.read(
        _env_file=None,
        database_url=url,
        redis_url=redis_url,
        supabase_url=around.store_url,
        supabase_service_key=SERVICE_KEY,
        storage_base_url=f"{around.store_url}/storage/v1/object/public/attachments/",
        gemini_base_url=around.gemini.url,
        gemini_api_key=GEMINI_KEY,
        image_per_price=PRICE,
        home=home / "quel",
        workers=2,
        **more,
    )


@contextmanager
def site(
    home: Path,
    database: SharedDatabase,
    *,
    url: str,
    redis_url: str,
    around: Surroundings | None = None,
    only: Collection[str] | None = None,
    **more: Any,
) -> Iterator[Site]:
    """An installation on servers elsewhere, each reached by its URL alone.

    Args:
        database: the shared one.
        url: how the installation reaches it.
        redis_url: of an empty Redis.
        around: a Gemini and an object store that outlive the installation; by default it has its own.
        only: names of the services to run.
    """
    with ExitStack() as exits:
        around = around or exits.enter_context(surroundings(home))
        settings = site_settings(home, around, url=url, redis_url=redis_url, **more)
        with Stack(settings, restart=True, echo=print, only=only) as stack:
            yield Site(database, settings, stack)


async def check_whole(running: Site, *secrets: str) -> None:
    """Assert that jobs are made and charged, every tool sees them, and no secret is printed."""
    before = running.database.tables("public")
    jobs = await running.make_jobs(3)
    assert running.database.tables("public") == before, "something was created among the web app's tables"

    kept, counted = median(running.connections), connections_needed(running.settings)
    assert kept <= counted, f"doctor counts {counted} connections, and {kept} are kept open"
    assert max(running.connections) <= counted + MOMENTARY

    doctor = running.quel("doctor", "--json")
    assert "failed" not in findings(doctor), findings(doctor)["failed"]
    assert doctor.returncode == 0
    shown = ""
    for words in (("status", jobs[0]), ("list",), ("audit", "--grace", "0"), ("show", jobs[0])):
        done = running.quel(*words)
        shown = done.stdout
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert "could not be looked at" not in done.stdout
        assert not {secret for secret in (PASSWORD, *secrets) if secret in done.stdout + done.stderr}
    assert "SUCCESS" in shown.upper(), "show does not see the runs"


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """What `quel doctor --json` said, by result."""
    by_result: dict[str, list[str]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        line = f"{finding['part']}: {finding['said']}; {finding['remedy']}"
        by_result.setdefault(finding["result"], []).append(line)
    return by_result
