"""The command line in this process, over a real PostgreSQL, a real Redis, a folder of objects and Dagster's storage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from typer.testing import CliRunner

from quel_dagster.adapters.queue import JobQueue
from quel_dagster.cli.main import app
from quel_dagster.services.endpoints import Endpoints
from tests.integration.conftest import PRICE

WEB_UI = "http://quel.example:3000"


@dataclass(frozen=True)
class Answer:
    """The output of a command, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> Answer:
        assert self.code == 0, self
        assert self.err == ""
        return self

    def wrong(self, code: int = 1) -> Answer:
        """It failed, with one line at most, and that a readable one."""
        assert self.code == code, self
        assert "Traceback" not in self.out + self.err
        if code == 1:
            assert self.err.count("\n") <= 1
            assert self.err == "" or self.err.startswith("quel: ")
        return self


class Quel:
    """`await quel("status", job_id)`."""

    async def __call__(self, *words: object, stdin: str | None = None) -> Answer:
        return await asyncio.to_thread(self.now, *words, stdin=stdin)

    @staticmethod
    def now(*words: object, stdin: str | None = None) -> Answer:
        result = CliRunner().invoke(app, [str(word) for word in words], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def variables(
    endpoints: Endpoints, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    """The environment of an operator's shell."""
    values = {
        **endpoints.environment(),
        "REDIS_URL": redis_url,
        "STORAGE_URL": (tmp_path / "objects").as_uri(),
        "IMAGE_PER_PRICE": str(PRICE),
        "QUEL_WEBSERVER_URL": WEB_UI,
        "QUEL_HOME": str(tmp_path),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return values


@pytest.fixture
def quel(variables: Mapping[str, str]) -> Quel:
    return Quel()


@pytest.fixture
def queue(variables: Mapping[str, str]) -> Iterator[JobQueue]:
    opened = JobQueue(variables["REDIS_URL"])
    yield opened
    opened.close()


@dataclass(frozen=True)
class Runs:
    """Makes runs in Dagster's storage, as the sensor would."""

    instance: DagsterInstance

    def add(self, job_id: UUID, status: DagsterRunStatus = DagsterRunStatus.SUCCESS, **tags: str) -> str:
        tags = {"quel/job_id": str(job_id), **{name.replace("__", "/"): value for name, value in tags.items()}}
        origin = RemoteJobOrigin(
            RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("quel"), "__repository__"), "image_job"
        )
        run = DagsterRun(job_name="image_job", status=status, tags=tags, remote_job_origin=origin)
        return self.instance.add_run(run).run_id


@pytest.fixture(scope="module")
def _dagster(endpoints: Endpoints) -> Iterator[DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in endpoints.environment().items():
            patch.setenv(name, value)
        with DagsterInstance.get() as instance:
            yield instance


@pytest.fixture
def runs(_dagster: DagsterInstance, variables: Mapping[str, str]) -> Runs:
    return Runs(_dagster)
