"""Rows are written in order, in batches, and completely, also when single attempts fail."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.errors import QuelError
from quel_dagster.platform import event_writer, outages
from quel_dagster.platform.event_writer import EventWriter


def unreachable() -> OperationalError:
    return OperationalError("insert", {}, Exception("the server is starting"))


class Table:
    """Takes rows; refuses the first `refusals` tries."""

    def __init__(self, refusals: int = 0) -> None:
        self.batches: list[list[int]] = []
        self._refusals = refusals

    def write(self, rows: Sequence[int]) -> None:
        if self._refusals:
            self._refusals -= 1
            raise unreachable()
        self.batches.append(list(rows))

    @property
    def rows(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


@contextmanager
def writing(table: Table, **options: float) -> Iterator[EventWriter[int]]:
    writer = EventWriter[int](table.write, **options)
    yield writer
    writer.close()


def test_events_in_a_row_are_written_in_one_batch_in_order() -> None:
    table = Table()
    with writing(table, gather_seconds=30) as writer:
        for number in range(100):
            writer.add("r", number)
        writer.flush("r")
        assert table.rows == list(range(100))
        assert len(table.batches) <= 2, "a thread may have woken after the first"


def test_rows_are_written_without_a_flush() -> None:
    written = threading.Event()
    writer = EventWriter[int](lambda _rows: written.set(), gather_seconds=0.01)
    writer.add("r", 1)
    assert written.wait(30)
    writer.close()


def test_rows_that_come_after_a_flush_are_written_too() -> None:
    table = Table()
    with writing(table, gather_seconds=0) as writer:
        for number in range(50):
            writer.add("r", number)
            if number % 7 == 0:
                writer.flush("r")
                assert table.rows[-1] == number
    assert table.rows == list(range(50)), "closing writes the rest"


def test_flushing_nothing_returns() -> None:
    with writing(Table(), gather_seconds=30) as writer:
        writer.flush("r")


def test_short_outage_of_the_database_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "POSTGRESQL", RetryPolicy(first_pause=0.01, longest_pause=0.01))
    table = Table(refusals=3)
    with writing(table, gather_seconds=0) as writer:
        writer.add("r", 1)
        writer.flush("r")
    assert table.rows == [1]


def test_long_outage_is_raised_once_to_the_next_caller() -> None:
    table = Table(refusals=1)
    with writing(table, gather_seconds=0, retry_seconds=0) as writer:
        writer.add("r", 1)
        with pytest.raises(OperationalError, match="starting"):
            writer.flush("r")
        writer.add("r", 2)
        writer.flush("r")
    assert table.rows == [2]


@pytest.mark.parametrize("error", [DagsterPostgresException("too many retries"), ValueError("no such column")])
def test_every_failure_ends_the_wait_of_callers(error: Exception) -> None:
    def write(_rows: Sequence[int]) -> None:
        raise error

    writer = EventWriter[int](write, gather_seconds=0, retry_seconds=0)
    for number in range(2):
        writer.add("r", number)
        with pytest.raises(type(error)):
            writer.flush("r")
    writer.close()


def test_failed_value_is_raised_to_its_run_and_its_neighbour_is_written() -> None:
    failed: Future[None] = Future()
    failed.set_exception(OSError("the disk is full"))
    event_writer._values["r"] = deque([failed])
    table = Table()
    with writing(table, gather_seconds=30) as writer:
        writer.add("r", 1)
        writer.add("other", 2)
        writer.flush("other")
        assert table.rows == [2]
        with pytest.raises(QuelError, match="the disk is full"):
            writer.add("r", 3)
