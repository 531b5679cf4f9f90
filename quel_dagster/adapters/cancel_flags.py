"""The flags of a job that was cancelled: the user's (domain.md §1) and the operator's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from uuid import UUID

import redis.asyncio

from quel_dagster.adapters.database.records import CancelledBy
from quel_dagster.adapters.redis_connection import open_redis

#: A cancel must be seen within two seconds, so the flags are polled twice in that time.
CANCEL_POLL_SECONDS = 0.9


def cancel_key(job_id: UUID) -> str:
    """The user's cancel flag (domain.md §1)."""
    return f"job:{job_id}:cancelled"


def operator_cancel_key(job_id: UUID) -> str:
    """The flag of an operator's cancel, seen by the run at work; PostgreSQL keeps the cancel itself."""
    return f"quel_dagster:cancel:{job_id}"


class CancelFlags:
    """The user's flag and the operator's, for the event loop that makes pictures."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError when `url` is no Redis URL."""
        self._redis = open_redis(redis.asyncio.Redis, url)
        self._watched: dict[asyncio.Future[None], UUID] = {}
        self._polling: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
        await self._redis.aclose()

    async def cancelled_by(self, job_id: UUID) -> CancelledBy | None:
        """Return which flag is set for this job, the user's before the operator's; None when none is.

        Raises:
            redis.RedisError
        """
        return (await self._read([job_id])).get(job_id)

    async def seen(self, job_id: UUID) -> None:
        """Wait for a poll that finds a flag of this job set. A poll without an answer from Redis finds none.

        All jobs of the process are polled by one task, with one command.
        """
        flagged = asyncio.get_running_loop().create_future()
        self._watched[flagged] = job_id
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(), name="cancel flags")
        try:
            await flagged
        finally:
            del self._watched[flagged]

    async def _poll(self) -> None:
        while self._watched:
            await asyncio.sleep(CANCEL_POLL_SECONDS)
            try:
                flags = await self._read(list(set(self._watched.values())))
            except (redis.RedisError, OSError):
                continue
            for flagged, job_id in self._watched.items():
                if job_id in flags and not flagged.done():
                    flagged.set_result(None)

    async def _read(self, job_ids: Sequence[UUID]) -> Mapping[UUID, CancelledBy]:
        """Read the flags of these jobs; return those that are set."""
        if not job_ids:
            return {}
        keys = [key for job_id in job_ids for key in (cancel_key(job_id), operator_cancel_key(job_id))]
        flags = iter(await self._redis.mget(keys))
        found: dict[UUID, CancelledBy] = {}
        for job_id, user, operator in zip(job_ids, flags, flags, strict=True):
            if user == b"true":
                found[job_id] = "user"
            elif operator == b"true":
                found[job_id] = "operator"
        return found

    async def forget_operator(self, job_id: UUID) -> None:
        """Delete the operator's cancel flag, because the job runs again."""
        await self._redis.delete(operator_cancel_key(job_id))
