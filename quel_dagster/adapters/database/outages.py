"""Tell an outage of PostgreSQL from a refused statement: for this project's statements and for Dagster's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError

#: SQLSTATE of a write to a server that is read-only: a standby after a failover
READ_ONLY = "25006"


def is_unreachable(error: BaseException) -> bool:
    """Return whether the same call may succeed later; False for a statement that PostgreSQL refused.

    A lost connection, a server that starts, stops or recovers, a standby after a failover (25006), too many
    connections, a full disk, a deadlock.
    """
    if not isinstance(error, DBAPIError):
        return isinstance(error, ConnectionError | DisconnectionError)
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    state = sqlstate(error)
    if state is None:  # the driver's flag for a broken connection
        return isinstance(error, OperationalError)
    return state == READ_ONLY or state[:2] in {"08", "40", "53", "58"} or state[:3] == "57P"


def sqlstate(error: DBAPIError) -> str | None:
    """Return the SQLSTATE, under the name that psycopg or psycopg2 gives it."""
    state: str | None = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state


def leave_read_only_servers(engine: Engine) -> None:
    """Close pooled connections to a server that has become read-only: they would keep leading to the standby."""

    def on_error(context: Any) -> None:
        if isinstance(context.sqlalchemy_exception, DBAPIError) and sqlstate(context.sqlalchemy_exception) == READ_ONLY:
            context.is_disconnect = True

    event.listen(engine, "handle_error", on_error)
