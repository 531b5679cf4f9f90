"""The door to Redis: the list of job ids, and the user's cancel flags (domain.md §1).

An id leaves `jobs:queue` only into `jobs:processing`, atomically, and leaves that only once a run for it exists
(`finish`) or it can never run (`bury`). Until then every look at `jobs:processing` finds it again, with the same
delivery number, so that a tick cut off halfway and repeated asks for the same run.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import redis
import redis.asyncio

from quel_dagster.errors import QuelError, SettingsError

QUEUE = "jobs:queue"
PROCESSING = "jobs:processing"
DEAD = "jobs:dead"
#: hash: job id → number of the delivery under way
DELIVERIES = "jobs:deliveries"
#: hash: job id → how often its row was looked for in vain
MISSES = "jobs:misses"

#: Ids of a burst arrive one by one; waiting this long after the first makes one tick of them.
LINGER_SECONDS = 0.05
#: An answer that takes longer will not come. Longer than `claim` blocks: redis-py's own 5 s would end an idle wait
#: of 5 s with an error.
ANSWER_SECONDS = 15.0
#: A dead letter keeps the entry itself only up to this size.
DEAD_VALUE_BYTES = 1024

_TAKE = """
local moved = 0
for _, entry in ipairs(ARGV) do
    local copies = redis.call('LREM', KEYS[1], 0, entry)
    for _ = 1, copies do redis.call('LPUSH', KEYS[2], entry) end
    moved = moved + copies
end
return moved
"""

_UUID = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def cancel_key(job_id: UUID) -> str:
    """The user's cancel flag (domain.md §1)."""
    return f"job:{job_id}:cancelled"


def job_id_of(raw: bytes) -> UUID | None:
    """The job that an entry names; None when it is no UUID."""
    return UUID(raw.decode()) if _UUID.fullmatch(raw) else None


@dataclass(frozen=True)
class Delivery:
    """An entry of `jobs:processing`."""

    #: the exact bytes in the list
    raw: bytes
    #: None when the entry is no UUID
    job_id: UUID | None
    #: names this delivery; the same until `finish` or `bury`
    number: str = ""
    #: how many equal entries the list holds
    copies: int = 1

    @property
    def run_key(self) -> str:
        return f"{self.job_id}:{self.number}"

    def describe(self) -> str:
        """The entry without its bytes, for logs: length and hash."""
        return f"{len(self.raw)} bytes, sha256 {hashlib.sha256(self.raw).hexdigest()[:16]}"


@dataclass(frozen=True)
class DeadLetter:
    """An entry of `jobs:dead`."""

    #: the exact bytes in the list
    raw: bytes
    reason: str
    #: of the entry that it was made of: length in bytes, SHA-256
    length: int
    sha256: str
    #: seconds since the epoch
    at: float
    #: the entry itself as text, unless it was too long to keep
    value: str | None

    @classmethod
    def read(cls, raw: bytes) -> DeadLetter:
        """One that another program wrote is read as far as it can be."""
        try:
            letter = json.loads(raw)
        except ValueError:
            letter = None
        if not isinstance(letter, dict):
            return cls(raw, "not written by Quel", len(raw), hashlib.sha256(raw).hexdigest(), 0.0, None)
        at, value = letter.get("at"), letter.get("value")
        return cls(
            raw=raw,
            reason=str(letter.get("reason", "no reason given")),
            length=letter["length"] if isinstance(letter.get("length"), int) else len(raw),
            sha256=str(letter.get("sha256", "")),
            at=at if isinstance(at, int | float) else 0.0,
            value=value if isinstance(value, str) else None,
        )

    @property
    def name(self) -> str:
        """Names this letter, whatever else comes and goes in the list."""
        return hashlib.sha256(self.raw).hexdigest()[:10]

    @property
    def job_id(self) -> UUID | None:
        """The job that it is about; None when the entry was no UUID."""
        return UUID(self.value) if self.value and _UUID.fullmatch(self.value.encode()) else None


@dataclass(frozen=True)
class QueuePlace:
    """Where a job id is in Redis."""

    #: 1: the next one to be taken; None: not in `jobs:queue`
    position: int | None
    #: entries in `jobs:queue`
    waiting: int
    #: in `jobs:processing`, where a tick looks after it
    processing: bool
    #: ticks that looked in vain for the job's row
    misses: int


