"""Connections to Redis: one URL, and the same limits for every client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis import RedisError

from quel_dagster.errors import QuelError, SettingsError

#: Longest wait for an answer of Redis. It exceeds the longest wait of `JobQueue.wait`, which redis-py's default of 5 s
#: would end with an error.
ANSWER_SECONDS = 15.0


def open_redis(kind: Any, url: str) -> Any:
    """Return a client of this class, `redis.Redis` or `redis.asyncio.Redis`. Raises SettingsError for a wrong URL."""
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


async def answer_within(seconds: float, question: Awaitable[Any]) -> Any:
    """Return Redis's answer; None when there is none within `seconds`, or Redis is unreachable.

    redis-py may swallow a cancellation (Python 3.11), so the caller does not await the question itself.
    """
    asked = asyncio.ensure_future(question)
    try:
        await asyncio.wait({asked}, timeout=seconds)
    finally:
        if not asked.done():  # no answer, or the caller was cancelled
            asked.add_done_callback(lambda task: task.cancelled() or task.exception())
            asked.cancel()
    if not asked.done() or asked.cancelled():
        return None
    if (error := asked.exception()) is None:
        return asked.result()
    if isinstance(error, RedisError | OSError):
        return None
    raise error


def celery_url(redis_url: str) -> str:
    """Return the URL of this Redis for Celery: `rediss://` needs an option that certificates are verified."""
    parts = urlsplit(redis_url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        query = f"{parts.query}&" if parts.query else ""
        return parts._replace(query=f"{query}ssl_cert_reqs=required").geturl()
    return redis_url


def unreachable(error: redis.RedisError) -> QuelError:
    """Return a message for an unreachable Redis, without the URL, which may hold a password."""
    return QuelError(f"Redis does not answer ({type(error).__name__}); check REDIS_URL and that the server runs.")
