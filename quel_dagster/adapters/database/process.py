"""The database of a process without an engine, such as the code server's, on its own event loop thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.loop_thread import LoopThread
from quel_dagster.adapters.retry_policy import TICK_SECONDS

T = TypeVar("T")


class DatabaseProcess:
    """A database for callers without an event loop. Build one per process: `DatabaseProcess.current(url)`."""

    _lock = threading.Lock()
    _current: DatabaseProcess | None = None

    def __init__(self, url: str) -> None:
        """Raises SettingsError when `url` is no PostgreSQL URL."""
        self._pid, self._url = os.getpid(), url
        self._database = Database(url, retry_seconds=TICK_SECONDS)
        self._thread = LoopThread("database", before_end=self._database.aclose)

    @classmethod
    def current(cls, url: str) -> DatabaseProcess:
        """Return the database of this process for this URL; a forked child gets its own.

        Raises:
            SettingsError: `url` is no PostgreSQL URL.
        """
        with cls._lock:
            current = cls._current
            if current is None or current._pid != os.getpid() or current._url != url:
                cls._current = current = cls(url)
            return current

    def run(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Run on the database's loop and wait."""
        return self._thread.run(lambda: work(self._database))

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._thread.close()
        with DatabaseProcess._lock:
            if DatabaseProcess._current is self:
                DatabaseProcess._current = None