class JobQueue:
    """The queue of job ids. Synchronous: its one reader is the sensor, whose tick blocks on it."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError when `url` is no Redis URL. `rediss://` verifies the server's certificate."""
        self._redis = open_redis(redis.Redis, url)

    def close(self) -> None:
        self._redis.close()

    def push(self, *job_ids: UUID | str) -> None:
        """Push ids as the web app does."""
        self._redis.lpush(QUEUE, *(str(job_id) for job_id in job_ids))

    def push_next(self, job_id: UUID) -> None:
        """Push an id to the end that consumers take from: it goes on before those that wait."""
        self._redis.rpush(QUEUE, str(job_id))

    def claim(self, *, wait_seconds: float, limit: int) -> int:
        """Move waiting ids into `jobs:processing`, oldest first; block until there is one.

        Args:
            wait_seconds: how long to block on an empty queue, less than ANSWER_SECONDS; 0 looks once.
            limit: ids at most.

        Returns:
            how many were moved.
        """
        if wait_seconds > 0:
            if self._redis.blmove(QUEUE, PROCESSING, wait_seconds, "RIGHT", "LEFT") is None:
                return 0
            time.sleep(LINGER_SECONDS)
            moved = 1
        else:
            moved = 0
        while moved < limit:
            # one round trip for a batch; LMOVE on an empty list answers nil
            batch = self._redis.pipeline(transaction=False)
            for _ in range(min(50, limit - moved)):
                batch.lmove(QUEUE, PROCESSING, "RIGHT", "LEFT")
            found = sum(1 for value in batch.execute() if value is not None)
            moved += found
            if found < 50:
                break
        return moved

    def peek(self, limit: int) -> list[bytes]:
        """Entries of `jobs:queue` as they are, oldest first; none of them is taken."""
        return cast(list[bytes], self._redis.lrange(QUEUE, -limit, -1))[::-1]

    def take(self, entries: Sequence[bytes]) -> int:
        """Move these entries into `jobs:processing` in this order, each with all of its copies, in one step.

        Returns:
            how many were moved; what somebody else took meanwhile is not.
        """
        return int(self._redis.eval(_TAKE, 2, QUEUE, PROCESSING, *entries)) if entries else 0

    def deliveries(self) -> list[Delivery]:
        """Everything in `jobs:processing`, oldest first, equal entries as one, each with its delivery number."""
        copies: dict[bytes, int] = {}
        for raw in reversed(cast(list[bytes], self._redis.lrange(PROCESSING, 0, -1))):
            copies[raw] = copies.get(raw, 0) + 1
        if not copies:
            return []
        ids = {raw: job_id_of(raw) for raw in copies}
        fields = [str(job_id) for job_id in ids.values() if job_id]
        numbers: dict[str, str] = {}
        if fields:
            batch = self._redis.pipeline(transaction=True)
            for field in fields:
                batch.hsetnx(DELIVERIES, field, secrets.token_hex(6))
            batch.hmget(DELIVERIES, fields)
            numbers = dict(zip(fields, (value.decode() for value in batch.execute()[-1]), strict=True))
        return [
            Delivery(raw=raw, job_id=job_id, number=numbers.get(str(job_id), ""), copies=copies[raw])
            for raw, job_id in ids.items()
        ]

    def finish(self, deliveries: Sequence[Delivery]) -> None:
        """A run exists for these: take their entries away."""
        if deliveries:
            batch = self._redis.pipeline(transaction=True)
            for delivery in deliveries:
                self._remove(batch, delivery)
            batch.execute()

    def missed(self, delivery: Delivery) -> int:
        """Count that no row was found for this id; returns how often by now."""
        return int(cast(int, self._redis.hincrby(MISSES, str(delivery.job_id), 1)))

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Move an entry that can never run to `jobs:dead`, with the reason."""
        letter = {
            "reason": reason,
            "length": len(delivery.raw),
            "sha256": hashlib.sha256(delivery.raw).hexdigest(),
            "at": time.time(),
            "value": delivery.raw.decode("utf-8", "backslashreplace")
            if len(delivery.raw) <= DEAD_VALUE_BYTES
            else None,
        }
        batch = self._redis.pipeline(transaction=True)
        batch.lpush(DEAD, json.dumps(letter))
        self._remove(batch, delivery)
        batch.execute()

    @staticmethod
    def _remove(batch: Any, delivery: Delivery) -> None:
        batch.lrem(PROCESSING, 0, delivery.raw)
        if delivery.job_id:
            batch.hdel(DELIVERIES, str(delivery.job_id))
            batch.hdel(MISSES, str(delivery.job_id))

    def depths(self) -> dict[str, int]:
        """How many entries each list holds: `queue`, `processing`, `dead`."""
        batch = self._redis.pipeline(transaction=False)
        for name in (QUEUE, PROCESSING, DEAD):
            batch.llen(name)
        return dict(zip(("queue", "processing", "dead"), batch.execute(), strict=True))

    def waiting(self) -> set[bytes]:
        """The exact entries of `jobs:queue` and `jobs:processing`."""
        batch = self._redis.pipeline(transaction=True)
        batch.lrange(QUEUE, 0, -1)
        batch.lrange(PROCESSING, 0, -1)
        queue, processing = batch.execute()
        return {*queue, *processing}

    def cancelled(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Those of these jobs whose user asked to cancel within the last hour."""
        found: list[UUID] = []
        for start in range(0, len(job_ids), 1000):
            some = job_ids[start : start + 1000]
            flags = cast(list[bytes | None], self._redis.mget([cancel_key(job_id) for job_id in some]))
            found += [job_id for job_id, flag in zip(some, flags, strict=True) if flag == b"true"]
        return found

    def cancel(self, job_id: UUID) -> None:
        """Ask to cancel, as the web app does: the flag lives for one hour."""
        self._redis.set(cancel_key(job_id), "true", ex=3600)

    def bury_job(self, job_id: UUID, reason: str) -> None:
        """A dead letter for a job that is in no list."""
        self.bury(Delivery(raw=str(job_id).encode(), job_id=job_id), reason)

    def place(self, job_id: UUID) -> QueuePlace:
        """Where this id is now."""
        name = str(job_id)
        batch = self._redis.pipeline(transaction=True)
        batch.lpos(QUEUE, name, rank=-1)
        batch.llen(QUEUE)
        batch.lpos(PROCESSING, name)
        batch.hget(MISSES, name)
        index, waiting, processing, misses = batch.execute()
        return QueuePlace(
            position=None if index is None else waiting - index,
            waiting=waiting,
            processing=processing is not None,
            misses=int(misses or 0),
        )

    def letters(self) -> list[DeadLetter]:
        """The dead letters, newest first."""
        return [DeadLetter.read(raw) for raw in cast(list[bytes], self._redis.lrange(DEAD, 0, -1))]

    def requeue(self, letter: DeadLetter) -> bool:
        """Move a letter's job id back to `jobs:queue`. False when the letter is gone, or names no job."""
        if letter.job_id is None:
            return False
        batch = self._redis.pipeline(transaction=True)
        batch.lpush(QUEUE, str(letter.job_id))
        batch.lrem(DEAD, 1, letter.raw)
        return bool(batch.execute()[1])  # should it be gone: an id that is pushed once more makes nothing twice

    def drop(self, letter: DeadLetter) -> bool:
        """Forget a letter. False when it is gone already."""
        return bool(self._redis.lrem(DEAD, 1, letter.raw))

    def dead(self) -> list[dict[str, Any]]:
        """The dead letters, newest first."""
        return [json.loads(letter) for letter in cast(list[bytes], self._redis.lrange(DEAD, 0, -1))]


