"""Pooled connections to Dagster's PostgreSQL.

Dagster opens a connection for every event that it writes and every read, so as not to hold any. Each costs a
handshake and a PostgreSQL process: most of the time that a run spends on its events. Here every process keeps a
few connections, shared by all of its runs.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2  # type: ignore[import-untyped]
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool

from quel_dagster.adapters.database.outages import leave_read_only_servers
from quel_dagster.platform.internals import DagsterPostgresStorage

#: Maximum of threads that use Dagster's storage at a time in a process; the others wait.
MOST = 3
#: Seconds of waiting after which an error is raised.
TURN_SECONDS = 120.0
#: A connection idle for this many seconds is tested before it is used again.
RESTED_SECONDS = 1.0
_engines: dict[tuple[int, str], Engine] = {}
_lock = threading.Lock()
_exempt = threading.local()


def keep_connections(storage: DagsterPostgresStorage) -> DagsterPostgresStorage:
    """Let this storage use the connection pool of the process."""
    engine = _engine_of_process(storage.postgres_url)
    parts: tuple[Any, ...] = (storage.run_storage, storage.event_log_storage, storage.schedule_storage)
    for part in parts:
        part._engine.dispose()  # each part keeps its own engine under this private name
        part._engine = engine
    return storage


def close_connections() -> None:
    """Close the pool of this process before a fork: a child must not inherit its parent's connections."""
    with _lock:
        for engine in _engines.values():
            engine.dispose()
        _engines.clear()


def _engine_of_process(url: str) -> Engine:
    """Return the engine for a URL; a forked child gets its own."""
    with _lock:
        mine = (os.getpid(), url)
        if mine not in _engines:
            _engines[mine] = _engine(url)
        return _engines[mine]


def _engine(url: str) -> Engine:
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        poolclass=BoundedPool,
        pool_size=MOST,
        max_overflow=-1,
        pool_recycle=1800,
        pool_use_lifo=True,  # unused connections grow old and are recycled
        connect_args={"application_name": "dagster"},
    )
    leave_read_only_servers(engine)
    event.listen(engine, "checkin", _note_idle)
    event.listen(engine, "checkout", _check)
    return engine


@contextmanager
def without_a_turn() -> Iterator[None]:
    """Let this thread have a connection at once: threads that hold one wait for what it writes."""
    _exempt.yes = True
    try:
        yield
    finally:
        _exempt.yes = False


class BoundedPool(QueuePool):
    """Gives connections to MOST threads at a time; a thread that has one gets more on request.

    Dagster requests a second connection inside a transaction. With a plain limit, as many threads as there are
    connections would wait for each other forever.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turns = threading.BoundedSemaphore(MOST)
        self._mine = threading.local()
        event.listen(self, "checkin", self._end_turn)

    def connect(self) -> Any:
        """Return a connection. Raises TimeoutError after TURN_SECONDS."""
        if getattr(_exempt, "yes", False):
            return super().connect()
        held: int = getattr(self._mine, "held", 0)
        if held == 0 and not self._turns.acquire(timeout=TURN_SECONDS):
            raise TimeoutError(f"Dagster's storage was busy for {TURN_SECONDS:.0f} s.")
        self._mine.held = held + 1
        try:
            return super().connect()
        except BaseException:
            if self._mine.held > held:  # the pool may have taken the connection back already
                self._give_back()
            raise

    def _end_turn(self, _connection: Any, _record: Any) -> None:
        if getattr(self._mine, "held", 0) > 0 and not getattr(_exempt, "yes", False):
            self._give_back()

    def _give_back(self) -> None:
        self._mine.held -= 1
        if self._mine.held == 0:
            self._turns.release()


def _note_idle(_connection: Any, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()


def _check(connection: Any, record: Any, _proxy: Any) -> None:
    """Refuse a kept connection that the server has closed, so that another one is opened.

    A readable idle socket means that the server closed it. A proxy in between may hide that, so a connection that was
    idle for some time is tested with a query.

    Raises:
        DisconnectionError: as the pool expects it.
    """
    if connection.closed:
        raise DisconnectionError
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise DisconnectionError
    if time.monotonic() - record.info.get("idle_since", math.inf) > RESTED_SECONDS:
        try:
            with connection.cursor() as cursor:
                cursor.execute("select 1")
        except psycopg2.Error:
            raise DisconnectionError from None
