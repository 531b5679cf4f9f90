"""Two versions of the program on one database, jobs in flight: an upgrade, a restart of the older one, a rollback.

The older one is commit edc6fd1, the last without numbered migrations, taken from this repository's history.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from quel_dagster.adapters.database.records import Taken, Wait
from quel_dagster.adapters.database.store import Database
from quel_dagster.errors import JobPoisonedError, LeaseHeldError, LeaseLostError
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.jobs.storage_keys import new_picture_key
from quel_dagster.services.endpoints import Endpoints
from tests.integration.conftest import PRICE, Look, NewlyMade, Office, eventually
from tests.older_version import unpack_older_version

DRIVER = Path(__file__).with_name("older_driver.py")
TOTAL = 5
#: of every lease here, as in the older driver
LEASE_SECONDS = 2.0
HANG_SECONDS = 120
FUNCTIONS = """
    select oid::regprocedure::text as name, md5(prosrc) as text from pg_proc
    where pronamespace = 'quel_dagster'::regnamespace order by 1
"""
MADE = "select coalesce(sum(completed_images), 0) from quel_production_jobs where job_id = any(%s)"


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the older version."""
    return unpack_older_version(tmp_path_factory.mktemp("older"))


@asynccontextmanager
async def _older_worker(older: Path, url: str, jobs: Sequence[NewlyMade]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker of the older version, at work; killed at the end of the block."""
    names = [str(job.job_id) for job in jobs]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(DRIVER), str(older), url, str(TOTAL), *names),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(HANG_SECONDS):
            began = (await process.stdout.readline()).decode()
        if not began:
            assert process.stderr is not None
            raise AssertionError((await process.stderr.read()).decode())
        assert str(older) in began, "that is not the older version"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait until a worker has found every job ended."""
    async with asyncio.timeout(HANG_SECONDS):
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def _newer_worker(url: str, jobs: Sequence[NewlyMade]) -> None:
    """A worker of this version, as the engine uses the adapter; ends once every job has ended."""
    chance = random.Random()  # noqa: S311 - which job, and where to stop
    database = Database(url)
    await database.installation.ensure_schema()
    open_jobs = list(jobs)
    while open_jobs:
        job = chance.choice(open_jobs)
        report = (await database.jobs.report([job.job_id]))[job.job_id]
        if report.status.ended:
            open_jobs.remove(job)
            continue
        await _run(database, job, stop_after=chance.choice([1, 2, TOTAL, TOTAL]))
        await asyncio.sleep(0.01)
    await database.aclose()


async def _run(database: Database, job: NewlyMade, *, stop_after: int) -> None:
    try:
        claim = await database.work.claim(job.job_id, run_id=uuid4().hex, worker="newer:1", seconds=LEASE_SECONDS)
        if claim is None or claim.poisoned:
            return
        await database.work.begin(job.job_id, claim.token, price=PRICE)
        for number in range(TOTAL):
            if number == len(claim.made) + stop_after:  # never without progress, which would be poison
                return
            slot = Slot(unit=0, number=number)
            key = new_picture_key(job.member_id, job.job_id, slot)
            answer = await database.work.reserve(job.job_id, claim.token, slot, key=key, price=PRICE)
            if isinstance(answer, Wait):
                return
            if not isinstance(answer, Taken):
                await database.work.commit_picture(
                    job.job_id,
                    claim.token,
                    slot,
                    key=key,
                    size=1234,
                    sha256="00" * 32,
                    storage="file",
                    price=PRICE,
                    total=TOTAL,
                )
        await database.work.settle(
            job.job_id, claim.token, status=JobStatus.COMPLETED, total=TOTAL, error=None, inputs=0
        )
    except (LeaseHeldError, LeaseLostError, JobPoisonedError):
        return


async def _check_all(office: Office, sql: Look, jobs: Sequence[NewlyMade]) -> None:
    for job in jobs:
        row = await sql.job(job.job_id)
        assert (row["job_status"], row["completed_images"], row["error_message"]) == ("completed", TOTAL, None), row
    await office.check_books(*jobs)


@pytest.fixture
async def jobs(office: Office) -> list[NewlyMade]:
    """Jobs of two members and of an organization."""
    first, second = await office.member(10_000), await office.member(10_000)
    org_id = await office.organization(second, 10_000)
    made = [await office.job(TOTAL, member_id=first) for _ in range(6)]
    made += [await office.job(TOTAL, member_id=second) for _ in range(3)]
    return made + [await office.job(TOTAL, member_id=second, org_id=org_id) for _ in range(6)]


async def test_two_versions_at_work_lose_double_and_mischarge_nothing(
    older: Path, endpoints: Endpoints, office: Office, sql: Look, jobs: list[NewlyMade]
) -> None:
    before = await sql.all(FUNCTIONS)
    url = endpoints.database_url
    async with _older_worker(older, url, jobs) as first:
        newer = [asyncio.create_task(_newer_worker(url, jobs)) for _ in range(2)]
        async with _older_worker(older, url, jobs):
            await asyncio.sleep(0)  # killed while it works, and started again
        async with _older_worker(older, url, jobs) as restarted:
            async with asyncio.timeout(HANG_SECONDS):
                await asyncio.gather(*newer)
            await _ended(restarted)
        await _ended(first)
    await _check_all(office, sql, jobs)
    assert await sql.all(FUNCTIONS) == before, "the older version replaced functions of the newer one"


async def test_a_rollback_of_the_code_finishes_what_the_newer_version_began(
    older: Path, endpoints: Endpoints, office: Office, sql: Look, jobs: list[NewlyMade]
) -> None:
    """Half of the jobs are begun by this version; then only the older one is there."""
    database = Database(endpoints.database_url)
    for job in jobs[::2]:
        await _run(database, job, stop_after=2)
    await database.aclose()
    async with _older_worker(older, endpoints.database_url, jobs) as alone:
        await _ended(alone)
    await _check_all(office, sql, jobs)


async def test_an_upgrade_finishes_what_the_older_version_began(
    older: Path, endpoints: Endpoints, office: Office, sql: Look, jobs: list[NewlyMade]
) -> None:
    async with _older_worker(older, endpoints.database_url, jobs):
        ids = [job.job_id for job in jobs]
        await eventually(lambda: sql.value(MADE, ids), seconds=HANG_SECONDS)
    async with asyncio.timeout(HANG_SECONDS):
        await _newer_worker(endpoints.database_url, jobs)
    await _check_all(office, sql, jobs)
