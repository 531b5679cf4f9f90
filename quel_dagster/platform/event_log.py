"""Dagster's event log: the events of a worker in batches, and those of assets with few statements.

Dagster writes every event at once, and the caller waits for PostgreSQL. In a worker, events are collected briefly and
written by a thread in one statement. Only the end of a run, on which others act, is not delayed. Everything before it
is written first, in order, and also before anything is read. The start of a run is recorded on the run itself.

An event of an asset also changes Dagster's tables of assets. The row of an asset is the same for all runs: a batch
changes it once, in the order of the keys, so that two processes cannot wait for each other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dagster import AssetCheckEvaluation, AssetKey, DagsterEvent, DagsterEventType, DagsterInstance, DagsterLogManager
from sqlalchemy import Connection, Insert, bindparam, exists, select
from sqlalchemy.dialects import postgresql
from typing_extensions import override

from quel_dagster.platform.event_writer import EventWriter, gathering, step_outputs
from quel_dagster.platform.internals import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionsTable,
    AssetKeyTable,
    DagsterEventBatchMetadata,
    EventListenerLogHandler,
    EventLogEntry,
    PoolConfig,
    PostgresEventLogStorage,
    SqlEventLogStorageTable,
    create_pg_connection,
)
from quel_dagster.platform.storage_connections import without_a_turn

#: Events that are not stored: a run page lists them between those that matter, and nothing reads them. The end of a
#: step's work on an output is its STEP_OUTPUT; resources are objects of the process. They would be 30 % of all rows.
OMITTED = frozenset(
    {
        DagsterEventType.STEP_INPUT,
        DagsterEventType.LOADED_INPUT,
        DagsterEventType.HANDLED_OUTPUT,
        DagsterEventType.RESOURCE_INIT_STARTED,
        DagsterEventType.RESOURCE_INIT_SUCCESS,
    }
)

_NAMES_OF_CHECK = ("asset_key", "check_name", "run_id", "partition")
_VALUES_OF_CHECK = (
    *("execution_status", "evaluation_event", "evaluation_event_timestamp"),
    *("evaluation_event_storage_id", "materialization_event_storage_id"),
)


def shorten_logging() -> None:
    """From now on, hand the events and lines of runs to the event log without the log records that Dagster makes first.

    Events that are not stored are not even built. What another handler than the event log takes goes Dagster's way;
    a console logger gets a line as from Dagster.
    """
    log_event, log_line = DagsterLogManager.log_dagster_event, DagsterLogManager._log

    def short_log_event(
        self: DagsterLogManager,
        level: str | int,
        msg: str,
        dagster_event: DagsterEvent,
        batch_metadata: DagsterEventBatchMetadata | None = None,
    ) -> None:
        if dagster_event.event_type in OMITTED:
            return
        instance = _only_listener(self)
        if instance is None or not isinstance(level, int) or _consoles(self, level):
            log_event(self, level, msg, dagster_event, batch_metadata)
        else:
            instance.handle_new_event(_entry(self, level, msg, dagster_event), batch_metadata=batch_metadata)

    def short_log_line(self: DagsterLogManager, level: int, msg: object, args: Any, **more: Any) -> None:
        instance = _only_listener(self)
        if instance is None or more:
            log_line(self, level, msg, args, **more)
            return
        text = str(msg) % args if args else str(msg)
        try:
            instance.handle_new_event(_entry(self, level, text))
        except Exception:  # noqa: BLE001  Dagster tries once more, and reports it
            log_line(self, level, msg, args)
            return
        about = self.metadata
        parts = (about["job_name"] or "system", about["run_id"], about["step_key"], text)
        for logger in _consoles(self, level):
            logger.log(level, " - ".join(part for part in parts if part))

    DagsterLogManager.log_dagster_event = short_log_event  # type: ignore[method-assign]
    DagsterLogManager._log = short_log_line  # type: ignore[assignment, method-assign]


def _only_listener(log: DagsterLogManager) -> DagsterInstance | None:
    """Return the instance whose event log is the only handler of this log."""
    handlers = log._dagster_handler._handlers
    if len(handlers) == 1 and isinstance(handlers[0], EventListenerLogHandler):
        instance: DagsterInstance = handlers[0]._instance
        return instance
    return None


def _consoles(log: DagsterLogManager, level: int) -> list[logging.Logger]:
    return [logger for logger in log._dagster_handler._loggers if logger.isEnabledFor(level)]


def _entry(log: DagsterLogManager, level: int, text: str, dagster_event: DagsterEvent | None = None) -> EventLogEntry:
    about = log.metadata
    step_key = about["step_key"] or (dagster_event.step_key if dagster_event else None)
    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        level=level,
        user_message=text,
        run_id=about["run_id"],
        timestamp=time.time(),
        step_key=step_key,
        job_name=about["job_name"],
        dagster_event=dagster_event,
    )


@dataclass
class NewEvent:
    """An event on its way into the log."""

    row: dict[str, Any]
    entry: EventLogEntry
    #: set when it is written, if it belongs to an asset
    storage_id: int | None = None

    @property
    def asset_key(self) -> AssetKey | None:
        """The asset whose row it changes."""
        event = self.entry.dagster_event
        return event.asset_key if event is not None and event.event_type in ASSET_EVENTS else None

    @property
    def is_check(self) -> bool:
        return self.entry.dagster_event_type in ASSET_CHECK_EVENTS

    @property
    def result(self) -> AssetCheckEvaluation | None:
        """The result of a check, if a run made it."""
        event = self.entry.dagster_event
        evaluated = event is not None and event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
        return event.event_specific_data if evaluated and self.entry.run_id else None  # type: ignore[union-attr, return-value]


class GatheredEvents(PostgresEventLogStorage):
    """The event log; see the module."""

    def __init__(self, postgres_url: str, *arguments: Any, **more: Any) -> None:
        self._writer: EventWriter[NewEvent] | None = None
        self._writer_lock = threading.Lock()
        self._pool_config: PoolConfig | None = None
        self._write_result = _statement_of_result()
        super().__init__(postgres_url, *arguments, **more)

    @override
    def store_event(self, event: EventLogEntry) -> None:
        if event.dagster_event_type in OMITTED:
            return
        if gathering() and not _ends_run(event):
            self._gather(self._new_event(event))
        else:
            self.store_event_batch([event])

    @override
    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        # Dagster would also notify listeners, for compatibility with its older versions
        for run_id in dict.fromkeys(event.run_id for event in events):
            self._settle(run_id)
        self._write([self._new_event(event) for event in events])

    @override
    def dispose(self) -> None:
        with self._writer_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        super().dispose()

    @override
    def get_pool_config(self) -> PoolConfig:
        """Return what dagster.yaml says. Each run asks, and Dagster would ask for the run queue's limits each time."""
        if self._pool_config is None:
            self._pool_config = super().get_pool_config()
        return self._pool_config

    def _new_event(self, event: EventLogEntry) -> NewEvent:
        return NewEvent(self._event_to_row(event), event)

    def _gather(self, new: NewEvent) -> None:
        self._open_writer().add(new.entry.run_id, new)

    def _connect(self) -> AbstractContextManager[Connection]:
        """Return a connection for a read or write of Dagster, which must see all events before it."""
        if self._writer is not None:
            self._writer.flush()
        return super()._connect()

    def _settle(self, run_id: str) -> None:
        """Wait until all events and outputs of this run are written. Raises the error if that failed."""
        if self._writer is not None:
            self._writer.flush(run_id)
        step_outputs.write(run_id)

    def _open_writer(self) -> EventWriter[NewEvent]:
        with self._writer_lock:
            if self._writer is None:
                self._writer = EventWriter(self._write_gathered)
            return self._writer

    def _write_gathered(self, news: Sequence[NewEvent]) -> None:
        with without_a_turn():
            self._write(news)

    def _write(self, news: Sequence[NewEvent]) -> None:
        """Write all of them. A repetition after an error goes on with the tables of assets, if it came so far."""
        with create_pg_connection(self._engine) as connection:
            insert, rows = SqlEventLogStorageTable.insert(), [new.row for new in news]
            if not any(new.asset_key or new.is_check for new in news):
                connection.execute(insert, rows)
                return
            if any(new.storage_id is None for new in news):
                written = insert.returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
                for new, storage_id in zip(news, connection.execute(written, rows).scalars(), strict=True):
                    new.storage_id = storage_id
            self._write_assets(connection, [new for new in news if new.asset_key])
            for new in news:
                if new.result is not None:
                    connection.execute(self._write_result, _result_of_check(new, new.result))
        for new in news:
            if new.is_check and new.result is None:
                self.store_asset_check_event(new.entry, new.storage_id)

    def _write_assets(self, connection: Connection, news: Sequence[NewEvent]) -> None:
        """Change the rows of these events' assets, and index the tags of the events."""
        newest = {(new.asset_key, new.entry.dagster_event_type): new for new in news}
        columns: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for (key, _), new in newest.items():
            columns[key.to_string()] |= _columns_of_asset(new)  # type: ignore[union-attr]
        alike: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for key_text, values in sorted(columns.items()):
            alike[tuple(values)].append({"asset_key": key_text, **values})
        for names, rows in alike.items():
            insert, row = postgresql.insert(AssetKeyTable).values(rows), [AssetKeyTable.c.asset_key]
            changed = {name: insert.excluded[name] for name in names}
            upsert = (
                insert.on_conflict_do_update(index_elements=row, set_=changed)
                if names
                else insert.on_conflict_do_nothing(index_elements=row)
            )
            connection.execute(upsert)
        self._store_asset_event_tags(
            connection,
            [new.entry for new in news],
            [new.storage_id for new in news],  # type: ignore[misc]
        )


