"""Dagster's PostgreSQL storage with secrets redacted in every text that people read.

Events, ticks and heartbeats contain exception messages of any library; all of them pass through here on their way to
a run's page. Names, ids and run config are left unchanged: this program puts no secrets there, and a weak password
that equals a name must not break what Dagster looks up by it.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar, cast

from typing_extensions import override

from quel_dagster.platform.event_log import NewEvent
from quel_dagster.platform.input_versions import InputVersions
from quel_dagster.platform.internals import (
    ConfigurableClassData,
    DaemonHeartbeat,
    DagsterPostgresStorage,
    DagsterStorage,
    EventLogEntry,
    InstigatorTick,
    PostgresScheduleStorage,
    TickData,
    deserialize_value,
    serialize_value,
)
from quel_dagster.platform.run_states import RunStates
from quel_dagster.redaction import redact

T = TypeVar("T")

_with_tables: set[str] = set()

#: fields with text for people, of events, errors, metadata values, ticks
_TEXTS = frozenset(
    {"message", "user_message", "stack", "description", "label", "skip_reason"}
    | {"text", "md_str", "data", "url", "path", "value", "records"}
)


def redacted(value: T) -> T:
    """Return the same Dagster value with the secrets in its texts redacted."""
    written = serialize_value(cast(Any, value))
    if redact(written) == written:
        return value
    return cast(T, deserialize_value(json.dumps(_walk(json.loads(written), is_text=False))))


def _walk(value: Any, *, is_text: bool) -> Any:
    if isinstance(value, dict):
        # names between underscores hold the class of a value
        return {
            name: _walk(each, is_text=(is_text or name in _TEXTS) and name[:2] != "__") for name, each in value.items()
        }
    if isinstance(value, list):
        return [_walk(each, is_text=is_text) for each in value]
    return redact(value) if is_text and isinstance(value, str) else value


class RedactedEvents(InputVersions):
    """Redacts the events of runs."""

    @override
    def _new_event(self, event: EventLogEntry) -> NewEvent:
        """Return the event with its row; it is serialized once, unless it holds a secret."""
        new = super()._new_event(event)
        return new if redact(new.row["event"]) == new.row["event"] else super()._new_event(redacted(event))


class RedactedTicks(PostgresScheduleStorage):
    """Redacts the results of sensors and schedules."""

    @override
    def create_tick(self, tick_data: TickData) -> InstigatorTick:
        return super().create_tick(redacted(tick_data))

    @override
    def update_tick(self, tick: InstigatorTick) -> InstigatorTick:
        return super().update_tick(InstigatorTick(tick.tick_id, redacted(tick.tick_data)))


class RedactedRuns(RunStates):
    """Redacts the heartbeats of daemons."""

    @override
    def add_daemon_heartbeat(self, daemon_heartbeat: DaemonHeartbeat) -> None:
        super().add_daemon_heartbeat(redacted(daemon_heartbeat))


class RedactedStorage(DagsterPostgresStorage):
    """The storage of the three classes above."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        # the parent's constructor would open three more storages
        DagsterStorage.__init__(self)  # type: ignore[no-untyped-call, arg-type]
        self.postgres_url = postgres_url
        self.should_autocreate_tables = True
        self._inst_data = inst_data
        # each of them checks its tables: once per process is enough, and a worker opens its storage for every run
        make_tables = postgres_url not in _with_tables
        self._run_storage = RedactedRuns(postgres_url, make_tables)
        self._event_log_storage = RedactedEvents(postgres_url, make_tables)
        self._schedule_storage = RedactedTicks(postgres_url, make_tables)
        _with_tables.add(postgres_url)
