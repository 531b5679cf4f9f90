"""The live worker processes, from their records in Redis: what they hold, and which have died.

A record lives as long as it is refreshed: by the process, and by its parent, which sees whether the process exists. A
busy process that answers nothing keeps its record; the parent reports a dead one at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from quel_dagster.adapters.redis_connection import open_redis
from quel_dagster.platform.broker import KEY_PREFIX

#: Seconds until a record that is not refreshed expires: then its whole host is down.
RECORD_SECONDS = 10
#: Seconds that deaths are kept after the last one, in case the daemon is down meanwhile.
DEATHS_SECONDS = 24 * 3600
#: Seconds that a claim is kept: longer than any run.
CLAIM_SECONDS = 7 * 24 * 3600

_INDEX = f"{KEY_PREFIX}workers"
_DEATHS = f"{KEY_PREFIX}worker_deaths"
_PROBE = f"{KEY_PREFIX}broker_probe"


@dataclass(frozen=True)
class Workers:
    """A snapshot of the records in Redis."""

    #: maximum of concurrent runs, over all live processes
    capacity: int = 0
    #: run → name of the live process that has it
    holders: Mapping[str, str] = field(default_factory=dict)
    #: name of a live process → its process id on its host
    pids: Mapping[str, int] = field(default_factory=dict)
    #: run → how its process ended
    deaths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Record:
    """The record that one process writes."""

    pid: int
    capacity: int
    runs: tuple[str, ...]

    @classmethod
    def read(cls, text: bytes | str | None) -> _Record:
        found: dict[str, Any] = json.loads(text) if text else {"pid": 0, "capacity": 0, "runs": []}
        return cls(int(found["pid"]), int(found["capacity"]), tuple(found["runs"]))


class WorkerBoard:
    """Reads and writes the records. May be shared by threads: the client has a connection pool."""

    def __init__(self, url: str) -> None:
        self._client: redis.Redis = open_redis(redis.Redis, url)

    def close(self) -> None:
        self._client.close()

    def publish(self, name: str, *, pid: int, capacity: int, runs: Collection[str]) -> None:
        """Write the record of a process."""
        record = json.dumps({"pid": pid, "capacity": capacity, "runs": sorted(runs)})
        with self._client.pipeline(transaction=False) as batch:
            batch.set(_record(name), record, ex=RECORD_SECONDS)
            batch.sadd(_INDEX, name)
            batch.execute()

    def refresh(self, names: Collection[str]) -> None:
        """Keep the records of these processes alive; a parent calls this for its living children."""
        with self._client.pipeline(transaction=False) as batch:
            for name in names:
                batch.expire(_record(name), RECORD_SECONDS)
            batch.execute()

    def published(self, name: str) -> bool:
        """Return whether this process has a record."""
        return bool(self._client.exists(_record(name)))

    def remove(self, name: str) -> None:
        """Remove the record of a process that ended in order."""
        self._client.delete(_record(name))
        self._client.srem(_INDEX, name)

    def report_death(self, name: str, how: str) -> None:
        """Report that a process died, and its runs with it."""
        runs = _Record.read(self._client.get(_record(name))).runs
        with self._client.pipeline(transaction=True) as batch:
            if runs:
                batch.hset(_DEATHS, mapping=dict.fromkeys(runs, how))
                batch.expire(_DEATHS, DEATHS_SECONDS)
            batch.delete(_record(name))
            batch.srem(_INDEX, name)
            batch.execute()

    def read(self) -> Workers:
        """Read all records.

        Raises:
            redis.RedisError: Redis does not answer, so the state of every process is unknown.
        """
        names = sorted(_text(name) for name in self._client.smembers(_INDEX))
        with self._client.pipeline(transaction=False) as batch:
            for name in names:
                batch.get(_record(name))
            batch.hgetall(_DEATHS)
            *records, deaths = batch.execute()
        live = {name: _Record.read(record) for name, record in zip(names, records, strict=True) if record is not None}
        expired = [name for name in names if name not in live]
        if expired:
            self._client.srem(_INDEX, *expired)
        return Workers(
            capacity=sum(record.capacity for record in live.values()),
            holders={run_id: name for name, record in live.items() for run_id in record.runs},
            deaths={_text(run_id): _text(how) for run_id, how in deaths.items()},
            pids={name: record.pid for name, record in live.items()},
        )

    def claim(self, run_id: str, name: str) -> bool:
        """Claim a launched run for this process. False: another process has claimed this launch."""
        return bool(self._client.set(_claim(run_id), name, nx=True, ex=CLAIM_SECONDS))

    def release(self, run_id: str) -> None:
        """Allow the run to be claimed and launched again, and forget how its process ended."""
        with self._client.pipeline(transaction=False) as batch:
            batch.delete(_claim(run_id))
            batch.hdel(_DEATHS, run_id)
            batch.execute()

    def probe(self) -> None:
        """Write a test value, as a message to the broker would.

        Raises:
            redis.RedisError: this Redis accepts no writes now.
        """
        self._client.set(_PROBE, "1", ex=RECORD_SECONDS)


def _record(name: str) -> str:
    return f"{KEY_PREFIX}worker:{name}"


def _claim(run_id: str) -> str:
    return f"{KEY_PREFIX}run_claim:{run_id}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
