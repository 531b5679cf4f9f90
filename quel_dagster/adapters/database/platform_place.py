"""Which `quel up` runs the platform of an installation, and which Dagster storage belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import class_row

from quel_dagster.adapters.database.url import for_libpq

#: by the database's clock; renewed every RENEW_SECONDS
HOLD_SECONDS = 20.0
RENEW_SECONDS = 5.0
_CONNECT_SECONDS = 5
_IDENTITY = """
    create table if not exists quel_storage_identity (only_one boolean primary key default true, id text not null)
"""
_HOLD = """
    select held, place
    from jsonb_to_record(quel_dagster.hold_platform_v1(%s, %s, %s, %s)) as answer (held boolean, place text)
"""
_LOOK = "select place, storage_id, expires_at > clock_timestamp() as alive from quel_dagster.platform"


@dataclass(frozen=True)
class PlatformPlace:
    """The row as it is now."""

    place: str
    storage_id: str
    alive: bool


@dataclass(frozen=True)
class _Hold:
    #: whether the caller has the place now
    held: bool
    #: of the platform that has it
    place: str


def hold(url: str, *, holder: str, place: str, storage_id: str) -> str | None:
    """Take or renew the place. Return None when the caller has it, else where the other platform is."""
    with _connect(url) as connection, connection.cursor(row_factory=class_row(_Hold)) as cursor:
        (answer,) = cursor.execute(_HOLD.encode(), (holder, place, storage_id, HOLD_SECONDS))
    return None if answer.held else answer.place


def leave(url: str, *, holder: str) -> None:
    """Give the place back, so that another platform need not wait."""
    with _connect(url) as connection:
        connection.execute(b"select quel_dagster.leave_platform_v1(%s)", (holder,))


def look(url: str) -> PlatformPlace | None:
    """Return the platform that has the place; None before the first one."""
    with _connect(url) as connection, connection.cursor(row_factory=class_row(PlatformPlace)) as cursor:
        return cursor.execute(_LOOK.encode()).fetchone()


def storage_identity(url: str, *, create: bool) -> str | None:
    """Return the name of a Dagster storage, kept in it; None when it has none and `create` is not set."""
    with _connect(url) as connection:
        if connection.execute(b"select to_regclass('quel_storage_identity')").fetchone() == (None,):
            if not create:
                return None
            connection.execute(_IDENTITY.encode())
        if create:
            connection.execute(
                b"insert into quel_storage_identity (id) values (%s) on conflict do nothing", (str(uuid4()),)
            )
        row = connection.execute(b"select id from quel_storage_identity").fetchone()
    return None if row is None else str(row[0])


def _connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(for_libpq(url), connect_timeout=_CONNECT_SECONDS, autocommit=True, prepare_threshold=None)
