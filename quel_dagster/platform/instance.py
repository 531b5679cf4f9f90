"""Dagster's instance as this installation uses it: many runs in one process (docs/decisions/executor.md)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dagster import DagsterInstance, DagsterRun
from typing_extensions import override

from quel_dagster.platform.internals import DagsterEventBatchMetadata, EventLogEntry, InstanceRef
from quel_dagster.platform.run_states import read_back

#: Events that are written together when Dagster announces them as a batch, as those of a run's planned assets.
MOST_IN_A_BATCH = 1000


class QuelInstance(DagsterInstance):
    """Named by dagster.yaml, so every process of Dagster opens this class."""

    @classmethod
    def config_schema(cls) -> dict[str, Any]:
        """Return no keys of dagster.yaml beyond Dagster's own; Dagster asks a class of instance for it."""
        return {}

    @classmethod
    def config_defaults(cls, base_dir: str) -> Any:
        """Return Dagster's own defaults for what dagster.yaml leaves out."""
        return InstanceRef.config_defaults(base_dir)

    @override
    def get_yaml_python_handlers(self) -> Sequence[logging.Handler]:
        """Return none, and leave logging's configuration alone.

        Dagster calls `logging.config.dictConfig` here at every start of a run. That takes logging's global lock and
        then every handler's lock; another run inside a handler waits for the global one, and both wait for ever.
        dagster.yaml configures no handlers.
        """
        return []

    @override
    def _get_event_batch_size(self) -> int:
        return MOST_IN_A_BATCH

    @override
    def handle_new_event(
        self, event: EventLogEntry, *, batch_metadata: DagsterEventBatchMetadata | None = None
    ) -> None:
        """Store an event. Dagster would read the run again after each of its states, which only a failure needs."""
        dagster_event = event.dagster_event
        if batch_metadata or not self.should_store_event(event) or (dagster_event and dagster_event.is_run_failure):
            read_back.forget()  # Dagster's own way reads the run again, to decide on the retry of a failed one
            super().handle_new_event(event, batch_metadata=batch_metadata)
            return
        self.event_log_storage.store_event(event)
        if dagster_event and dagster_event.is_job_event:
            self.run_storage.handle_run_event(event.run_id, dagster_event, datetime.fromtimestamp(event.timestamp, UTC))
            read_back.change(event.run_id, dagster_event)
        for notify in self._subscribers_impl[event.run_id]:
            notify(event)

    @override
    def create_run(self, **run: Any) -> DagsterRun:
        created = super().create_run(**run)
        read_back.keep(created, written=True)
        return created

    @override
    def add_run_tags(self, run_id: str, new_tags: Mapping[str, str]) -> None:
        super().add_run_tags(run_id, new_tags)
        read_back.forget()

    @override
    def get_run_by_id(self, run_id: str) -> DagsterRun | None:
        run = read_back.take(run_id)
        if run is None:
            run = super().get_run_by_id(run_id)
            read_back.keep(run)
        return run
