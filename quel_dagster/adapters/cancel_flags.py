"""The flags of a job that was cancelled: the user's (domain.md §1) and the operator's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import UUID

import redis.asyncio

from quel_dagster.adapters.database.records import CancelledBy
from quel_dagster.adapters.redis_connection import open_redis


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
        self._asked: set[UUID] = set()
        self._reading: asyncio.Task[Mapping[UUID, CancelledBy]] | None = None

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def cancelled_by(self, job_id: UUID) -> CancelledBy | None:
        """Return which flag is set for this job, the user's before the operator's; None when none is.

        All jobs asked for in one turn of the event loop are read with one command.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        self._asked.add(job_id)
        # one caller of several may be cancelled
        return (await asyncio.shield(self._reading)).get(job_id)

    async def _read(self) -> Mapping[UUID, CancelledBy]:
        """Read the flags of the jobs asked for until now; begins in the turn after the first request."""
        job_ids, self._asked, self._reading = list(self._asked), set(), None
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
