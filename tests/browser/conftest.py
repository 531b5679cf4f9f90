"""A separate `quel up` process, a browser, and the web app that pushes jobs."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
import pytest_asyncio
import redis
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright, expect
from playwright.async_api import TimeoutError as PlaywrightTimeout

from quel_dagster.adapters.database.records import NewJob
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.pipeline.summary import DAYS_NAME
from quel_dagster.sandbox.gemini_state import Rule
from quel_dagster.sandbox.samples import reference_pictures
from quel_dagster.sandbox.web_app import FIRST_ATTACH_ID, Accounts, WebApp
from quel_dagster.services.dagster_home import LOCATION
from quel_dagster.services.endpoints import Endpoints, running_endpoints
from quel_dagster.settings import Settings
from tests.browser.browsers import NoBrowserError, start_browser
from tests.integration.conftest import eventually

#: Hang guards, in seconds: what is awaited comes within a few on a quiet machine.
START, HANG = 180.0, 90.0
PRICE = 20
WIDTH, HEIGHT = 1400, 900
COLOURS = 128
RESTLESS_MS = 5_000


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when this folder is named on the command line, as `make tour` does."""
    parser.addoption("--tour", type=Path, help="folder for the screenshots; without it none are taken")


@dataclass(frozen=True)
class Installation:
    """The running `quel up`, from outside."""

    endpoints: Endpoints
    web_app: WebApp
    accounts: Accounts
    references: dict[str, int]

    @property
    def url(self) -> str:
        return self.endpoints.webserver_url

    async def job(
        self,
        prompt: str,
        *,
        cameras: Sequence[tuple[str, str]] = (("front", "full"),),
        quantity: int = 1,
        more: dict[str, Any] | None = None,
    ) -> UUID:
        """The rows of a fashion job, some pictures for each camera; nothing is pushed."""
        job_id, _ = await self.web_app.database.web_app.insert_job(
            NewJob(
                job_type="single_batch",
                total_images=quantity * len(cameras),
                input_data={
                    "userId": str(self.accounts.member_id),
                    "basePrompt": prompt,
                    "individualImageAttachIds": [
                        {"attachId": float(self.references[name]), "type": name} for name in ("model", "top")
                    ],
                    "combinations": [{"angle": angle, "shot": shot, "quantity": quantity} for angle, shot in cameras],
                    "aspect-ratio": "3:4",
                    **(more or {}),
                },
                path="fashion",
                member_id=self.accounts.member_id,
                org_id=self.accounts.org_id,
                name=prompt[:40],
            ),
            price=PRICE,
        )
        return job_id

    def push(self, *values: object) -> None:
        """Push all of them with one LPUSH."""
        with redis.Redis.from_url(self.endpoints.redis_url) as client:
            client.lpush("jobs:queue", *map(str, values))

    async def row(self, job_id: UUID) -> dict[str, Any]:
        url = self.endpoints.database_url
        async with await psycopg.AsyncConnection.connect(url, row_factory=psycopg.rows.dict_row) as connection:
            cursor = await connection.execute(
                "select job_status::text, completed_images, failed_images, error_message, production_id"
                " from quel_production_jobs where job_id = %s",
                (job_id,),
            )
            row = await cursor.fetchone()
        assert row is not None
        return row

    async def reaches(self, job_id: UUID, *, completed_images: int) -> None:
        """Return when so many pictures are there."""
        async with asyncio.timeout(HANG):
            while True:
                if (await self.row(job_id))["completed_images"] >= completed_images:
                    return
                await asyncio.sleep(0.2)

    async def ended(self, job_id: UUID) -> dict[str, Any]:
        """The job's row once it has ended."""
        async with asyncio.timeout(HANG):
            while True:
                row = await self.row(job_id)
                if row["job_status"] not in {"pending", "processing"}:
                    return row
                await asyncio.sleep(0.2)

    async def graphql(self, query: str, **variables: Any) -> Any:
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.post(f"{self.url}/graphql", json={"query": query, "variables": variables})
        return answer.raise_for_status().json()["data"]

    async def runs(self, job_id: UUID) -> list[str]:
        """The ids of a job's runs, newest first, as soon as there is one."""
        query = "query($f: RunsFilter) {runsOrError(filter: $f) {... on Runs {results {runId}}}}"
        found: list[str] = []
        async with asyncio.timeout(HANG):
            while not found:
                tags = [{"key": "quel/job_id", "value": str(job_id)}]
                data = await self.graphql(query, f={"tags": tags})
                found = [run["runId"] for run in data["runsOrError"]["results"]]
                await asyncio.sleep(0 if found else 0.1)
        return found

    async def sum_up(self, day: str) -> None:
        """Have the summary of a day made, as the schedule does after midnight."""
        where = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}
        await self.graphql(
            "mutation($w: RepositorySelector!, $d: String!) {addDynamicPartition(repositorySelector: $w,"
            f' partitionsDefName: "{DAYS_NAME}", partitionKey: $d) {{__typename}}}}',
            w=where,
            d=day,
        )
        launch = (
            "mutation($p: ExecutionParams!) {launchPipelineExecution(executionParams: $p)"
            " {... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}"
        )
        params = {
            "selector": {**where, "jobName": "daily_summary_job"},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": day}]},
        }
        run_id = (await self.graphql(launch, p=params))["launchPipelineExecution"]["run"]["runId"]
        query = "query($r: ID!) {runOrError(runId: $r) {... on Run {status}}}"
        async with asyncio.timeout(HANG):
            while (status := (await self.graphql(query, r=run_id))["runOrError"]["status"]) != "SUCCESS":
                assert status not in {"FAILURE", "CANCELED"}, f"the summary of {day} ended {status}"
                await asyncio.sleep(0.2)

    async def has_tag(self, run_id: str, tag: str) -> None:
        """Return when the run has this tag."""
        query = "query($r: ID!) {runOrError(runId: $r) {... on Run {tags {key}}}}"

        async def tagged() -> bool:
            return {"key": tag} in (await self.graphql(query, r=run_id))["runOrError"]["tags"]

        await eventually(tagged, seconds=HANG, pause=0.2)

    async def succeeded(self, job_name: str) -> None:
        """Return when a run of this Dagster job has succeeded."""
        query = "query($f: RunsFilter) {runsOrError(filter: $f) {... on Runs {results {runId}}}}"

        async def done() -> bool:
            data = await self.graphql(query, f={"pipelineName": job_name, "statuses": ["SUCCESS"]})
            return bool(data["runsOrError"]["results"])

        await eventually(done, seconds=HANG, pause=0.2)

    async def queued(self) -> set[str]:
        """The runs that wait for a slot."""
        data = await self.graphql("{runsOrError(filter: {statuses: [QUEUED]}) {... on Runs {results {runId}}}}")
        return {run["runId"] for run in data["runsOrError"]["results"]}

    async def gemini(self, *rules: Rule, latency: float = 0.0) -> None:
        """Set the behaviour of the stand-in; without rules it makes every picture."""
        async with httpx.AsyncClient(base_url=str(self.endpoints.gemini_base_url), timeout=30) as client:
            (await client.post("/control/reset")).raise_for_status()
            (await client.post("/control/latency", json={"seconds": latency})).raise_for_status()
            if rules:
                body = [rule.model_dump(mode="json") for rule in rules]
                (await client.post("/control/rules", json=body)).raise_for_status()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        try:
            started = await start_browser(playwright)
        except NoBrowserError as error:
            pytest.skip(str(error))
        yield started
        await started.close()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def folder() -> AsyncIterator[Path]:
    # not pytest's own, which is closed to the user that PostgreSQL runs as where this is root
    with tempfile.TemporaryDirectory(prefix="quel-browser-", ignore_cleanup_errors=True) as made:
        os.chmod(made, 0o711)  # noqa: PTH101, S103 - its contents are private
        yield Path(made)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def installation(browser: Browser, folder: Path) -> AsyncIterator[Installation]:
    home = folder / "home"
    environment = {
        **os.environ,
        "QUEL_HOME": str(home),
        "QUEL_WORKERS": "2",
        "QUEL_WARN_QUEUE_SECONDS": "1",
        "IMAGE_PER_PRICE": str(PRICE),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quel_dagster.cli.main", "up", "--port", "0"),
        cwd=folder,  # a developer's .env stays out
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START):
            said = b""
            while b"Everything is ready" not in said:
                line = await process.stdout.readline()
                said += line
                assert line, f"quel up ended: {said.decode()}"
        drained = asyncio.create_task(process.stdout.read())
        where = running_endpoints(Settings.read(_env_file=None, home=home))
        database = Database(where.database_url)
        store = open_store(Settings.read(_env_file=None, storage_url=where.storage_url))
        try:
            web_app = WebApp(database, store, PRICE)
            await database.web_app.start_attach_ids_at(FIRST_ATTACH_ID)
            accounts = await web_app.open_accounts(member_credit=1_000, org_credit=10_000)
            pictures = reference_pictures()
            references = await web_app.upload({name: pictures[name] for name in ("model", "top")})
            yield Installation(where, web_app, accounts, references)
        finally:
            await store.aclose()
            await database.aclose()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG):
            await process.wait()
    await drained
    assert process.returncode == 0


@pytest_asyncio.fixture(loop_scope="package")
async def page(browser: Browser, installation: Installation) -> AsyncIterator[Page]:
    """A visitor with an empty browser profile."""
    context = await browser.new_context(
        base_url=installation.url, viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce"
    )
    context.set_default_timeout(HANG * 1000)
    expect.set_options(timeout=HANG * 1000)
    yield await context.new_page()
    await context.close()


class Camera:
    """Takes the pictures of docs/ui.md, in a palette, so that they stay small; without a folder, none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    async def __call__(self, page: Page, name: str) -> None:
        if self._folder is None:
            return
        with suppress(PlaywrightTimeout):  # a page that never rests is taken as it is
            await page.wait_for_load_state("networkidle", timeout=RESTLESS_MS)
        data = await page.screenshot(animations="disabled")
        with Image.open(io.BytesIO(data)) as image:
            small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(self._folder / f"{name}.png", optimize=True)


@pytest.fixture
def camera(request: pytest.FixtureRequest) -> Camera:
    folder: Path | None = request.config.getoption("--tour", None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return Camera(folder)
