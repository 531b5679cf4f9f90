"""A whole system for each test: an empty database, an empty Redis, a folder of objects, a Dagster instance.

Its jobs are made with the real functions, its objects are real pictures, and its runs are real runs.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from PIL import Image

from quel_dagster.adapters.database.records import Claim
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.jobs.model import JobStatus, Slot
from quel_dagster.jobs.storage_keys import new_picture_key
from quel_dagster.pipeline.audit import AuditReport, Sources, audit
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.preparation import install_schema
from quel_dagster.settings import Settings
from tests.integration.conftest import PRICE, Look, NewlyMade, Office, events_in_one_file


@pytest.fixture(scope="session")
def audited_database(endpoints: Endpoints) -> str:
    """URL of a database beside that of the other tests, with every table."""
    with _connected(endpoints.database_url) as server:
        server.execute("create database audited")
    url = _url_of(endpoints, "audited")
    install_schema(url, web_app_tables=True)
    return url


@pytest.fixture
def database_url(audited_database: str) -> str:
    """The same, with no row."""
    with _connected(audited_database) as connection:
        connection.execute(
            "truncate public.quel_member, public.quel_organization, public.quel_attach, public.quel_production_photo,"
            " quel_dagster.job_lease, quel_dagster.job_cancel, quel_dagster.picture_slot, quel_dagster.orphan_object,"
            " quel_dagster.job_death, quel_dagster.job_recovery restart identity cascade"
        )
    return audited_database


def _connected(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url, autocommit=True)


def _url_of(endpoints: Endpoints, database: str) -> str:
    url = DatabaseUrl.parse(endpoints.database_url).url.set(drivername="postgresql", database=database)
    return url.render_as_string(hide_password=False)


@pytest.fixture
def unprepared_database_url(endpoints: Endpoints) -> str:
    """A database without the tables of this project and of the web app."""
    return _url_of(endpoints, "postgres")


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def store(objects: Path) -> ObjectStore:
    return open_store(Settings.read(storage_url=objects.as_uri(), _env_file=None))


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """Tests tell their runs apart by the ids of their jobs."""
    folder = tmp_path_factory.mktemp("dagster")
    with DagsterInstance.local_temp(str(folder), overrides=events_in_one_file(folder)) as instance:
        yield instance


@pytest.fixture
def house(office: Office, queue: JobQueue, store: ObjectStore, instance: DagsterInstance, objects: Path) -> House:
    return House(office, Sources(database=office.database, queue=queue, store=store, instance=instance), objects)


@dataclass
class Made(NewlyMade):
    """A job with its pictures."""

    run_id: str = ""
    attach_ids: tuple[int, ...] = ()
    #: of its objects, in slot order
    keys: list[str] = field(default_factory=list)


@dataclass
class House:
    """A system at work, and its audit."""

    office: Office
    sources: Sources
    objects: Path

    @property
    def sql(self) -> Look:
        return self.office.sql

    @property
    def store(self) -> ObjectStore:
        assert self.sources.store is not None
        return self.sources.store

    @property
    def instance(self) -> DagsterInstance:
        assert self.sources.instance is not None
        return self.sources.instance

    @property
    def queue(self) -> JobQueue:
        assert self.sources.queue is not None
        return self.sources.queue

    async def audit(self, *, without: str | None = None, **options: Any) -> AuditReport:
        """Impatient: nothing that stays wrong for a moment is taken for being in motion."""
        waits = {"grace_seconds": 0.0, "entry_seconds": 0.2, "confirm_seconds": 0.05}
        left_out: dict[str, Any] = {without: None} if without else {}
        sources = replace(self.sources, **left_out)
        return await audit(sources, **{"price": PRICE, **waits, **options})

    def object_path(self, key: str) -> Path:
        """The file of an object."""
        return self.objects / key

    # --- jobs, made as a run makes them --------------------------------------------------------------

    async def finished(
        self,
        total: int = 2,
        *,
        made: int | None = None,
        status: JobStatus = JobStatus.COMPLETED,
        ended: DagsterRunStatus = DagsterRunStatus.SUCCESS,
        **job: Any,
    ) -> Made:
        """A job that has ended, `made` of its pictures made, with the run that made them."""
        begun = await self.office.job(total, **job)
        run_id = run(self.instance, begun.job_id, ended)
        claim = await self.office.processing(begun, run_id=run_id)
        attach_ids = [await self.picture(begun, claim, number) for number in range(total if made is None else made)]
        if status is JobStatus.USER_CANCELLED:
            await self.office.database.work.keep_cancel(begun.job_id)
        error = "it failed" if status is JobStatus.FAILED else None
        await self.office.database.work.settle(
            begun.job_id, claim.token, status=status, total=total, error=error, inputs=0
        )
        return Made(**vars(begun), run_id=run_id, attach_ids=tuple(attach_ids), keys=await self.keys(begun.job_id))

    async def picture(self, job: NewlyMade, claim: Claim, number: int) -> int:
        """Upload and commit the picture of one slot."""
        slot = Slot(unit=0, number=number)
        key = new_picture_key(job.member_id, job.job_id, slot)
        await self.office.database.work.reserve(job.job_id, claim.token, slot, key=key, price=PRICE)
        await self.store.put(key, PICTURE, content_type="image/webp")
        committed = await self.office.database.work.commit_picture(
            job.job_id,
            claim.token,
            slot,
            key=key,
            size=len(PICTURE),
            sha256=hashlib.sha256(PICTURE).hexdigest(),
            storage="file",
            price=PRICE,
            total=job.total,
        )
        return committed.attach_id

    async def keys(self, job_id: UUID) -> list[str]:
        """The storage keys of a job's pictures, in slot order."""
        rows = await self.sql.all(
            "select object_key from quel_dagster.picture_slot where job_id = %s order by unit, number", job_id
        )
        return [row["object_key"] for row in rows]

    async def at_work(self, *, seconds: float = 30.0, made: int = 1) -> Made:
        """A job in processing, with a lease of a live run."""
        begun = await self.office.job(2)
        run_id = live_run(self.instance, begun.job_id)
        claim = await self.office.database.work.claim(begun.job_id, run_id=run_id, worker="test:1", seconds=seconds)
        assert claim is not None
        await self.office.database.work.begin(begun.job_id, claim.token, price=PRICE)
        attach_ids = [await self.picture(begun, claim, number) for number in range(made)]
        return Made(**vars(begun), run_id=run_id, attach_ids=tuple(attach_ids), keys=await self.keys(begun.job_id))


