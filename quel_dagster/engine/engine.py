"""The open sessions of one process, one per run, over adapters that are opened once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from uuid import UUID

from quel_dagster.adapters.cancel_flags import CancelFlags
from quel_dagster.adapters.counters import Counters
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.gemini_outage import GeminiOutage
from quel_dagster.adapters.gemini_quota import GeminiQuota
from quel_dagster.adapters.storage.outages import OutageTolerantStore
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.engine.dependencies import Dependencies
from quel_dagster.engine.orphans import OrphanSweep
from quel_dagster.engine.session import JobSession
from quel_dagster.errors import HandedOverError, RunTerminatedError
from quel_dagster.jobs.limits import Limits
from quel_dagster.settings import Settings


class Engine:
    """Holds the sessions of one process. Lives on one event loop, as long as the process."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.dependencies = dependencies
        self._sessions: dict[str, JobSession] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._orphans = OrphanSweep(dependencies)

    @classmethod
    def from_settings(cls, settings: Settings) -> Engine:
        """Open every adapter that making pictures needs.

        Raises:
            SettingsError: a setting is missing or wrong; the line names the variable.
        """
        # google-genai takes 25 MB: the code server loads this module, and never calls Gemini
        from quel_dagster.adapters.gemini.client import GeminiClient  # noqa: PLC0415

        database_url, redis_url = settings.required_database_url(), settings.required_redis_url()
        quota = GeminiQuota.from_settings(settings, redis_url)
        outage = GeminiOutage.from_settings(settings, redis_url)
        return cls(
            Dependencies(
                database=Database(database_url, retry_seconds=settings.outage_hours * 3600),
                database_url=database_url,
                store=OutageTolerantStore(open_store(settings), outage_seconds=settings.outage_hours * 3600),
                gemini=GeminiClient.from_settings(settings, gate=quota.place, outage=outage),
                quota=quota,
                cancel_flags=CancelFlags(redis_url),
                counters=Counters(redis_url),
                price=settings.image_per_price,
                max_concurrent_images=settings.max_concurrent_images,
                limits=Limits.of(settings),
            )
        )

    async def session(self, job_id: UUID, *, run_id: str, retry_of: Iterable[str] = ()) -> JobSession:
        """Return the run's session. The first caller opens it and claims the job.

        Raises:
            JobNotFoundError, LeaseHeldError
        """
        async with self._opening.setdefault(run_id, asyncio.Lock()):
            if run_id not in self._sessions:
                try:
                    self._sessions[run_id] = await JobSession.open(
                        self.dependencies, job_id, run_id=run_id, retry_of=retry_of
                    )
                except BaseException:
                    self._opening.pop(run_id, None)
                    raise
            return self._sessions[run_id]

    def current(self, run_id: str) -> JobSession | None:
        """Return the run's session if it is open in this process."""
        return self._sessions.get(run_id)

    def terminate(self, run_id: str) -> None:
        """Stop the run for an operator: cancel its calls; its job will end `cancelled`."""
        if session := self.current(run_id):
            session.stop(RunTerminatedError(f"Stopped by an operator (run {run_id})."))

    def drain(self) -> None:
        """Prepare to stop this process: each session finishes its calls under way and begins no new ones."""
        for session in self._sessions.values():
            session.drain()

    def hand_over_now(self) -> None:
        """The time to drain is over: cancel the calls under way and leave everything to other workers."""
        for session in self._sessions.values():
            if session.handed_over:
                session.stop(HandedOverError())

    async def close_session(self, run_id: str) -> None:
        """Close the session of a run that has ended in this process."""
        self._opening.pop(run_id, None)
        session = self._sessions.pop(run_id, None)
        if session is not None:
            await session.close()
            self._orphans.wake()

    async def aclose(self) -> None:
        """Close every session and adapter."""
        for run_id in list(self._sessions):
            await self.close_session(run_id)
        await self._orphans.aclose()
        await self.dependencies.store.aclose()
        await self.dependencies.gemini.aclose()
        await self.dependencies.quota.aclose()
        await self.dependencies.cancel_flags.aclose()
        await self.dependencies.counters.aclose()
        await self.dependencies.database.aclose()
