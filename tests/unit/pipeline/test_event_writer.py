"""Rows are written in order, several at a time, and all of them, whatever becomes of single tries."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from quel_dagster.pipeline.event_writer import EventWriter, Row


def away() -> OperationalError:
    return OperationalError("insert", {}, Exception("the server is starting"))


class Table:
    """Takes rows; refuses the first `refusals` tries."""

    def __init__(self, refusals: int = 0) -> None:
        self.batches: list[list[int]] = []
        self._refusals = refusals

    def write(self, rows: Sequence[Row]) -> None:
        if self._refusals:
            self._refusals -= 1
            raise away()
        self.batches.append([row["number"] for row in rows])

    @property
    def rows(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


@contextmanager
def writing(table: Table, **options: float) -> Iterator[EventWriter]:
    writer = EventWriter(table.write, **options)
    yield writer
    writer.close()


def test_what_is_said_in_a_row_is_written_at_once_and_in_order() -> None:
    table = Table()
    with writing(table, gather_seconds=30) as writer:
        for number in range(100):
            writer.add({"number": number})
        writer.flush()
        assert table.rows == list(range(100))
        assert len(table.batches) <= 2, "a thread may have woken after the first"


def test_nobody_has_to_ask() -> None:
    written = threading.Event()
    writer = EventWriter(lambda _rows: written.set(), gather_seconds=0.01)
    writer.add({"number": 1})
    assert written.wait(30)
    writer.close()


def test_rows_that_come_after_a_flush_are_written_too() -> None:
    table = Table()
    with writing(table, gather_seconds=0) as writer:
        for number in range(50):
            writer.add({"number": number})
            if number % 7 == 0:
                writer.flush()
                assert table.rows[-1] == number
    assert table.rows == list(range(50)), "closing writes the rest"


def test_flushing_nothing_returns() -> None:
    with writing(Table(), gather_seconds=30) as writer:
        writer.flush()


def test_a_database_that_is_away_for_a_moment_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quel_dagster.pipeline.outages.PAUSE_SECONDS", 0.01)
    table = Table(refusals=3)
    with writing(table, gather_seconds=0) as writer:
        writer.add({"number": 1})
        writer.flush()
    assert table.rows == [1]


def test_a_database_that_stays_away_is_told_once_to_whoever_comes_next() -> None:
    table = Table(refusals=1)
    with writing(table, gather_seconds=0, retry_seconds=0) as writer:
        writer.add({"number": 1})
        with pytest.raises(OperationalError, match="starting"):
            writer.flush()
        writer.add({"number": 2})
        writer.flush()
    assert table.rows == [2]


@pytest.mark.parametrize("error", [DagsterPostgresException("too many retries"), ValueError("no such column")])
def test_no_failure_of_any_kind_leaves_whoever_asks_waiting(error: Exception) -> None:
    def write(_rows: Sequence[Row]) -> None:
        raise error

    writer = EventWriter(write, gather_seconds=0, retry_seconds=0)
    for number in range(2):
        writer.add({"number": number})
        with pytest.raises(type(error)):
            writer.flush()
    writer.close()