def _columns_of_asset(new: NewEvent) -> dict[str, Any]:
    """Return what this event changes in the row of its asset, as Dagster does."""
    event = new.entry.dagster_event
    columns: dict[str, Any] = {}
    if event is None or not (
        event.is_step_materialization or event.is_asset_observation or event.is_asset_materialization_planned
    ):
        return columns
    columns["last_materialization_timestamp"] = datetime.fromtimestamp(new.entry.timestamp, UTC)
    if not event.is_asset_observation:
        columns["last_run_id"] = new.entry.run_id
    if event.is_step_materialization:  # an EventLogRecord, around the event that is written already
        columns["last_materialization"] = (
            f'{{"__class__": "EventLogRecord", "event_log_entry": {new.row["event"]}, "storage_id": {new.storage_id}}}'
        )
    return columns


def _statement_of_result() -> Insert:
    """Return the statement that records the result of a check, in the row of the planned one where the run has it."""
    table = AssetCheckExecutionsTable
    given = {column.name: bindparam(f"of_{column.name}", type_=column.type) for column in table.columns}
    # no index serves IS NOT DISTINCT FROM, and the table grows with every run
    same = [table.c[name] == given[name] for name in ("asset_key", "check_name", "run_id")]
    same.append(table.c.partition.is_not_distinct_from(given["partition"]))
    changed = table.update().where(*same).values({name: given[name] for name in _VALUES_OF_CHECK})
    planned = changed.returning(table.c.id).cte("planned")
    columns = [*_NAMES_OF_CHECK, *_VALUES_OF_CHECK]
    row = select(*(given[name] for name in columns)).where(~exists(select(planned.c.id)))
    return table.insert().from_select(columns, row)


def _result_of_check(new: NewEvent, result: AssetCheckEvaluation) -> dict[str, Any]:
    """Return the parameters of that statement."""
    target = result.target_materialization_data
    status = AssetCheckExecutionRecordStatus.SUCCEEDED if result.passed else AssetCheckExecutionRecordStatus.FAILED
    return {
        "of_asset_key": result.asset_key.to_string(),
        "of_check_name": result.check_name,
        "of_run_id": new.entry.run_id,
        "of_partition": result.partition,
        "of_execution_status": status.value,
        "of_evaluation_event": new.row["event"],
        "of_evaluation_event_timestamp": new.row["timestamp"],
        "of_evaluation_event_storage_id": new.storage_id,
        "of_materialization_event_storage_id": target.storage_id if target else None,
    }


def _ends_run(event: EventLogEntry) -> bool:
    """Return whether the event is the end of a run, or a step towards it."""
    dagster_event = event.dagster_event if event.is_dagster_event else None
    return (
        dagster_event is not None
        and dagster_event.is_job_event
        and dagster_event.event_type is not DagsterEventType.RUN_START
    )
