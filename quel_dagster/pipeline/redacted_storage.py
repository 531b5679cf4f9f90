"""Dagster's PostgreSQL storage, with the secrets taken out of every text that it keeps for people.

Events, ticks and heartbeats hold whatever an exception of any library said; all of them pass here on their way to the
run's page. Names, ids and run config are left alone: nothing of ours puts a secret there, and a weak password that
happens to be a name as well must not break what Dagster looks up by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from dagster._core.events.log import EventLogEntry
from dagster._core.scheduler.instigation import InstigatorTick, TickData
from dagster._core.storage.base_storage import DagsterStorage
from dagster._daemon.types import DaemonHeartbeat
from dagster._serdes import ConfigurableClassData, deserialize_value, serialize_value
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from typing_extensions import override

from quel_dagster.pipeline.event_writer import GatheredEvents
from quel_dagster.redaction import redact

T = TypeVar("T")

_with_tables: set[str] = set()

#: fields whose text people read, of events, errors, metadata values, ticks
_TOLD = frozenset(
    {"message", "user_message", "stack", "description", "label", "skip_reason"}
    | {"text", "md_str", "data", "url", "path", "value", "records"}
)


def redacted(value: T) -> T:
    """The same value of Dagster's, without a secret in any of its texts."""
    written = serialize_value(cast(Any, value))
    if redact(written) == written:
        return value
    return cast(T, deserialize_value(json.dumps(_walk(json.loads(written), told=False))))


def _walk(value: Any, *, told: bool) -> Any:
    if isinstance(value, dict):
        # names between underscores say of which class a value is
        return {name: _walk(each, told=(told or name in _TOLD) and name[:2] != "__") for name, each in value.items()}
    if isinstance(value, list):
        return [_walk(each, told=told) for each in value]
    return redact(value) if told and isinstance(value, str) else value


class RedactedEvents(GatheredEvents):
    """What runs say."""

    @override
    def store_event(self, event: EventLogEntry) -> None:
        super().store_event(redacted(event))

    @override
    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        super().store_event_batch([redacted(event) for event in events])


class RedactedTicks(PostgresScheduleStorage):
    """What sensors and schedules say."""

    @override
    def create_tick(self, tick_data: TickData) -> InstigatorTick:
        return super().create_tick(redacted(tick_data))

    @override
    def update_tick(self, tick: InstigatorTick) -> InstigatorTick:
        return super().update_tick(InstigatorTick(tick.tick_id, redacted(tick.tick_data)))


class RedactedRuns(PostgresRunStorage):
    """What daemons say of themselves."""

    @override
    def add_daemon_heartbeat(self, daemon_heartbeat: DaemonHeartbeat) -> None:
        super().add_daemon_heartbeat(redacted(daemon_heartbeat))


class RedactedStorage(DagsterPostgresStorage):
    """Made of the three above."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        # its own parent would open three storages that nobody wants
        DagsterStorage.__init__(self)  # type: ignore[no-untyped-call, arg-type]
        self.postgres_url = postgres_url
        self.should_autocreate_tables = True
        self._inst_data = inst_data
        # each of them looks for its tables: once a process is enough, and a worker opens its storage for every run
        make_tables = postgres_url not in _with_tables
        self._run_storage = RedactedRuns(postgres_url, make_tables)
        self._event_log_storage = RedactedEvents(postgres_url, make_tables)
        self._schedule_storage = RedactedTicks(postgres_url, make_tables)
        _with_tables.add(postgres_url)
