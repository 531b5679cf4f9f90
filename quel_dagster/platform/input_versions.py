"""The versions of the inputs that a materialization was made from, for Dagster's lineage, without a look-up per run.

Dagster asks for them in every run: for the assets that a step reads, as it starts, and for those that it has just
materialized. The first are the web app's tables, observed each minute: a worker asks at most once a second. The second
are known to the step's thread. Dagster would take the newest one of any run: of another user's job, when many run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dagster import AssetKey, AssetRecordsFilter, EventLogRecord, EventRecordsResult
from typing_extensions import override

from quel_dagster.platform.event_log import GatheredEvents, NewEvent
from quel_dagster.platform.event_writer import gathering
from quel_dagster.platform.internals import AssetEntry, AssetRecord

#: Seconds for which a worker uses an answer.
ANSWER_SECONDS = 1.0

T = TypeVar("T")


class InputVersions(GatheredEvents):
    """The event log of a worker, which answers these questions from memory; see the module."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        #: question → answer, and when it was given (monotonic seconds)
        self._answers: dict[object, tuple[Any, float]] = {}
        self._asking = threading.Lock()
        #: per thread: asset → the materialization that it stored last
        self._here = threading.local()
        super().__init__(*arguments, **more)

    @override
    def get_asset_records(self, asset_keys: Sequence[AssetKey] | None = None) -> Sequence[AssetRecord]:
        if not gathering() or asset_keys is None:
            return super().get_asset_records(asset_keys)
        mine = [self._mine[key] for key in asset_keys if key in self._mine]
        if mine and len(mine) == len(asset_keys):
            self._settle(mine[0].entry.run_id)
            return [_record(new) for new in mine]
        return self._answer(tuple(asset_keys), lambda: super(InputVersions, self).get_asset_records(asset_keys))

    @override
    def fetch_observations(
        self,
        records_filter: AssetKey | AssetRecordsFilter,
        limit: int,
        cursor: str | None = None,
        ascending: bool = False,
    ) -> EventRecordsResult:
        def fetch() -> EventRecordsResult:
            return super(InputVersions, self).fetch_observations(records_filter, limit, cursor, ascending)

        if not gathering() or cursor is not None or not isinstance(records_filter, AssetKey):
            return fetch()
        return self._answer((records_filter, limit, ascending), fetch)

    @override
    def _gather(self, new: NewEvent) -> None:
        event = new.entry.dagster_event
        if event is not None and event.is_step_materialization and event.asset_key is not None:
            self._mine[event.asset_key] = new
        super()._gather(new)

    @property
    def _mine(self) -> dict[AssetKey, NewEvent]:
        mine: dict[AssetKey, NewEvent] = self._here.__dict__.setdefault("materialized", {})
        return mine

    def _answer(self, question: object, ask: Callable[[], T]) -> T:
        with self._asking:  # runs that were pushed together ask together: one of them asks for all
            known = self._answers.get(question)
            now = time.monotonic()
            if known is None or now - known[1] >= ANSWER_SECONDS:
                known = self._answers[question] = ask(), now
        answer: T = known[0]
        return answer


def _record(new: NewEvent) -> AssetRecord:
    """Return what is known of an asset from its materialization, which is written."""
    assert new.asset_key is not None and new.storage_id is not None  # noqa: S101
    written = EventLogRecord(storage_id=new.storage_id, event_log_entry=new.entry)
    entry = AssetEntry(asset_key=new.asset_key, last_materialization_record=written, last_run_id=new.entry.run_id)
    return AssetRecord(storage_id=new.storage_id, asset_entry=entry)
