"""Cache what never changes in Dagster's storage: answers about its schema, and snapshots of jobs and plans.

To work on a schema that is not migrated yet, Dagster reads PostgreSQL's catalogue before many reads: for each run
record, and in each iteration of the sensor loop. An existing table or column stays, so a positive answer is cached
for the life of the process; a negative one is not.

CPU of the whole installation for a job of two pictures, 20 in flight (row O2): 354 ms with this cache, 452 ms without.
`python -m bench D3` compares single reads.

A snapshot is found by the hash of its content, and is never deleted. Dagster looks for those of a job and its plan at
each launch, and reads the plan's in each run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from quel_dagster.platform.internals import (
    SCHEMA_QUESTIONS_OF_EVENTS,
    SCHEMA_QUESTIONS_OF_RUNS,
    SCHEMA_QUESTIONS_OF_TICKS,
    DagsterPostgresStorage,
)

T = TypeVar("T")

#: Maximum of plans that a process keeps; a run of a part of its steps has its own.
KEPT_PLANS = 32

_yes: set[tuple[str, ...]] = set()


def remember_schema(storage: DagsterPostgresStorage) -> DagsterPostgresStorage:
    """Cache the positive answers of this storage, and plans."""
    parts: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (storage.run_storage, SCHEMA_QUESTIONS_OF_RUNS),
        (storage.schedule_storage, SCHEMA_QUESTIONS_OF_TICKS),
        (storage.event_log_storage, SCHEMA_QUESTIONS_OF_EVENTS),
    )
    for part, names in parts:
        for name in names:
            if not hasattr(part, name):  # `check_internals` warns
                continue
            # the meaning of a name differs between the parts of the storage
            setattr(part, name, until_yes(getattr(part, name), storage.postgres_url, type(part).__name__, name))
    runs: Any = storage.run_storage
    runs.get_execution_plan_snapshot = kept(runs.get_execution_plan_snapshot)
    return storage


def kept(read: Callable[[str], T | None]) -> Callable[[str], T | None]:
    """Return `read`, which reads again only what it did not find."""
    found: dict[str, T] = {}

    @wraps(read)
    def get(snapshot_id: str) -> T | None:
        if snapshot_id in found:
            return found[snapshot_id]
        snapshot = read(snapshot_id)
        if snapshot is not None:
            if len(found) >= KEPT_PLANS:
                found.clear()
            found[snapshot_id] = snapshot
        return snapshot

    return get


def until_yes(ask: Callable[..., bool], *subject: str) -> Callable[..., bool]:
    """Return `ask`, without repeated calls for the same arguments after a positive answer about this subject."""

    @wraps(ask)
    def answer(*arguments: Any) -> bool:
        # a connection among the arguments is not part of the question
        question = (*subject, *(word for word in arguments if isinstance(word, str)))
        if question in _yes:
            return True
        if not ask(*arguments):
            return False
        _yes.add(question)
        return True

    return answer
