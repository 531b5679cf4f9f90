"""A source that is not given, or does not answer, leaves its invariants undone."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.retry_policy import OBJECT_STORE
from quel_dagster.adapters.storage.listing import StoredObject
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.errors import QuelError, StorageUnavailableError
from quel_dagster.pipeline.audit import INVARIANTS, Sources, audit
from quel_dagster.settings import Settings
from tests.integration.audit.conftest import House


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("without", "undone"),
    [("queue", {"I10", "I11"}), ("store", {"I12"}), ("instance", {"I10", "I11", "I14"})],
)
async def test_what_needs_a_missing_source_is_not_done(house: House, without: str, undone: set[str]) -> None:
    await house.finished()

    report = await house.audit(without=without)

    assert {finding.code for finding in report.findings if finding.not_done} == undone
    assert {finding.code for finding in report.findings if finding.held} == set(INVARIANTS) - undone
    assert report.clean
    assert not report.complete


async def test_an_audit_with_only_a_database_url(house: House, database_url: str) -> None:
    await house.finished()

    report = await audit(Sources(database=database_url))

    assert report.clean
    assert {finding.code for finding in report.findings if finding.not_done} == {"I10", "I11", "I12", "I14"}


async def test_unreachable_redis_leaves_its_invariants_undone(house: House, closed_port: int) -> None:
    house.sources = replace(house.sources, queue=JobQueue(f"redis://127.0.0.1:{closed_port}/0"))

    report = await house.audit()

    assert {finding.code for finding in report.findings if finding.not_done} == {"I10", "I11"}
    assert "check REDIS_URL" in (report["I10"].not_done or "")


async def test_unreachable_store_is_no_breach(house: House, closed_port: int) -> None:
    await house.finished(3)
    settings = Settings.read(
        storage_url=f"s3://bucket?endpoint=http://127.0.0.1:{closed_port}&region=us-east-1",
        aws_access_key_id="AKIACANARY77",
        aws_secret_access_key="secret-canary",
        _env_file=None,
    )
    house.sources = replace(house.sources, store=open_store(settings, retry_policy=replace(OBJECT_STORE, attempts=1)))

    finding = (await house.audit())["I12"]

    assert finding.breaches == ()
    assert finding.checked == 0
    assert finding.not_done is not None
    assert finding.not_done.startswith("3 of 3 objects could not be read: ")


async def test_a_failed_second_check_is_neither_breach_nor_held(house: House) -> None:
    job = await house.finished(1)
    house.object_path(job.keys[0]).unlink()

    @dataclass
    class ThenUnreachable:
        store: ObjectStore
        calls: int = 0

        async def get(self, key: str, *, max_bytes: int) -> bytes:
            self.calls += 1
            if self.calls > 1:
                raise StorageUnavailableError("the store does not answer")
            return await self.store.get(key, max_bytes=max_bytes)

        def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
            return self.store.list(prefix)

    house.sources = replace(house.sources, store=ThenUnreachable(house.store))  # type: ignore[arg-type]

    finding = (await house.audit())["I12"]

    assert finding.breaches == ()
    assert finding.not_done == "1 of 1 objects could not be read: the store does not answer"


async def test_unreachable_postgresql_is_one_readable_line(closed_port: int) -> None:
    with pytest.raises(QuelError, match=r"PostgreSQL did not answer the audit .*check DATABASE_URL") as caught:
        await audit(Sources(database=f"postgresql://user:canary@127.0.0.1:{closed_port}/quel"))
    assert "canary" not in str(caught.value)


async def test_database_without_the_schema_is_reported(unprepared_database_url: str) -> None:
    with pytest.raises(QuelError, match="no schema quel_dagster"):
        await audit(Sources(database=unprepared_database_url))


async def test_the_report_goes_into_json_and_back(house: House) -> None:
    await house.finished()
    report = await house.audit()

    assert type(report).model_validate_json(report.model_dump_json()) == report
