"""Rows are written in order, in batches, and completely, also when single attempts fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from quel_dagster.adapters.database.records import OutputPlace
from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.errors import DatabaseRefusedError, QuelError
from quel_dagster.platform import event_writer, outages
from quel_dagster.platform.event_writer import EventWriter, StepOutputs


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


# --- outputs of steps ------------------------------------------------------------------------------------


def at(run: str, step: str = "step") -> OutputPlace:
    return OutputPlace(run, step, "result")


class Values:
    """Takes outputs of steps; refuses those with a value of "wrong", and all while it is unreachable."""

    def __init__(self) -> None:
        self.writes: list[dict[OutputPlace, Any]] = []
        self.reachable = True

    def write(self, outputs: Mapping[OutputPlace, Any]) -> None:
        if not self.reachable:
            raise unreachable()
        if "wrong" in outputs.values():
            raise DatabaseRefusedError("PostgreSQL refused: wrong.")
        self.writes.append(dict(outputs))


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Values:
    monkeypatch.setattr(event_writer, "_gathering", True)
    return Values()


def test_the_outputs_of_all_runs_are_one_write(values: Values) -> None:
    outputs = StepOutputs()
    outputs.add(at("a"), 1, values.write)
    outputs.add(at("a"), 2, values.write)
    outputs.add(at("b"), 3, values.write)
    assert values.writes == []
    outputs.write("b")
    outputs.write("a")
    assert values.writes == [{at("a"): 2, at("b"): 3}]


def test_a_refused_output_fails_its_own_run_alone(values: Values) -> None:
    outputs = StepOutputs()
    for run, value in (("a", 1), ("b", "wrong"), ("c", 3)):
        outputs.add(at(run), value, values.write)
    outputs.write("a")
    outputs.write("c")
    assert values.writes == [{at("a"): 1}, {at("c"): 3}]
    with pytest.raises(QuelError, match=r"The output of a step could not be stored: PostgreSQL refused: wrong\."):
        outputs.write("b")
    outputs.write("b")  # reported once


def test_while_postgresql_is_unreachable_every_run_that_waits_is_told_once(values: Values) -> None:
    outputs = StepOutputs()
    values.reachable = False
    outputs.add(at("a"), 1, values.write)
    outputs.add(at("b"), 2, values.write)
    for run in "ab":
        with pytest.raises(QuelError, match="the server is starting"):
            outputs.write(run)
    values.reachable = True
    outputs.add(at("a"), 3, values.write)
    outputs.write("a")
    assert values.writes == [{at("a"): 3}]


def test_a_run_waits_for_its_outputs_also_while_another_thread_writes_them(values: Values) -> None:
    outputs = StepOutputs()
    begun, go_on = threading.Event(), threading.Event()

    def slow(given: Mapping[OutputPlace, Any]) -> None:
        begun.set()
        assert go_on.wait(30)
        values.write(given)

    outputs.add(at("a"), 1, slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(outputs.write, "b")
        assert begun.wait(30)
        second = threads.submit(outputs.write, "a")
        assert not wait([second], timeout=0.1).done
        go_on.set()
        assert (first.result(30), second.result(30)) == (None, None)
    assert values.writes == [{at("a"): 1}]


def test_failed_output_is_raised_to_its_run_and_its_neighbour_is_written(values: Values) -> None:
    event_writer.step_outputs.add(at("r"), "wrong", values.write)
    event_writer.step_outputs.add(at("other"), 2, values.write)
    table = Table()
    with writing(table, gather_seconds=30) as writer:
        writer.add("r", 1)
        writer.add("other", 2)
        writer.flush("other")
        assert table.rows == [2]
        with pytest.raises(QuelError, match="could not be stored"):
            writer.add("r", 3)
