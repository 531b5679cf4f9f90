"""Connections to Dagster's PostgreSQL that outlive a statement.

Dagster opens a connection for every event that it writes and every look that it takes, so as not to hold any. Each
costs both sides a handshake and PostgreSQL a process: most of the time that a run spends on its events. Here every
process keeps a few, shared by all that it does.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from typing import Any

import psycopg2  # type: ignore[import-untyped]
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError

#: Connections that a process keeps; more are opened while it does more at a time.
KEPT = 2
#: A connection that was not used for so long is asked before it is used again.
RESTED_SECONDS = 1.0
_engines: dict[tuple[int, str], Engine] = {}
_lock = threading.Lock()


def keep_connections(storage: DagsterPostgresStorage) -> DagsterPostgresStorage:
    """Let this storage use the connections of the process."""
    engine = _engine_of_process(storage.postgres_url)
    parts: tuple[Any, ...] = (storage.run_storage, storage.event_log_storage, storage.schedule_storage)
    for part in parts:
        part._engine.dispose()  # each keeps its own under this private name
        part._engine = engine
    return storage


def close_connections() -> None:
    """Close those of this process: it is about to fork, and a child must not find its parent's."""
    with _lock:
        for engine in _engines.values():
            engine.dispose()
        _engines.clear()


def _engine_of_process(url: str) -> Engine:
    """One engine for each URL; a forked child gets its own."""
    with _lock:
        mine = (os.getpid(), url)
        if mine not in _engines:
            _engines[mine] = _engine(url)
        return _engines[mine]


def _engine(url: str) -> Engine:
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=KEPT,
        max_overflow=-1,
        pool_recycle=1800,
        pool_use_lifo=True,  # what is not needed grows old and is recycled
        connect_args={"application_name": "dagster"},
    )
    event.listen(engine, "checkin", _note_idle)
    event.listen(engine, "checkout", _check)
    return engine


def _note_idle(_connection: Any, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()


def _check(connection: Any, record: Any, _proxy: Any) -> None:
    """Refuse a kept connection that the server has closed, so that another is opened.

    Between statements a server has nothing to say but goodbye, which is seen without asking. What lies between may
    keep a goodbye to itself, though: a connection that has rested is asked.

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
