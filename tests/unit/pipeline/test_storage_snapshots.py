"""A snapshot is read once; one that is not there is asked for again."""

from __future__ import annotations

from uuid import uuid4

import pytest
from dagster_postgres.run_storage import PostgresRunStorage

from quel_dagster.pipeline.storage_snapshots import KEPT, read_once


class Snapshots:
    def __init__(self) -> None:
        self.there: set[str] = set()
        self.read: list[str] = []

    def get(self, snapshot_id: str) -> str | None:
        self.read.append(snapshot_id)
        return f"snapshot {snapshot_id}" if snapshot_id in self.there else None


@pytest.fixture
def snapshots() -> Snapshots:
    return Snapshots()


def test_one_that_was_found_is_not_read_again(snapshots: Snapshots) -> None:
    url = str(uuid4())
    snapshots.there = {"a"}
    assert [read_once(snapshots.get, url, "plan")("a") for _ in range(3)] == ["snapshot a"] * 3
    assert snapshots.read == ["a"]


def test_one_that_is_not_there_yet_is_found_when_it_is(snapshots: Snapshots) -> None:
    get = read_once(snapshots.get, str(uuid4()), "plan")
    assert get("a") is None
    snapshots.there = {"a"}
    assert get("a") == "snapshot a"


def test_another_database_and_another_kind_are_asked_themselves(snapshots: Snapshots) -> None:
    url = str(uuid4())
    snapshots.there = {"a"}
    read_once(snapshots.get, url, "plan")("a")
    assert read_once(Snapshots().get, url, "job")("a") is None
    assert read_once(Snapshots().get, str(uuid4()), "plan")("a") is None


def test_what_was_asked_for_last_is_kept(snapshots: Snapshots) -> None:
    names = [str(number) for number in range(KEPT + 1)]
    snapshots.there = {*names}
    get = read_once(snapshots.get, str(uuid4()), "plan")
    for name in names[:KEPT]:
        get(name)
    get(names[0])
    get(names[KEPT])
    snapshots.read.clear()
    assert get(names[0])
    assert get(names[1])
    assert snapshots.read == [names[1]]


def test_dagster_still_reads_them_under_these_names() -> None:
    assert callable(PostgresRunStorage.get_job_snapshot)
    assert callable(PostgresRunStorage.get_execution_plan_snapshot)