class CancelFlags:
    """`job:{job_id}:cancelled`, for the event loop that makes pictures."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError when `url` is no Redis URL."""
        self._redis = open_redis(redis.asyncio.Redis, url)

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def is_set(self, job_id: UUID) -> bool:
        """Did the user ask to cancel this job (within the last hour)?"""
        return bool(await self._redis.get(cancel_key(job_id)) == b"true")


def open_redis(kind: Any, url: str) -> Any:
    """A client of this kind, `redis.Redis` or `redis.asyncio.Redis`. Raises SettingsError when the URL is none."""
    try:
        return kind.from_url(
            url,
            socket_connect_timeout=5,
            socket_timeout=ANSWER_SECONDS,
            socket_keepalive=True,
            health_check_interval=30,
        )
    except ValueError:
        raise SettingsError("REDIS_URL is not a Redis URL; use redis://host:6379/0 or rediss://… for TLS.") from None


def celery_url(redis_url: str) -> str:
    """The same Redis as Celery wants its URL: `rediss://` has to say that certificates are verified."""
    parts = urlsplit(redis_url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        query = f"{parts.query}&" if parts.query else ""
        return parts._replace(query=f"{query}ssl_cert_reqs=required").geturl()
    return redis_url


def unreachable(error: redis.RedisError) -> QuelError:
    """A readable line for a Redis that is away; the address stays out of it, since it may hold a password."""
    return QuelError(f"Redis does not answer ({type(error).__name__}); check REDIS_URL and that the server runs.")
