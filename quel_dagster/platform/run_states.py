"""The states of runs, with fewer reads and writes than Dagster's.

For each of a run's four states Dagster reads its row and writes the whole of it again. The column `status` is what
counts: here a state changes nothing else but times, and a tag that another process adds meanwhile is not lost. A
failure, which adds a tag itself, goes Dagster's way.

To create and launch a run, the daemon reads it five times, mostly right after it has written it itself; its queue and
its run monitoring then read all live runs again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterRun, DagsterRunStatus
from typing_extensions import override

from quel_dagster.platform.internals import (
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    PostgresRunStorage,
    RunsTable,
    deserialize_value,
)

#: run bodies that a process keeps decoded: enough for those of its queue and of its live runs
KEPT_BODIES = 500
_ENDS = frozenset({DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_CANCELED})


class RunStates(PostgresRunStorage):
    """Dagster's table of runs; a state is one UPDATE, and a body that is read again is not decoded again."""

    @override
    def handle_run_event(self, run_id: str, event: DagsterEvent, update_timestamp: datetime | None = None) -> None:
        status = EVENT_TYPE_TO_PIPELINE_RUN_STATUS.get(event.event_type)
        if status is None:
            return
        if event.event_type is DagsterEventType.RUN_FAILURE:  # adds a tag with the reason
            super().handle_run_event(run_id, event, update_timestamp)
            return
        at = update_timestamp or datetime.now(UTC)
        columns: dict[str, object] = {"status": status.value, "update_timestamp": at}
        if event.event_type is DagsterEventType.RUN_START:
            columns["start_time"] = at.timestamp()
        if event.event_type in _ENDS:
            columns["end_time"] = at.timestamp()
        with self.connect() as connection:
            connection.execute(RunsTable.update().where(RunsTable.c.run_id == run_id).values(columns))

    @override
    def _row_to_run(self, row: Mapping[str, Any]) -> DagsterRun:
        return _decoded(row["run_body"]).with_status(DagsterRunStatus(row["status"]))


@lru_cache(KEPT_BODIES)
def _decoded(body: str) -> DagsterRun:
    return deserialize_value(body, DagsterRun)


class ReadBack(threading.local):
    """The run that this thread creates or launches, as it has written it; one for each thread."""

    def __init__(self) -> None:
        self._active = False
        self._run: DagsterRun | None = None
        #: whether this thread has written the run since it was last read
        self._written = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """In this block, the first read after each write of a run is answered with what was written."""
        self._active = True
        try:
            yield
        finally:
            self._active, self._run, self._written = False, None, False

    def take(self, run_id: str) -> DagsterRun | None:
        """Return the run if this thread has just written it; None: ask PostgreSQL."""
        if not self._written or self._run is None or self._run.run_id != run_id:
            return None
        self._written = False
        return self._run

    def keep(self, run: DagsterRun | None, *, written: bool = False) -> None:
        """Keep the run that was read or created."""
        if self._active:
            self._run, self._written = run, written

    def change(self, run_id: str, event: DagsterEvent) -> None:
        """Give the run the state that this event brings it."""
        status = EVENT_TYPE_TO_PIPELINE_RUN_STATUS.get(event.event_type)
        if status is not None and self._run is not None and self._run.run_id == run_id:
            self._run, self._written = self._run.with_status(status), True

    def forget(self) -> None:
        """Forget the run: more than its state has changed."""
        self._run, self._written = None, False


read_back = ReadBack()
