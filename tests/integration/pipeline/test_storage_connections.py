"""Kept connections to Dagster's PostgreSQL: used again, replaced when the server closed them, not shared by a fork."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from quel_dagster.pipeline import storage_connections
from quel_dagster.pipeline.redacted_storage import RedactedStorage
from quel_dagster.pipeline.storage_connections import keep_connections
from quel_dagster.sandbox.endpoints import Endpoints

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


class _Deaf:
    """Hears no goodbye, as behind something that keeps it to itself."""

    def register(self, *_: object) -> None: ...

    def poll(self, _timeout: int) -> list[object]:
        return []


def test_a_connection_that_rested_is_asked_since_a_goodbye_may_be_lost_on_the_way(
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
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        mine = backend(keep_connections(RedactedStorage(endpoints.dagster_postgres_url)))  # type: ignore[arg-type]
        os.write(tell, str(mine).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(told, 20)) != first
    assert backend(storage) == first
