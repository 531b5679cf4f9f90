"""Redis: reachable, new enough, and not about to forget the queue."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from quel_dagster.adapters.queue import DEAD, PROCESSING, QUEUE, unreachable
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.cli.output import plural
from quel_dagster.settings import Settings

#: LMOVE and BLMOVE
OLDEST_VERSION = (6, 2)
TIMEOUT_SECONDS = 5.0
#: of maxmemory
FULL = 0.9
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}

_part = Part("Redis")


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Every finding about Redis."""
    url = settings.redis()
    if url is None:
        yield _part.failed("REDIS_URL is not set", "set it, or start `quel up`")
        return
    try:
        client: Any = redis.Redis.from_url(
            url,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        yield _part.failed("REDIS_URL is not a Redis URL", "use redis://host:6379/0, or rediss://… for TLS")
        return
    with client:
        try:
            yield from _look(client, url)
        except redis.AuthenticationError:
            yield _part.failed("user or password refused", "check REDIS_URL, or REDIS_USERNAME and REDIS_PASSWORD")
        except redis.exceptions.NoPermissionError:
            yield _part.failed("a command that is needed is not permitted", "give its user +@all on ~jobs:* and ~job:*")
        except redis.RedisError as error:
            yield _part.failed(str(unreachable(error)).partition(";")[0], "check REDIS_URL, and that the server runs")


def _look(client: Any, url: str) -> Iterator[Finding]:
    client.ping()
    info = client.info()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_VERSION:
        yield _part.failed(f"version {version}", "upgrade to Redis 6.2 or newer: ids are moved with LMOVE")
        return
    yield _part.ok(f"version {version}")
    _move_an_entry(client)
    yield _part.ok("entries can be moved between lists")
    yield _memory(info)
    yield _persistence(info)
    parts = urlsplit(url)
    if parts.scheme == "redis" and (parts.hostname or "localhost") not in _LOOPBACK:
        yield _part.warning("the connection is not encrypted", "use rediss://, or REDIS_USE_TLS=true")
    yield from _lists(client)


def _move_an_entry(client: Any) -> None:
    """What the queue does, on keys of its own that expire."""
    source = f"quel_dagster:doctor:{secrets.token_hex(6)}"
    target = f"{source}:taken"
    batch = client.pipeline(transaction=True)
    batch.lpush(source, "probe")
    batch.expire(source, 60)
    batch.lmove(source, target, "RIGHT", "LEFT")
    batch.delete(source, target)
    batch.execute()


def _memory(info: dict[str, Any]) -> Finding:
    limit, used = info.get("maxmemory", 0), info.get("used_memory", 0)
    policy = info.get("maxmemory_policy", "noeviction")
    if limit and policy != "noeviction":
        return _part.failed(
            f"maxmemory-policy is {policy}: queued ids may be thrown away", "config set maxmemory-policy noeviction"
        )
    if limit and used > FULL * limit:
        return _part.warning(f"{used / limit:.0%} of maxmemory is used", "raise maxmemory: a full Redis refuses pushes")
    return _part.ok(f"nothing is evicted ({policy}{'' if limit else ', no memory limit'})")


def _persistence(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok":
            return _part.failed("the append-only file cannot be written", "free its disk, and see the log of Redis")
        return _part.ok("survives a restart (append-only file)")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return _part.failed("snapshots cannot be written", "free its disk, and see the log of Redis")
    return _part.warning(
        "no append-only file: a restart forgets what was pushed since the last snapshot",
        "config set appendonly yes; until then the sweep brings such jobs back after a minute or two",
    )


def _lists(client: Any) -> Iterator[Finding]:
    names = (QUEUE, PROCESSING, DEAD)
    for name in names:
        kind = client.type(name).decode()
        if kind not in {"none", "list"}:
            yield _part.failed(f"{name} is a {kind}, not a list", "find out who wrote it, then delete it")
            return
    queue, processing, dead = (client.llen(name) for name in names)
    yield _part.ok(f"{queue:,} waiting, {processing:,} being launched")
    if dead:
        yield _part.warning(f"{plural(dead, 'dead letter')} in {DEAD}", "quel dead list")
