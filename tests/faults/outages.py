"""Outages of whole servers that last long enough to tempt a program to give up.

Each is a context manager: the outage lasts as long as its block, and always ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import psycopg
import redis

from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.faults.installation import Installation

Outage = Callable[[Installation], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def redis_is_a_replica(site: Installation) -> AsyncIterator[None]:
    """Writes are answered READONLY, as by a master that was demoted."""
    _redis(site, "REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        await _until(lambda: _redis(site, "REPLICAOF", "NO", "ONE"))


@asynccontextmanager
async def redis_is_full(site: Installation) -> AsyncIterator[None]:
    """Writes are answered OOM."""
    _redis(site, "CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        await _until(lambda: _redis(site, "CONFIG", "SET", "maxmemory", "0"))


@asynccontextmanager
async def postgres_is_read_only(site: Installation) -> AsyncIterator[None]:
    """Writes are answered with SQLSTATE 25006, as by a standby after a failover; Dagster's too."""
    _postgres(site, "alter system set default_transaction_read_only = on")
    try:
        yield
    finally:
        await _until(lambda: _postgres(site, "alter system reset default_transaction_read_only"))


@asynccontextmanager
async def store_is_unreachable(site: Installation) -> AsyncIterator[None]:
    """Every connection to the object store is refused."""
    site.proxies.storage.refuse()
    try:
        yield
    finally:
        site.proxies.storage.heal()


@asynccontextmanager
async def gemini_is_overloaded(site: Installation) -> AsyncIterator[None]:
    """Every request is answered 503."""
    state = site.gemini.state
    state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE))
    try:
        yield
    finally:
        latency = state.latency
        state.reset()
        state.latency = latency


#: name → outage, and its length in seconds (faults.md)
OUTAGES: dict[str, tuple[Outage, float]] = {
    "Redis READONLY, 25 s": (redis_is_a_replica, 25.0),
    "Redis OOM, 25 s": (redis_is_full, 25.0),
    "PostgreSQL read-only, 20 s": (postgres_is_read_only, 20.0),
    "store unreachable, 20 s": (store_is_unreachable, 20.0),
    "Gemini overloaded, 60 s": (gemini_is_overloaded, 60.0),
}


def _redis(site: Installation, *command: str) -> None:
    with redis.Redis.from_url(site.redis_url) as client:
        client.execute_command(*command)


def _postgres(site: Installation, statement: str) -> None:
    with psycopg.connect(site.database_url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(statement.encode())
        connection.execute("select pg_reload_conf()")


async def _until(act: Callable[[], None]) -> None:
    """Do it as soon as the server is there: it may have been killed meanwhile."""
    async with asyncio.timeout(90):
        while True:
            with suppress(redis.RedisError, psycopg.Error):
                act()
                return
            await asyncio.sleep(0.1)
