"""A pool of connections to PostgreSQL; every statement is retried by one policy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import TextClause
from sqlalchemy.engine import Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from quel_dagster.adapters.database.outages import is_unreachable, leave_read_only_servers, sqlstate
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.adapters.retry_policy import POSTGRESQL, RUN_SECONDS, log_outage
from quel_dagster.errors import DatabaseRefusedError
from quel_dagster.jobs.json_text import read_json

_log = logging.getLogger(__name__)


class Connection:
    """Statements on a pool of connections; async, for one event loop, usable from many tasks."""

    def __init__(self, url: str, *, pool_size: int = 4, retry_seconds: float = RUN_SECONDS) -> None:
        """
        Args:
            url: `postgresql://…`; any driver part is replaced.
            pool_size: connections kept open, and no more: a worker process has few, however many runs.
            retry_seconds: of retries while PostgreSQL is unreachable; a person at a prompt waits less.

        Raises:
            SettingsError: not a PostgreSQL URL.
        """
        self.url = DatabaseUrl.parse(url)
        self._retry_policy = replace(POSTGRESQL, retry_seconds=retry_seconds)
        self.engine: AsyncEngine = create_async_engine(
            self.url.url,
            isolation_level="AUTOCOMMIT",  # a call is one statement: no BEGIN and COMMIT round trips
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=120,
            pool_recycle=1800,
            json_deserializer=read_json,
            connect_args={
                "connect_timeout": 10,
                # unnamed statements only, as a transaction-pooling proxy needs
                "prepare_threshold": None,
                "application_name": "quel_dagster",
            },
        )
        leave_read_only_servers(self.engine.sync_engine)

    async def aclose(self) -> None:
        await self.engine.dispose()

    async def ask(self, statement: TextClause, **parameters: Any) -> Sequence[Row[Any]]:
        """Return the rows of one statement.

        Raises:
            DBAPIError: PostgreSQL was unreachable for `retry_seconds`.
            DatabaseRefusedError: PostgreSQL refused the statement, in its words.
        """

        async def attempt() -> Sequence[Row[Any]]:
            async with self.engine.connect() as connection:
                try:
                    result = await connection.execute(statement, parameters)
                    return result.all() if result.returns_rows else ()
                except DBAPIError as error:
                    if is_unreachable(error):
                        raise
                    raise DatabaseRefusedError(_refusal(error)) from error

        return await self._retry_policy.call(attempt, retry=is_unreachable, report=log_outage("PostgreSQL", _log))

    async def execute(self, statement: TextClause, **parameters: Any) -> int:
        """Run a statement of another module of this package; return the number of rows changed."""
        async with self.engine.connect() as connection:
            return int((await connection.execute(statement, parameters)).rowcount)

    async def answer(self, statement: TextClause, **parameters: Any) -> Any:
        rows = await self.ask(statement, **parameters)
        return rows[0].answer


def _refusal(error: DBAPIError) -> str:
    """Return PostgreSQL's message on one line, without the statement and its values."""
    words = getattr(getattr(error.orig, "diag", None), "message_primary", None) or type(error.orig).__name__
    state = sqlstate(error)
    remedy = ""
    if state in {"3F000", "42P01", "42883"} and "quel_dagster" in words:
        remedy = " `quel up` or `quel migrate` installs schema quel_dagster."
    elif state and state[:2] in {"3F", "42"}:
        remedy = " `quel doctor` says which tables and rights are missing."
    return f"PostgreSQL refused: {words}{f' (SQLSTATE {state})' if state else ''}.{remedy}"
