"""Snapshots of jobs and plans, read once.

Dagster reads a run's plan twice as it starts it. All whole runs of a job have the same one, and a snapshot is named by
the hash of its text: it never changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from dagster_postgres import DagsterPostgresStorage

#: Snapshots that a process keeps, the newest: a few of each version of the definitions, one of each rerun of a part.
KEPT = 16

_known: dict[tuple[str, str, str], Any] = {}
_lock = threading.Lock()


def remember_snapshots(storage: DagsterPostgresStorage) -> DagsterPostgresStorage:
    """This storage, reading a snapshot once in a process."""
    runs: Any = storage.run_storage
    for name in ("get_job_snapshot", "get_execution_plan_snapshot"):
        setattr(runs, name, read_once(getattr(runs, name), storage.postgres_url, name))
    return storage


def read_once(read: Callable[[str], Any], url: str, name: str) -> Callable[[str], Any]:
    """`read`, which is not called again for a snapshot that it has found in this database."""

    @wraps(read)
    def answer(snapshot_id: str) -> Any:
        key = (url, name, snapshot_id)
        with _lock:
            found = _known.pop(key, None)
        found = read(snapshot_id) if found is None else found
        if found is not None:  # what is not there may come
            with _lock:
                _known[key] = found
                while len(_known) > KEPT:
                    del _known[next(iter(_known))]
        return found

    return answer
