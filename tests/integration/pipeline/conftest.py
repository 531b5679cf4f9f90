"""Dagster in this process: an instance in a folder of its own, the engine of this process, and a desk for jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from dagster import DagsterInstance
from dagster._core.instance import InstanceRef

from quel_dagster.adapters.database.process import DatabaseProcess
from quel_dagster.adapters.database.store import Database
from quel_dagster.engine.process import EngineProcess
from quel_dagster.platform.storage_connections import close_connections
from quel_dagster.services.endpoints import Endpoints
from tests.integration.conftest import Look, NewlyMade, Office

OURS = (
    "storage: {custom: {module: quel_dagster.platform.storage, class: InstanceStorage, "
    "config: {url_from: DAGSTER_POSTGRES_URL}}}\n"
    "instance_class: {module: quel_dagster.platform.instance, class: QuelInstance}\n"
)
DAGSTERS = "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}\n"


@pytest.fixture(scope="session")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dagster's storage, in files that another process can open too; its tables take two seconds to make."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return home


@pytest.fixture(scope="session")
def instance(dagster_home: Path) -> Iterator[DagsterInstance]:
    """One instance for all tests of this process; each test reads only its own runs."""
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance


@pytest.fixture
def opened(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], DagsterInstance]]:
    """Opens Dagster's instance on PostgreSQL, with the storage of its argument: OURS or DAGSTERS."""
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", endpoints.dagster_postgres_url)
    with ExitStack() as exits:

        def open_instance(storage: str) -> DagsterInstance:
            folder = tmp_path / str(len(storage))
            folder.mkdir()
            (folder / "dagster.yaml").write_text(storage + "telemetry: {enabled: false}\n")
            return exits.enter_context(DagsterInstance.from_ref(InstanceRef.from_dir(str(folder))))

        yield open_instance
    close_connections()


@pytest.fixture
def worker(environment: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """This process as a worker: the engine opens when it is first asked for; returns its environment."""
    yield environment
    if EngineProcess._current is not None:
        EngineProcess._current.close()
    if DatabaseProcess._current is not None:
        DatabaseProcess._current.close()


@pytest.fixture
def desk(worker: Mapping[str, str]) -> Desk:
    return Desk(worker["DATABASE_URL"])


class Desk:
    """The office for tests that are not async, as Dagster's calls are not: each call has its own event loop."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, work: Callable[[Office], Any]) -> Any:
        async def run() -> Any:
            database = Database(self._url)
            async with await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, row_factory=psycopg.rows.dict_row
            ) as connection:
                office = Office(database, Look(connection))
                office.opening = self.opening
                try:
                    return await work(office)
                finally:
                    await database.aclose()

        with ThreadPoolExecutor(1) as thread:  # Dagster may have a loop in this one
            return thread.submit(asyncio.run, run()).result()

    opening: dict[UUID, int] = {}  # noqa: RUF012  shared: who had what at first

    def job(self, *args: Any, **kwargs: Any) -> NewlyMade:
        made: NewlyMade = self.call(lambda office: office.job(*args, **kwargs))
        return made

    def row(self, job: NewlyMade) -> dict[str, Any]:
        row: dict[str, Any] = self.call(lambda office: office.sql.job(job.job_id))
        return row

    def production(self, job: NewlyMade) -> dict[str, Any]:
        row: dict[str, Any] = self.call(lambda office: office.sql.production(job.production_id))
        return row

    def all(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.call(lambda office: office.sql.all(statement, *parameters))
        return rows

    def check_books(self, job: NewlyMade) -> None:
        self.call(lambda office: office.check_books(job))
