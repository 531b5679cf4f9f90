"""Kept connections to Dagster's PostgreSQL: used again, replaced when the server closed them, not shared by a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import text

from quel_dagster.platform import storage_connections
from quel_dagster.platform.outages import retrying
from quel_dagster.platform.redacted_storage import RedactedStorage
from quel_dagster.platform.storage_connections import keep_connections
from quel_dagster.services.endpoints import Endpoints

BACKEND = text("select pg_backend_pid()")


@pytest.fixture
def storage(endpoints: Endpoints) -> Iterator[RedactedStorage]:
    kept = RedactedStorage(endpoints.dagster_postgres_url)
    assert keep_connections(kept) is kept
    yield kept
    kept.run_storage._engine.dispose()


def backend(storage: RedactedStorage) -> int:
    """The server process that a statement of Dagster's meets."""
    with storage.event_log_storage._connect() as connection:
        return int(connection.execute(BACKEND).scalar_one())


def test_one_connection_serves_statement_after_statement_of_every_part(storage: RedactedStorage) -> None:
    first = backend(storage)
    assert storage.run_storage.get_runs(limit=1) is not None
    with storage.run_storage.connect() as connection:
        assert connection.execute(BACKEND).scalar_one() == first
    assert backend(storage) == first


def test_a_connection_that_the_server_closed_is_replaced_unseen(storage: RedactedStorage, endpoints: Endpoints) -> None:
    first = backend(storage)
    with psycopg.connect(endpoints.dagster_postgres_url.replace("+psycopg2", ""), autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (first,))
    assert backend(storage) != first


def test_kept_connection_to_a_server_that_became_read_only_is_replaced(storage: RedactedStorage) -> None:
    """After a failover the pool leads to the standby (SQLSTATE 25006), while new connections reach the new primary."""
    first = backend(storage)
    with storage.run_storage.connect() as connection:
        connection.execute(text("set session characteristics as transaction read only"))

    retrying(storage.run_storage.set_cursor_values, seconds=60)({"after the failover": "1"})

    assert backend(storage) != first


class _Deaf:
    """Never sees the server close the connection, as behind a proxy that does not forward it."""

    def register(self, *_: object) -> None: ...

    def poll(self, _timeout: int) -> list[object]:
        return []


def test_idle_connection_is_probed_since_a_close_may_be_lost(
    storage: RedactedStorage, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = backend(storage)
    with psycopg.connect(endpoints.dagster_postgres_url.replace("+psycopg2", ""), autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (first,))
    monkeypatch.setattr(storage_connections.select, "poll", _Deaf)
    monkeypatch.setattr(storage_connections, "RESTED_SECONDS", 0.0)
    assert backend(storage) != first


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 on: the child runs one thread
def test_a_forked_child_opens_its_own(storage: RedactedStorage, endpoints: Endpoints) -> None:
    first = backend(storage)
    reader, tell = os.pipe()
    child = os.fork()
    if child == 0:
        mine = backend(keep_connections(RedactedStorage(endpoints.dagster_postgres_url)))  # type: ignore[arg-type]
        os.write(tell, str(mine).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 20)) != first
    assert backend(storage) == first


def test_many_threads_that_each_need_a_second_connection_end(endpoints: Endpoints) -> None:
    """With a plain bound of three, twelve of them would wait for each other."""
    engine = storage_connections._engine(endpoints.dagster_postgres_url)
    most = [0]
    together = threading.Barrier(12)

    def nested(_number: int) -> int:
        together.wait(30)
        with engine.connect() as outer:
            outer.execute(text("select pg_sleep(0.05)"))
            most[0] = max(most[0], engine.pool.checkedout())  # type: ignore[attr-defined]
            with engine.connect() as inner:
                return int(inner.execute(text("select 1")).scalar_one())

    with ThreadPoolExecutor(12) as threads:
        assert sum(threads.map(nested, range(12), timeout=60)) == 12
    assert most[0] <= 2 * storage_connections.MOST
    engine.dispose()


def test_a_writer_does_not_block_threads_with_a_connection(endpoints: Endpoints) -> None:
    """Inside a transaction Dagster reads something, which waits until all events are written."""
    engine = storage_connections._engine(endpoints.dagster_postgres_url)
    together = threading.Barrier(storage_connections.MOST)

    def write() -> int:
        with storage_connections.without_a_turn(), engine.connect() as connection:
            return int(connection.execute(text("select 1")).scalar_one())

    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(storage_connections.MOST) as threads:

        def look_up_inside(_number: int) -> int:
            with engine.connect() as outer:
                outer.execute(text("select 1"))
                together.wait(30)
                return writer.submit(write).result(30)

        assert sum(threads.map(look_up_inside, range(storage_connections.MOST), timeout=60)) == storage_connections.MOST
    engine.dispose()
