"""Load what every run needs once in a parent, so that the processes that it forks share that memory.

A page stays shared until a process writes to it. Only memory may cross the fork: connections opened here are closed
again, and nothing with threads is opened, such as the client of the object store.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from importlib import import_module

from dagster import DagsterInstance
from PIL import Image

from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.model import Category
from quel_dagster.platform.storage_connections import close_connections

#: Modules that runs, Celery or Dagster import lazily.
LATE_IMPORTS = (
    "anyio._backends._asyncio",
    "anyio.streams.memory",
    "celery.apps.worker",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "dagster._core.storage.noop_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.execution.plan.active",
    "encodings.idna",
    "encodings.utf_16_le",
    "fsspec.implementations.local",
    "google.auth.aio.credentials",
    "httpcore2",
    "kombu.transport.redis",
    "psycopg",
    "psycopg2.extras",
    "quel_dagster.adapters.gemini.client",
    "quel_dagster.platform.database_check",
    "quel_dagster.platform.executor",
    "quel_dagster.platform.instance",
    "quel_dagster.platform.run_queue",
    "upath.implementations.local",
)

_log = logging.getLogger(__name__)


def load(definitions: str) -> None:
    """Import the definitions and what runs, Celery and Dagster import lazily."""
    # by name: the platform does not import what it runs
    import_module(definitions).defs.get_repository_def().get_all_jobs()
    for name in LATE_IMPORTS:
        import_module(name)
    for category in Category:
        style_of(category)
    Image.preinit()


def freeze() -> None:
    """Hide all that is loaded from the garbage collector: a collection in a child would write to, and so copy, it."""
    gc.collect()
    gc.freeze()


def preload(definitions: str, import_first: Sequence[str] = ()) -> None:
    """Import the definitions, and read Dagster's storage once."""
    for name in import_first:
        import_module(name)
    load(definitions)
    _look_at_storage()
    freeze()


def _look_at_storage() -> None:
    """Load the driver, Dagster's instance and the state of its schema."""
    try:
        with DagsterInstance.get() as instance:
            instance.get_run_records(limit=1)
    except Exception as error:  # noqa: BLE001  each process tries again, waits if necessary, and reports the error
        _log.info("Dagster's storage was not read before the fork (%s)", type(error).__name__)
    finally:
        close_connections()
