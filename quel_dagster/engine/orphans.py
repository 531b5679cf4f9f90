"""Delete objects that no picture of a job refers to (domain.md §8). PostgreSQL lists them, this module deletes them.

An object becomes an orphan when its charge is refused, or when the run that uploaded it died before the commit.
"""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy.exc import DBAPIError

from quel_dagster.engine.dependencies import Dependencies
from quel_dagster.errors import QuelError

#: Minimum interval between two sweeps of one process.
INTERVAL_SECONDS = 60.0

_log = logging.getLogger(__name__)


class OrphanSweep:
    """Deletes orphaned objects in the background. Belongs to one event loop."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._last = -INTERVAL_SECONDS
        self._task: asyncio.Task[int] | None = None

    def wake(self) -> None:
        """Start a sweep, unless one is running or the last one began less than an interval ago."""
        now = time.monotonic()
        if now - self._last >= INTERVAL_SECONDS and (self._task is None or self._task.done()):
            self._last = now
            self._task = asyncio.create_task(self.sweep(), name="orphan sweep")

    async def sweep(self) -> int:
        """Delete the orphans that are due and return how many. A connection error ends the sweep until the next."""
        deleted = []
        try:
            for key in await self._dependencies.database.work.orphans():
                await self._dependencies.store.delete(key)
                deleted.append(key)
            if deleted:
                await self._dependencies.database.work.forget_orphans(deleted)
        except (QuelError, DBAPIError) as error:
            _log.warning("Orphaned objects were not all deleted: %s", error)
        return len(deleted)

    async def aclose(self) -> None:
        """Cancel a sweep that is running; a later process continues it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
