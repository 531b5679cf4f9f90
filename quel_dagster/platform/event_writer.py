"""Write a run's events in batches and in parallel with the work.

Dagster writes every event at once, and the caller waits for PostgreSQL. In a worker, events of steps are collected
briefly and written by a thread in one statement. Events that others act on are not delayed: the end of a run, and
asset events. Everything before them is written first, in order, and also before anything is read. The start of a run
is recorded on the run itself.

The io manager writes the outputs of a step in parallel too, and always before the event that reports them: a step
that has succeeded has stored its values for the steps that follow.

A killed process loses the events of its last moment. Nothing depends on them: which pictures exist and who paid for
them is recorded in the web app's tables.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from dagster import DagsterEventType
from sqlalchemy import Connection
from typing_extensions import override

from quel_dagster.adapters.retry_policy import RUN_SECONDS
from quel_dagster.errors import QuelError
from quel_dagster.platform.internals import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EventLogEntry,
    PostgresEventLogStorage,
    SqlEventLogStorageTable,
    create_pg_connection,
)
from quel_dagster.platform.outages import retrying
from quel_dagster.platform.storage_connections import without_a_turn

#: Seconds to collect events; short enough for a person who watches the page.
GATHER_SECONDS = 0.1

#: Events that are not stored: a run page lists them between those that matter, and nothing reads them. The end of a
#: step's work on an output is its STEP_OUTPUT. They would be a quarter of the rows of a run.
OMITTED = frozenset({DagsterEventType.STEP_INPUT, DagsterEventType.LOADED_INPUT, DagsterEventType.HANDLED_OUTPUT})

Row = dict[str, Any]
_gathering = False
#: pending writes of step outputs, by run
_values: dict[str, deque[Future[None]]] = {}
_values_lock = threading.Lock()


def gather_events() -> None:
    """From now on, storages of this process write the events of steps in batches."""
    global _gathering  # noqa: PLW0603  a property of the process, like its signal handlers
    _gathering = True


def before_events(run_id: str, write: Future[None]) -> None:
    """Write no later event of this run before this write is done.

    Raises:
        Exception: the error of the write, if events are not collected.
    """
    if _gathering:
        with _values_lock:
            _values.setdefault(run_id, deque()).append(write)
    else:
        write.result()


def _await_values(run_id: str) -> None:
    """Raises QuelError when an output could not be stored: then the events that report it must not be, either."""
    with _values_lock:
        writes = _values.pop(run_id, ())
    for write in writes:
        try:
            write.result()
        except Exception as error:
            raise QuelError(f"The output of a step could not be stored: {error}") from error


class EventWriter:
    """Writes rows in order, on its own thread."""

    def __init__(
        self,
        write: Callable[[Sequence[Row]], None],
        *,
        gather_seconds: float = GATHER_SECONDS,
        retry_seconds: float = RUN_SECONDS,
    ) -> None:
        """`write` is called on the thread, and retried for `retry_seconds` while the database is unreachable."""
        self._write = retrying(write, seconds=retry_seconds)
        self._gather_seconds = gather_seconds
        self._retry_seconds = retry_seconds
        self._rows: list[Row] = []
        self._added = self._written = 0
        #: run → the error that lost its rows, until it was raised to the run
        self._errors: dict[str, Exception] = {}
        self._changed = threading.Condition()
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        """Queue a row for writing.

        Raises:
            Exception: the error that lost earlier rows of its run.
        """
        with self._changed:
            self._raise_error(row["run_id"])
            self._rows.append(row)
            self._added += 1
        self._some.set()

    def flush(self, run_id: str | None = None) -> None:
        """Return when all queued rows are written, or known to be lost.

        Raises:
            Exception: the error that lost rows of this run.
        """
        with self._changed:
            wanted = self._added
            if self._written < wanted:
                self._hurry.set()
                self._changed.wait_for(lambda: self._written >= wanted)
            if run_id is not None:
                self._raise_error(run_id)

    def close(self) -> None:
        """Write the rest, then end the thread."""
        self._closed = True
        self._hurry.set()
        self._some.set()
        self._thread.join(self._retry_seconds)

    def _raise_error(self, run_id: str) -> None:
        if error := self._errors.pop(run_id, None):
            raise error

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._hurry.wait(self._gather_seconds)
            with self._changed:
                self._hurry.clear()
                if not self._closed:
                    self._some.clear()
                rows, self._rows = self._rows, []
            if not rows:
                if self._closed:
                    return
                continue
            errors = self._try(rows)
            with self._changed:
                self._written += len(rows)
                self._errors.update(errors)
                self._changed.notify_all()

    def _try(self, rows: Sequence[Row]) -> dict[str, Exception]:
        """Write; return the errors per run. The thread survives every failure."""
        errors: dict[str, Exception] = {}
        for run_id in dict.fromkeys(row["run_id"] for row in rows):
            try:
                _await_values(run_id)
            except QuelError as error:
                errors[run_id] = error
        whole = [row for row in rows if row["run_id"] not in errors]
        try:
            if whole:
                self._write(whole)
        except Exception as error:  # noqa: BLE001  raised again at the next call for these runs
            errors.update(dict.fromkeys((row["run_id"] for row in whole), error))
        return errors


class GatheredEvents(PostgresEventLogStorage):
    """Dagster's event log; see the module."""

    def __init__(self, postgres_url: str, *arguments: Any, **more: Any) -> None:
        self._writer: EventWriter | None = None
        self._writer_lock = threading.Lock()
        super().__init__(postgres_url, *arguments, **more)

    @override
    def store_event(self, event: EventLogEntry) -> None:
        if event.dagster_event_type in OMITTED:
            return
        if about_assets(event):
            self._settle(event.run_id)
            super().store_event(event)
        elif _gathering and not _ends_run(event):
            self._open_writer().add(self._event_to_row(event))
        else:
            # Dagster would also notify listeners, for compatibility with its older versions
            self._settle(event.run_id)
            with self._connect() as connection:
                connection.execute(self.prepare_insert_event(event))

    @override
    def dispose(self) -> None:
        with self._writer_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        super().dispose()

    def _connect(self) -> AbstractContextManager[Connection]:
        """Return a connection for a read or write of Dagster, which must see all events before it."""
        if self._writer is not None:
            self._writer.flush()
        return super()._connect()

    def _settle(self, run_id: str) -> None:
        """Wait until all events and outputs of this run are written. Raises the error if that failed."""
        if self._writer is not None:
            self._writer.flush(run_id)
        _await_values(run_id)

    def _open_writer(self) -> EventWriter:
        with self._writer_lock:
            if self._writer is None:
                self._writer = EventWriter(self._write_rows)
            return self._writer

    def _write_rows(self, rows: Sequence[Row]) -> None:
        with without_a_turn(), create_pg_connection(self._engine) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), list(rows))


def about_assets(event: EventLogEntry) -> bool:
    """Return whether the event belongs to an asset, which Dagster also stores in tables for assets."""
    return event.dagster_event_type in ASSET_EVENTS or event.dagster_event_type in ASSET_CHECK_EVENTS


def _ends_run(event: EventLogEntry) -> bool:
    """Return whether the event is the end of a run, or a step towards it."""
    dagster_event = event.dagster_event if event.is_dagster_event else None
    return (
        dagster_event is not None
        and dagster_event.is_job_event
        and dagster_event.event_type is not DagsterEventType.RUN_START
    )
