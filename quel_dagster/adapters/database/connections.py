"""Count the connections that a PostgreSQL server, or a pooler in front of it, has free."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import psycopg

from quel_dagster.adapters.database.reasons import is_without_connection
from quel_dagster.adapters.database.url import for_libpq

#: seconds; a pooler that lets a client wait longer counts as full
WAIT_SECONDS = 5
#: connections that an ordinary role may still open, by the limits of server, role and database
_FREE = """
    select least(
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)
            - (select count(*) from pg_stat_activity where backend_type = 'client backend'),
        (select case when rolconnlimit < 0 then null else
                rolconnlimit - (select count(*) from pg_stat_activity where usename = current_user) end
         from pg_roles where rolname = current_user),
        (select case when datconnlimit < 0 then null else
                datconnlimit - (select count(*) from pg_stat_activity where datname = current_database()) end
         from pg_database where datname = current_database())
    )::int + 1  -- this one is given back
"""


@dataclass(frozen=True)
class Connections:
    """The number of free connections."""

    #: through a pooler; then `free` was tried out, up to the number wanted
    pooled: bool
    #: that this role may still open
    free: int


def free_connections(url: str, *, wanted: int) -> Connections:
    """Count the connections that are free; behind a pooler by opening up to `wanted` of them for a moment.

    Raises:
        psycopg.Error: not even one.
    """
    with ExitStack() as opened:
        first = opened.enter_context(_connect(url))
        row = first.execute(b"select pg_backend_pid()").fetchone()
        # a pooler answers a client with a process number of its own
        pooled = row != (first.info.backend_pid,)
        if not pooled:
            found = first.execute(_FREE.encode()).fetchone()
            return Connections(pooled=False, free=found[0] if found else 0)
        count = 1
        while count < wanted:
            try:
                opened.enter_context(_connect(url)).execute(b"select 1")
            except psycopg.Error as error:
                if is_without_connection(error) or isinstance(error, psycopg.OperationalError):
                    break
                raise
            count += 1
        return Connections(pooled=True, free=count)


def _connect(url: str) -> psycopg.Connection[tuple[int, ...]]:
    return psycopg.connect(for_libpq(url), connect_timeout=WAIT_SECONDS, prepare_threshold=None, autocommit=True)
