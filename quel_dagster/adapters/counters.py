"""Counters that all worker processes share: increasing numbers in one Redis hash.

They are in Redis because workers start and stop on many hosts, where Prometheus cannot scrape them. A Redis that loses
its data resets them to zero, as Prometheus expects after a restart. They feed graphs only: credits and pictures are
counted in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import redis
import redis.asyncio

from quel_dagster.adapters.redis_connection import open_redis
from quel_dagster.errors import GeminiError

COUNTERS = "quel_dagster:counters"
#: Upper bounds of the buckets of Gemini's latency, seconds.
BUCKETS = (1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, float("inf"))


class Tally:
    """The counts of one session; a name is `metric` or `metric|label`."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def add(self, name: str, amount: float = 1.0) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + amount

    def call_failed(self, error: GeminiError, *, retried: bool) -> None:
        """A call to Gemini that gave no picture."""
        self.add(f"gemini_calls|{outcome_of(error)}")
        if retried:
            self.add("gemini_retries")

    def picture_made(self, *, gemini_seconds: float) -> None:
        """A call that gave a picture; seconds in calls for it, failed ones included."""
        self.add("gemini_calls|ok")
        self.add("gemini_seconds_sum", gemini_seconds)
        self.add(f"gemini_seconds|{next(bound for bound in BUCKETS if gemini_seconds <= bound)}")


def outcome_of(error: GeminiError) -> str:
    """`refused`, `no_picture`, `rate_limited`, `timeout`, `unavailable`, `bad_answer`, `rejected`, `model`, …"""
    name = type(error).__name__.removeprefix("Gemini").removesuffix("Error")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_") or "other"


class Counters:
    """Access to the hash from the event loop that makes pictures."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError when `url` is no Redis URL."""
        self._redis: redis.asyncio.Redis = open_redis(redis.asyncio.Redis, url)

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def add(self, counts: Mapping[str, float]) -> None:
        """Add a session's counts, in one round trip.

        Raises:
            redis.RedisError
        """
        if counts:
            batch = self._redis.pipeline(transaction=False)
            for name, amount in counts.items():
                batch.hincrbyfloat(COUNTERS, name, amount)
            await batch.execute()


def read_counters(url: str) -> dict[str, float]:
    """Return every counter.

    Raises:
        redis.RedisError
    """
    client: Any = open_redis(redis.Redis, url)
    try:
        return {
            name.decode(): float(value) for name, value in cast(dict[bytes, bytes], client.hgetall(COUNTERS)).items()
        }
    finally:
        client.close()
