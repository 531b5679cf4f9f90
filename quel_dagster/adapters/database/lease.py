"""Renew leases from a thread of their own, which a busy event loop cannot stall."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar
from uuid import UUID

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from quel_dagster.adapters.database import statements as sql
from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.adapters.database.work import LEASE_SECONDS
from quel_dagster.jobs.model import JobStatus

RENEW_SECONDS = LEASE_SECONDS * 0.3
#: Seconds between attempts while the database is unreachable.
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class LeaseRenewer:
    """Keeps one lease alive until `stop`. All leases of a process are renewed by one thread, in one statement.

    A database that does not answer is no loss: every write checks the token anyway.
    """

    def __init__(self, url: str, *, job_id: UUID, token: int, on_lost: Callable[[], None]) -> None:
        """
        Args:
            url: PostgreSQL URL.
            on_lost: called once, on the renewer's thread, when another run took the lease.
        """
        self.job_id = job_id
        self.token = token
        self.on_lost = on_lost
        self._all = _Renewal.of_process(url)
        self._all.add(self)

    def stop(self) -> None:
        """Stop renewing. Does not wait: a renewal under way fails on the token, or leaves a handed over lease alone."""
        self._all.remove(self)


class _Renewal:
    """The thread that renews every lease of this process in one database."""

    _lock = threading.Lock()
    _of_process: ClassVar[dict[tuple[int, str], _Renewal]] = {}

    def __init__(self, url: str) -> None:
        self._engine = _short_lived_engine(url, "quel_dagster lease")
        self._held: dict[tuple[UUID, int], LeaseRenewer] = {}
        self._held_lock = threading.Lock()
        self._some = threading.Event()
        threading.Thread(target=self._run, name="leases", daemon=True).start()

    @classmethod
    def of_process(cls, url: str) -> _Renewal:
        """Return the renewal of this process; a forked child gets its own."""
        with cls._lock:
            key = (os.getpid(), url)
            if key not in cls._of_process:
                cls._of_process[key] = cls(url)
            return cls._of_process[key]

    def add(self, lease: LeaseRenewer) -> None:
        with self._held_lock:
            self._held[lease.job_id, lease.token] = lease
        self._some.set()

    def remove(self, lease: LeaseRenewer) -> None:
        with self._held_lock:
            self._held.pop((lease.job_id, lease.token), None)
            if not self._held:
                self._some.clear()

    def _run(self) -> None:
        while True:
            self._some.wait()
            pause = self._renew()
            time.sleep(pause)

    def _renew(self) -> float:
        """Renew all leases; return the seconds until the next renewal."""
        with self._held_lock:
            held = dict(self._held)
        if not held:
            return 0.0
        jobs = {"job_ids": [job_id for job_id, _ in held], "tokens": [token for _, token in held]}
        try:
            with self._engine.connect() as connection:
                answer = connection.execute(sql.RENEW_LEASES, {**jobs, "seconds": LEASE_SECONDS})
                kept = {row.job_id for row in answer}
        except DBAPIError as error:
            _log.warning("%d leases: the database does not answer (%s)", len(held), type(error).__name__)
            return RETRY_SECONDS
        for (job_id, _), lease in held.items():
            if job_id not in kept:
                with self._held_lock:
                    mine = self._held.pop((lease.job_id, lease.token), None)
                if mine is not None:
                    lease.on_lost()
        return RENEW_SECONDS


class LeaseBoard:
    """Reads leases and jobs from a thread without an event loop, with one short connection per query."""

    def __init__(self, url: str) -> None:
        self._engine = _short_lived_engine(url, "quel_dagster health")

    def live_runs(self) -> frozenset[str]:
        """Return the runs that hold a live lease, by the database's clock.

        Raises:
            sqlalchemy.exc.DBAPIError: the database does not answer.
        """
        with self._engine.connect() as connection:
            return frozenset(connection.execute(sql.RUNS_WITH_LIVE_LEASES).scalars())

    def job_end(self, job_id: UUID) -> JobStatus | None:
        """Return the status of an ended job; None while it is open or when it does not exist.

        Raises:
            sqlalchemy.exc.DBAPIError: the database does not answer.
        """
        with self._engine.connect() as connection:
            status = connection.execute(sql.JOB_END, {"job_id": job_id}).scalar()
        return JobStatus(status) if status else None


@lru_cache
def _short_lived_engine(url: str, name: str) -> Engine:
    """Return the engine of all leases of a process: a new one queries the server's version first. It pools nothing."""
    return create_engine(
        DatabaseUrl.parse(url).url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 5, "prepare_threshold": None, "application_name": name},
    )
