"""What is read and written of Dagster's own, outlasting a PostgreSQL that is away.

A restart of PostgreSQL takes seconds. Statements of ours are tried again for a minute; those of Dagster's would fail
the step that needed them, and a whole run with it, in the middle of pictures that are paid for. So in a worker its
storage tries again as long, and elsewhere, where a person or a loop waits, for a few seconds. Only what may be done
twice: looks, and writes that say the same again. An event whose answer was lost may so stand on a run's page twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError

#: in a worker, and elsewhere
OUTAGE_SECONDS, BLINK_SECONDS = 60.0, 5.0
PAUSE_SECONDS = 0.5

#: the database that is away, and not the statement that is wrong
AWAY = (OperationalError, InterfaceError, DisconnectionError, DagsterPostgresException)

_REPEATABLE_PREFIXES = ("get_", "has_", "store_event")
_REPEATABLE = {"add_run_tags", "handle_run_event"}

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)
_patience = BLINK_SECONDS
_inside = threading.local()


def outlast_outages() -> None:
    """From now on, storages that are opened in this process outlast outages of a minute: it is a worker."""
    global _patience  # noqa: PLW0603  a property of the process, like its signal handlers
    _patience = OUTAGE_SECONDS


def outlasting(storage: DagsterPostgresStorage) -> DagsterPostgresStorage:
    """This storage, outlasting outages as long as this process does."""
    for part in (storage.run_storage, storage.event_log_storage):
        for name in dir(type(part)):
            repeatable = name.startswith(_REPEATABLE_PREFIXES) or name in _REPEATABLE
            if repeatable and callable(getattr(type(part), name)):  # `has_instance` is a property
                setattr(part, name, tried_again(getattr(part, name), seconds=_patience))
    return storage


def tried_again(act: Callable[P, T], *, seconds: float) -> Callable[P, T]:
    """`act`, again for so long while the database is away; what is inside another such call is not."""

    @wraps(act)
    def outlast(*arguments: P.args, **named: P.kwargs) -> T:
        if getattr(_inside, "yes", False):
            return act(*arguments, **named)
        until = time.monotonic() + seconds
        _inside.yes = True
        try:
            while True:
                try:
                    return act(*arguments, **named)
                except AWAY as error:
                    if time.monotonic() >= until:
                        raise
                    _log.warning("Dagster's storage does not answer (%s); trying again", type(error).__name__)
                    time.sleep(PAUSE_SECONDS)
        finally:
            _inside.yes = False

    return outlast
