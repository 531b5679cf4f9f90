"""Retry Dagster's own reads and writes during an outage of PostgreSQL.

A restart of PostgreSQL takes seconds. This package retries its own statements for a minute; a failed statement of
Dagster would fail the step and the whole run, in the middle of pictures that are paid for. So Dagster's storage
retries as long in a worker, and for a few seconds elsewhere, where a person or a loop waits. Only operations that may
be repeated are retried: reads, and idempotent writes. An event with a lost acknowledgement may appear twice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import OperationalError

from quel_dagster.adapters.database.outages import is_unreachable
from quel_dagster.adapters.retry_policy import POSTGRESQL, RUN_SECONDS, START_SECONDS, log_outage
from quel_dagster.platform.internals import DagsterPostgresException, DagsterPostgresStorage

_REPEATABLE_PREFIXES = ("get_", "has_", "store_event")
_REPEATABLE = {"add_run_tags", "handle_run_event"}

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)
_retry_seconds = START_SECONDS
_inside = threading.local()


def retry_long() -> None:
    """From now on, storages opened in this process retry for a minute: it is a worker."""
    global _retry_seconds  # noqa: PLW0603  a property of the process, like its signal handlers
    _retry_seconds = RUN_SECONDS


def with_retries(storage: DagsterPostgresStorage) -> DagsterPostgresStorage:
    """Wrap this storage so that it retries during outages, as long as this process does."""
    for part in (storage.run_storage, storage.event_log_storage):
        for name in dir(type(part)):
            repeatable = name.startswith(_REPEATABLE_PREFIXES) or name in _REPEATABLE
            if repeatable and callable(getattr(type(part), name)):  # `has_instance` is a property
                setattr(part, name, retrying(getattr(part, name), seconds=_retry_seconds))
    return storage


def retrying(act: Callable[P, T], *, seconds: float) -> Callable[P, T]:
    """Retry `act` for up to `seconds` on connection errors. Nested calls are not retried."""
    policy = replace(POSTGRESQL, retry_seconds=seconds)
    report = log_outage("Dagster's storage", _log)

    @wraps(act)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        if getattr(_inside, "yes", False):
            return act(*arguments, **named)
        _inside.yes = True
        try:
            return policy.call_blocking(lambda: act(*arguments, **named), retry=_may_succeed_later, report=report)
        finally:
            _inside.yes = False

    return call


def _may_succeed_later(error: BaseException) -> bool:
    """Return whether to retry: also after a timeout of Dagster's own statements, and errors that it wraps."""
    return is_unreachable(error) or isinstance(error, OperationalError | DagsterPostgresException)
