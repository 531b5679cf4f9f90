"""The open sessions of one process, one per run, over outside parts that are opened once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from uuid import UUID

from quel_dagster.adapters.counters import Counters
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.gemini import GeminiClient
from quel_dagster.adapters.gemini_quota import GeminiQuota
from quel_dagster.adapters.queue import CancelFlags
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.errors import RunTerminatedError, SettingsError
from quel_dagster.jobs.limits import Limits
from quel_dagster.settings import Settings
from quel_dagster.studio.session import JobSession, Parts


class Studio:
    """Lives on one event loop for as long as its process."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._sessions: dict[str, JobSession] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Studio:
        """Open every outside part that making pictures needs.

        Raises:
            SettingsError: a setting is missing or wrong; the line names the variable.
        """
        if settings.database_url is None:
            raise SettingsError('DATABASE_URL is not set. Set it, or run eval "$(quel env)" beside a `quel up`.')
        redis_url = settings.redis()
        if redis_url is None:
            raise SettingsError('REDIS_URL is not set. Set it, or run eval "$(quel env)" beside a `quel up`.')
        database_url = settings.database_url.get_secret_value()
        quota = GeminiQuota.from_settings(settings, redis_url)
        return cls(
            Parts(
                database=Database(database_url),
                database_url=database_url,
                store=open_store(settings),
                gemini=GeminiClient.from_settings(settings, gate=quota.place),
                quota=quota,
                cancel_flags=CancelFlags(redis_url),
                counters=Counters(redis_url),
                price=settings.image_per_price,
                max_concurrent_images=settings.max_concurrent_images,
                limits=Limits.of(settings),
            )
        )

    async def session(self, job_id: UUID, *, run_id: str, retry_of: Iterable[str] = ()) -> JobSession:
        """The run's session; the first asker claims the job.

        Raises:
            JobNotFoundError, LeaseHeldError
        """
        async with self._opening.setdefault(run_id, asyncio.Lock()):
            if run_id not in self._sessions:
                try:
                    self._sessions[run_id] = await JobSession.open(self.parts, job_id, run_id=run_id, retry_of=retry_of)
                except BaseException:
                    self._opening.pop(run_id, None)
                    raise
            return self._sessions[run_id]

    def current(self, run_id: str) -> JobSession | None:
        """The run's session, if it is open in this process."""
        return self._sessions.get(run_id)

    def terminate(self, run_id: str) -> None:
        """An operator stops the run: its calls are cancelled, its job will end `cancelled`."""
        if session := self.current(run_id):
            session.stop(RunTerminatedError(f"Stopped by an operator (run {run_id})."))

    def drain(self) -> None:
        """This process is stopping: every session finishes the calls under way and begins no others."""
        for session in self._sessions.values():
            session.drain()

    async def close_session(self, run_id: str) -> None:
        """The run is over in this process."""
        self._opening.pop(run_id, None)
        session = self._sessions.pop(run_id, None)
        if session is not None:
            await session.close()

    async def aclose(self) -> None:
        """Close every session and outside part."""
        for run_id in list(self._sessions):
            await self.close_session(run_id)
        await self.parts.store.aclose()
        await self.parts.gemini.aclose()
        await self.parts.quota.aclose()
        await self.parts.cancel_flags.aclose()
        await self.parts.counters.aclose()
        await self.parts.database.aclose()
