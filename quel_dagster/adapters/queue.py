"""Access to Redis: the lists of job ids, and the user's cancel flags (domain.md §1).

An id leaves `jobs:queue` or `jobs:again` only into `jobs:processing`, atomically. It leaves that list only when a run
for it exists (`finish`) or it can never run (`dead_letter`). Until then every read of `jobs:processing` returns it with
the same delivery number, so a repeated tick requests the same run.

The web app pushes onto `jobs:queue`, which the older worker reads too. This project pushes onto `jobs:again`, which the
older worker does not read: it would make and charge the whole job a second time.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Collection, Sequence
from typing import Any, cast
from uuid import UUID

import redis

from quel_dagster.adapters.cancel_flags import cancel_key, operator_cancel_key
from quel_dagster.adapters.queue_entries import (
    DEAD_VALUE_BYTES,
    LETTER_BYTES,
    DeadLetter,
    Delivery,
    QueuePlace,
    describe_entry,
    encode_letter,
    job_id_of,
)
from quel_dagster.adapters.redis_connection import open_redis

QUEUE = "jobs:queue"
#: ids that this project pushed again: sweep, retry, hand-over, requeued dead letters
AGAIN = "jobs:again"
PROCESSING = "jobs:processing"
DEAD = "jobs:dead"
#: hash: job id → number of the delivery under way
DELIVERIES = "jobs:deliveries"
#: hash: job id → ticks that did not find its row
MISSES = "jobs:misses"

#: Ids of a burst arrive one by one: a wait ends when none has come for this long, so that one tick takes them all,
#: and after LONGEST_LINGER_SECONDS at the latest.
LINGER_SECONDS = 0.01
LONGEST_LINGER_SECONDS = 0.05
#: A wait reads `jobs:again` this often while it blocks on `jobs:queue`: BLMOVE waits for one list only.
AGAIN_LOOK_SECONDS = 0.5
#: Entries that stay in `jobs:queue` keep BLMOVE from blocking: a wait then polls this often.
LEFT_ALONE_LOOK_SECONDS = 0.25
#: The last ARGV[1] entries of a list, right end first; in place of one longer than ARGV[2] bytes its SHA-1 and length.
_LOOK = """
local entries = redis.call('LRANGE', KEYS[1], -ARGV[1], -1)
local longest = tonumber(ARGV[2])
local found = {}
for place = #entries, 1, -1 do
    local entry = entries[place]
    found[#found + 1] = #entry <= longest and entry or {redis.sha1hex(entry), #entry}
end
return found
"""
#: Move the entries of ARGV from the lists KEYS[2…] into KEYS[1], each with all of its copies; how many were moved.
_TAKE = """
local moved = 0
for _, entry in ipairs(ARGV) do
    for list = 2, #KEYS do
        local copies = redis.call('LREM', KEYS[list], 0, entry)
        for _ = 1, copies do redis.call('LPUSH', KEYS[1], entry) end
        moved = moved + copies
    end
end
return moved
"""
#: The first entry of the lists KEYS that is longer than ARGV[1] bytes, with its list.
_FIND_LONG = """
local longest = tonumber(ARGV[1])
for _, list in ipairs(KEYS) do
    for _, entry in ipairs(redis.call('LRANGE', list, 0, -1)) do
        if #entry > longest then return {list, entry} end
    end
end
return false
"""
#: Remove from KEYS[1] the entries of SHA-1 ARGV[1] and length ARGV[2]; push the letter ARGV[3], if any, onto KEYS[2].
_REMOVE_LONG = """
local length = tonumber(ARGV[2])
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    if #entry == length and redis.sha1hex(entry) == ARGV[1] then
        local copies = redis.call('LREM', KEYS[1], 0, entry)
        if ARGV[3] then redis.call('LPUSH', KEYS[2], ARGV[3]) end
        return copies
    end
end
return 0
"""

#: as many entries as a list has
_ALL = 10**9


class JobQueue:
    """The queue of job ids. Synchronous: its only reader is the sensor, and a tick blocks on it."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError when `url` is no Redis URL. `rediss://` verifies the server's certificate."""
        self._redis = open_redis(redis.Redis, url)

    @property
    def client(self) -> redis.Redis:
        """Return the connection, for other queries to this Redis in the same tick."""
        return cast(redis.Redis, self._redis)

    def close(self) -> None:
        self._redis.close()

    def push(self, *job_ids: UUID | str) -> None:
        """Push ids as the web app does."""
        self._redis.lpush(QUEUE, *(str(job_id) for job_id in job_ids))

    def push_again(self, *job_ids: UUID) -> None:
        """Push ids of jobs that continue, for this project alone; they are taken before those of `jobs:queue`."""
        self._redis.lpush(AGAIN, *(str(job_id) for job_id in job_ids))

    def wait(self, seconds: float, *, left_alone: Collection[bytes] = ()) -> bool:
        """Block until an id waits in `jobs:again` or `jobs:queue`; nothing is taken.

        Args:
            left_alone: entries of `jobs:queue` that do not count.

        Returns:
            whether one waits.
        """
        until = time.monotonic() + seconds
        while True:
            if self._redis.llen(AGAIN):
                return True
            entries = self._look(QUEUE, _ALL if left_alone else 1)
            if any(not isinstance(entry, bytes) or entry not in left_alone for entry in entries):
                return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            if entries:
                time.sleep(min(LEFT_ALONE_LOOK_SECONDS, left))
            # From the right end to the right end: it waits for an entry, and leaves it where it is.
            elif self._redis.blmove(QUEUE, QUEUE, min(AGAIN_LOOK_SECONDS, left), "RIGHT", "RIGHT") is not None:
                self._linger()

    def _linger(self) -> None:
        """Let the rest of a burst arrive."""
        until = time.monotonic() + LONGEST_LINGER_SECONDS
        arrived = cast(int, self._redis.llen(QUEUE))
        while time.monotonic() < until:
            time.sleep(LINGER_SECONDS)
            before, arrived = arrived, cast(int, self._redis.llen(QUEUE))
            if arrived <= before:
                return

    def peek(self, limit: int, *, source: str = QUEUE) -> list[bytes]:
        """Return the entries of a list, oldest first, without those too long to be an id; the list is unchanged."""
        return [entry for entry in self._look(source, limit) if isinstance(entry, bytes)]

    def _look(self, source: str, limit: int, *, longest: int = DEAD_VALUE_BYTES) -> list[bytes | tuple[str, int]]:
        """Return the entries of a list, oldest first; of a long entry its SHA-1 and length."""
        found = cast(list[Any], self._redis.eval(_LOOK, 1, source, limit, longest))
        return [entry if isinstance(entry, bytes) else (entry[0].decode(), entry[1]) for entry in found]

    def take(self, entries: Sequence[bytes], *, sources: Sequence[str] = (AGAIN, QUEUE)) -> int:
        """Move these entries into `jobs:processing` in this order, each with all of its copies, in one step.

        Returns:
            how many were moved; an entry that another consumer took meanwhile is not.
        """
        if not entries:
            return 0
        return int(cast(int, self._redis.eval(_TAKE, 1 + len(sources), PROCESSING, *sources, *entries)))

    def dead_letter_long_entries(self, reason: str) -> list[str]:
        """Move entries that are too long to be an id to `jobs:dead`, each loaded once.

        Returns:
            a description of each.
        """
        moved = []
        lists = (AGAIN, QUEUE, PROCESSING)
        while found := cast(list[bytes] | None, self._redis.eval(_FIND_LONG, len(lists), *lists, DEAD_VALUE_BYTES)):
            source, raw = found
            sha1 = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
            self._redis.eval(_REMOVE_LONG, 2, source, DEAD, sha1, len(raw), encode_letter(raw, reason))
            moved.append(describe_entry(raw))
        return moved

    def deliveries(self) -> list[Delivery]:
        """Return all of `jobs:processing`, oldest first, equal entries as one, each with its delivery number."""
        copies: dict[bytes, int] = {}
        for raw in self.peek(_ALL, source=PROCESSING):
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
        """Remove the entries of these deliveries, for which runs exist."""
        if deliveries:
            batch = self._redis.pipeline(transaction=True)
            for delivery in deliveries:
                self._remove(batch, delivery)
            batch.execute()

    def missed(self, delivery: Delivery) -> int:
        """Count that no row was found for this id; return the count."""
        return int(cast(int, self._redis.hincrby(MISSES, str(delivery.job_id), 1)))

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Move an entry that can never run to `jobs:dead`, with the reason."""
        batch = self._redis.pipeline(transaction=True)
        batch.lpush(DEAD, encode_letter(delivery.raw, reason))
        self._remove(batch, delivery)
        batch.execute()

    @staticmethod
    def _remove(batch: Any, delivery: Delivery) -> None:
        batch.lrem(PROCESSING, 0, delivery.raw)
        if delivery.job_id:
            batch.hdel(DELIVERIES, str(delivery.job_id))
            batch.hdel(MISSES, str(delivery.job_id))

    def depths(self) -> dict[str, int]:
        """Return the number of entries of each list: `again`, `queue`, `processing`, `dead`."""
        batch = self._redis.pipeline(transaction=False)
        for name in (AGAIN, QUEUE, PROCESSING, DEAD):
            batch.llen(name)
        return dict(zip(("again", "queue", "processing", "dead"), batch.execute(), strict=True))

    def waiting(self) -> set[bytes]:
        """Return the entries of `jobs:again`, `jobs:queue` and `jobs:processing` that may be ids."""
        # in the order in which an id moves: one that moves meanwhile is seen twice, not never
        return {entry for source in (AGAIN, QUEUE, PROCESSING) for entry in self.peek(_ALL, source=source)}

    def cancelled(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Return those of these jobs that their user asked to cancel within the last hour."""
        found: list[UUID] = []
        for start in range(0, len(job_ids), 1000):
            some = job_ids[start : start + 1000]
            flags = cast(list[bytes | None], self._redis.mget([cancel_key(job_id) for job_id in some]))
            found += [job_id for job_id, flag in zip(some, flags, strict=True) if flag == b"true"]
        return found

    def cancel(self, job_id: UUID) -> None:
        """Ask to cancel, as the web app does: the flag lives for one hour."""
        self._redis.set(cancel_key(job_id), "true", ex=3600)

    def cancel_as_operator(self, job_id: UUID) -> None:
        """Set the operator's cancel flag for the run at work; `Database.keep_cancel` stores the cancel."""
        self._redis.set(operator_cancel_key(job_id), "true", ex=3600)

    def dead_letter_job(self, job_id: UUID, reason: str) -> None:
        """Push a dead letter for a job that is in no list."""
        self.dead_letter(Delivery(raw=str(job_id).encode(), job_id=job_id), reason)

    def place(self, job_id: UUID) -> QueuePlace:
        """Return the place of this id now."""
        name = str(job_id)
        batch = self._redis.pipeline(transaction=True)
        for source in (AGAIN, QUEUE):
            batch.lpos(source, name, rank=-1)
            batch.llen(source)
        batch.lpos(PROCESSING, name)
        batch.hget(MISSES, name)
        in_again, again, in_queue, queue, processing, misses = batch.execute()
        position = None if in_queue is None else again + queue - in_queue
        return QueuePlace(
            position=position if in_again is None else again - in_again,
            waiting=again + queue,
            processing=processing is not None,
            misses=int(misses or 0),
        )

    def letters(self) -> list[DeadLetter]:
        """Return the dead letters, newest first."""
        oldest_first = self._look(DEAD, _ALL, longest=LETTER_BYTES)
        return [
            DeadLetter.read(entry) if isinstance(entry, bytes) else DeadLetter.unread(*entry)
            for entry in reversed(oldest_first)
        ]

    def requeue(self, letter: DeadLetter) -> bool:
        """Move a letter's job id to `jobs:again`. Return False when the letter no longer exists or names no job."""
        if letter.job_id is None or letter.raw is None:
            return False
        batch = self._redis.pipeline(transaction=True)
        batch.lpush(AGAIN, str(letter.job_id))
        batch.lrem(DEAD, 1, letter.raw)
        return bool(batch.execute()[1])  # should it be gone: an id that is pushed once more makes nothing twice

    def drop(self, letter: DeadLetter) -> bool:
        """Delete a letter. Return False when it no longer exists."""
        if letter.raw is None:
            return bool(self._redis.eval(_REMOVE_LONG, 1, DEAD, letter.sha1, letter.length))
        return bool(self._redis.lrem(DEAD, 1, letter.raw))