# --- runs ----------------------------------------------------------------------------------------------


_EVENTS = {
    DagsterRunStatus.SUCCESS: DagsterEventType.RUN_SUCCESS,
    DagsterRunStatus.FAILURE: DagsterEventType.RUN_FAILURE,
    DagsterRunStatus.CANCELED: DagsterEventType.RUN_CANCELED,
}


def run(
    instance: DagsterInstance,
    job_id: UUID,
    ended: DagsterRunStatus = DagsterRunStatus.SUCCESS,
    *,
    started: bool = True,
    tags: Mapping[str, str] | None = None,
) -> str:
    """A run that has ended."""
    run_id = live_run(instance, job_id, DagsterRunStatus.NOT_STARTED, tags)
    for event in [DagsterEventType.RUN_START, _EVENTS[ended]] if started else [_EVENTS[ended]]:
        instance.report_dagster_event(DagsterEvent(event_type_value=event.value, job_name="image_job"), run_id)
    return run_id


def live_run(
    instance: DagsterInstance,
    job_id: UUID,
    status: DagsterRunStatus = DagsterRunStatus.STARTED,
    tags: Mapping[str, str] | None = None,
) -> str:
    """A live or queued run."""
    made = instance.add_run(
        DagsterRun(job_name="image_job", status=status, tags={"quel/job_id": str(job_id), **(tags or {})})
    )
    return made.run_id


def _picture(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "WEBP")
    return out.getvalue()


PICTURE = _picture("red")
