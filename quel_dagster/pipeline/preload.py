"""What every run needs, loaded once in a worker's parent, so that its children share that memory.

A page stays shared until somebody writes to it. What a run imports or builds when it first needs it is memory of its
own in every child; what the parent has before the fork costs once.

Only memory crosses the fork: what is opened here is closed again, and nothing is opened that keeps threads, as the
library of the object store does.
"""

from __future__ import annotations

import gc
import logging
from importlib import import_module

from dagster import DagsterInstance
from PIL import Image

from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.model import Category
from quel_dagster.pipeline.storage_connections import close_connections

#: What runs, or Celery's children, import where they first need it.
LATE_IMPORTS = (
    "anyio._backends._asyncio",
    "anyio.streams.memory",
    "cffi.cparser",  # by Celery, to have children end with their parent; it compiles many regular expressions
    "dagster._core.storage.noop_compute_log_manager",
    "dagster._core.system_config.composite_descent",
    "dagster._core.workspace.autodiscovery",
    "dagster._utils.test.definitions",
    "dagster_async_executor.executor",
    "encodings.idna",
    "encodings.utf_16_le",
    "fsspec.implementations.local",
    "google.auth.aio.credentials",
    "httpcore2",
    "psycopg",
    "psycopg2.extras",
    "quel_dagster.pipeline.run_queue",
    "upath.implementations.local",
)

_log = logging.getLogger(__name__)


def preload() -> None:
    """Load definitions and imports, look at Dagster's storage once, and hide all that from the collector."""
    from quel_dagster.definitions import defs  # noqa: PLC0415  whoever only looks at the application needs them not

    defs.get_repository_def().get_all_jobs()
    for name in LATE_IMPORTS:
        import_module(name)
    for category in Category:
        style_of(category)
    Image.preinit()
    _look_at_storage()
    # A collection in a child would write to, and so copy, every page of what it shares.
    gc.collect()
    gc.freeze()


def _look_at_storage() -> None:
    """The driver, Dagster's instance and what its schema has: half of what a child would otherwise begin with."""
    try:
        with DagsterInstance.get() as instance:
            instance.get_run_records(limit=1)
    except Exception as error:  # noqa: BLE001  every child looks again, waits if need be, and says what is wrong
        _log.info("Dagster's storage was not seen before the fork (%s)", type(error).__name__)
    finally:
        close_connections()
