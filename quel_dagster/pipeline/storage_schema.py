"""Questions about the schema of Dagster's storage, asked once.

So as to work on a schema that was not migrated yet, Dagster reads PostgreSQL's catalogue before many of its looks: at
each run record, and at each turn of the sensor loop. A table or a column that is there stays there, so a yes is kept
for as long as the process lives; a no is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from dagster_postgres import DagsterPostgresStorage

RUNS = (
    "has_run_stats_index_cols",
    "has_bulk_actions_selector_cols",
    "has_backfill_id_column",
    "has_bulk_action_job_name_column",
    "has_backfill_tags_table",
    "has_built_index",
)
TICKS = (
    "has_instigators_table",
    "_has_instigators_table",
    "_has_asset_daemon_asset_evaluations_table",
    "has_secondary_index_table",
    "has_built_index",
)
EVENTS = ("has_asset_key_col", "_has_asset_key_col_on_connection")
_yes: set[tuple[str, ...]] = set()


def remember_schema(storage: DagsterPostgresStorage) -> DagsterPostgresStorage:
    """This storage, asking each of these questions until the answer is yes."""
    parts: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (storage.run_storage, RUNS),
        (storage.schedule_storage, TICKS),
        (storage.event_log_storage, EVENTS),
    )
    for part, names in parts:
        for name in names:
            # what stands behind a name differs between the parts
            setattr(part, name, until_yes(getattr(part, name), storage.postgres_url, type(part).__name__, name))
    return storage


def until_yes(ask: Callable[..., bool], *subject: str) -> Callable[..., bool]:
    """`ask`, which is not called again with the same words once it has said yes about this subject."""

    @wraps(ask)
    def answer(*arguments: Any) -> bool:
        # a connection among the arguments is no part of the question
        question = (*subject, *(word for word in arguments if isinstance(word, str)))
        if question in _yes:
            return True
        if not ask(*arguments):
            return False
        _yes.add(question)
        return True

    return answer
