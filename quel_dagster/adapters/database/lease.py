"""Renewing a lease from a thread of its own, which a busy event loop cannot stall."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from quel_dagster.adapters.database import statements as sql
from quel_dagster.adapters.database.store import LEASE_SECONDS
from quel_dagster.adapters.database.url import DatabaseUrl

RENEW_SECONDS = LEASE_SECONDS * 0.3
#: While the database is away, ask again this often.
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class LeaseKeeper:
    """Keeps one lease alive until `stop`; a connection is opened for each renewal only.

    A database that does not answer is no loss: every write checks the token anyway.
    """

    def __init__(self, url: str, *, job_id: UUID, token: int, on_lost: Callable[[], None]) -> None:
        """
        Args:
            url: PostgreSQL URL.
            on_lost: called once, on the keeper's thread, when another run took the lease.
        """
        self._job_id = job_id
        self._token = token
        self._on_lost = on_lost
        self._stopped = threading.Event()
        self._engine = _short_lived_engine(url, "quel_dagster lease")
        self._thread = threading.Thread(target=self._run, name=f"lease {job_id}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Renew no more. Does not wait: a renewal under way fails on the token or is harmless."""
        self._stopped.set()

    def _run(self) -> None:
        pause = RENEW_SECONDS
        while not self._stopped.wait(pause):
            try:
                with self._engine.connect() as connection:
                    held = connection.execute(
                        sql.RENEW_LEASE, {"job_id": self._job_id, "token": self._token, "seconds": LEASE_SECONDS}
                    ).first()
            except DBAPIError as error:
                _log.warning("Lease of job %s: the database does not answer (%s)", self._job_id, type(error).__name__)
                pause = RETRY_SECONDS
                continue
            pause = RENEW_SECONDS
            if held is None:
                if not self._stopped.is_set():
                    self._on_lost()
                return


class LeaseBoard:
    """Looks at leases from a thread without an event loop; one short connection a look."""

    def __init__(self, url: str) -> None:
        self._engine = _short_lived_engine(url, "quel_dagster health")

    def is_live(self, run_id: str) -> bool:
        """Does this run hold a lease that lives, by the database's clock?

        Raises:
            sqlalchemy.exc.DBAPIError: the database does not answer.
        """
        with self._engine.connect() as connection:
            return bool(connection.execute(sql.RUN_HOLDS_LIVE_LEASE, {"run_id": run_id}).scalar())


@lru_cache
def _short_lived_engine(url: str, name: str) -> Engine:
    """One for all leases of a process: a new engine begins by asking its server what it is. It keeps no connection."""
    return create_engine(
        DatabaseUrl.parse(url).url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 5, "prepare_threshold": None, "application_name": name},
    )
