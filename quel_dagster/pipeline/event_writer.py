"""Events of a run, written several at a time and beside the work.

Dagster writes every event at once, and whoever says something waits for PostgreSQL: in a run's process that is the
loop on which all of its steps live. Here, in a worker, what steps say is gathered for a moment and written by a thread
in one statement. What others act on does not wait: the end of a run, and what happens to assets; all that came before
is written before it, in order, as it is before anything is read. That a run has begun stands on the run itself.

What a step gives to the next ones is written beside the work too, by the io manager, and before any event that says so:
a step that has succeeded has its values, for whoever goes on from there.

A process that is killed takes with it what it said in its last moment. Nothing depends on that: which pictures exist
and who paid for them is in the web app's tables alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from dagster import DagsterEventType
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.utils import create_pg_connection
from sqlalchemy import Connection
from typing_extensions import override

from quel_dagster.errors import QuelError
from quel_dagster.pipeline.outages import OUTAGE_SECONDS, tried_again

#: Events are gathered for this long; nobody reads a page faster.
GATHER_SECONDS = 0.1

Row = dict[str, Any]
_gathering = False
#: what steps give to each other, while it is being written
_values: deque[Future[None]] = deque()
_waiting = threading.Lock()


def gather_events() -> None:
    """From now on, storages of this process write what steps say a few at a time."""
    global _gathering  # noqa: PLW0603  a property of the process, like its signal handlers
    _gathering = True


def before_events(write: Future[None]) -> None:
    """Let no event that is said from now on be written before this write is done.

    Raises:
        Exception: where events are not gathered: why it could not be done.
    """
    if _gathering:
        _values.append(write)
    else:
        write.result()


def _await_values() -> None:
    """Raises QuelError when one could not be written: the events that tell of it must not be, either."""
    with _waiting:
        while _values:
            try:
                _values[0].result()
            except Exception as error:
                raise QuelError(f"What a step gives could not be written: {error}") from error
            finally:
                _values.popleft()


class EventWriter:
    """Writes rows in the order in which they were added, on a thread of its own."""

    def __init__(
        self,
        write: Callable[[Sequence[Row]], None],
        *,
        gather_seconds: float = GATHER_SECONDS,
        retry_seconds: float = OUTAGE_SECONDS,
    ) -> None:
        """`write` is called on the thread, again for `retry_seconds` while the database is away."""
        self._write = tried_again(write, seconds=retry_seconds)
        self._gather_seconds = gather_seconds
        self._retry_seconds = retry_seconds
        self._rows: list[Row] = []
        self._added = self._written = 0
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        """Have this written soon.

        Raises:
            Exception: why earlier rows could not be written; they are lost.
        """
        with self._changed:
            self._raise_error()
            self._rows.append(row)
            self._added += 1
        self._some.set()

    def flush(self) -> None:
        """Return when everything that was added is written.

        Raises:
            Exception: why it could not be.
        """
        with self._changed:
            wanted = self._added
            if self._written < wanted:
                self._hurry.set()
                self._changed.wait_for(lambda: self._written >= wanted or self._error is not None)
            self._raise_error()

    def close(self) -> None:
        """Write what is left, then end the thread."""
        self._closed = True
        self._hurry.set()
        self._some.set()
        self._thread.join(self._retry_seconds)

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
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
            error = self._try(rows)
            with self._changed:
                self._written += len(rows)
                self._error = error or self._error
                self._changed.notify_all()

    def _try(self, rows: Sequence[Row]) -> Exception | None:
        """Write; why it could not be done. The thread outlives every failure: somebody waits for its answer."""
        try:
            self._write(rows)
        except Exception as error:  # noqa: BLE001  raised again where somebody says or asks something next
            return error
        return None


class GatheredEvents(PostgresEventLogStorage):
    """Dagster's event log; see the module."""

    def __init__(self, postgres_url: str, *arguments: Any, **more: Any) -> None:
        self._writer: EventWriter | None = None
        self._writer_lock = threading.Lock()
        super().__init__(postgres_url, *arguments, **more)

    @override
    def store_event(self, event: EventLogEntry) -> None:
        if _about_assets(event):
            super().store_event(event)
        elif _gathering and not _ends_run(event):
            self._open_writer().add(self._event_to_row(event))
        else:
            # Dagster would notify listeners as well, for the sake of older versions of itself
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
        """Every look and every write of Dagster's passes here: it finds all that was said before."""
        if self._writer is not None:
            self._writer.flush()
        _await_values()
        return super()._connect()

    def _open_writer(self) -> EventWriter:
        with self._writer_lock:
            if self._writer is None:
                self._writer = EventWriter(self._write_rows)
            return self._writer

    def _write_rows(self, rows: Sequence[Row]) -> None:
        _await_values()
        with create_pg_connection(self._engine) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), list(rows))


def _about_assets(event: EventLogEntry) -> bool:
    """Dagster keeps these in tables of their own as well."""
    return event.dagster_event_type in ASSET_EVENTS or event.dagster_event_type in ASSET_CHECK_EVENTS


def _ends_run(event: EventLogEntry) -> bool:
    """The end of a run, or a step on the way there."""
    told = event.dagster_event if event.is_dagster_event else None
    return told is not None and told.is_job_event and told.event_type is not DagsterEventType.RUN_START
