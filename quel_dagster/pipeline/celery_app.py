"""The Celery application of a worker: `celery -A quel_dagster.pipeline.celery_app worker`.

Importing this module starts a worker process, so the environment is read here.
"""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress
from typing import Any

from celery.signals import task_postrun, worker_init, worker_process_init, worker_process_shutdown, worker_shutting_down
from dagster import DagsterInstance
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

from quel_dagster import redaction
from quel_dagster.adapters.queue import celery_url
from quel_dagster.errors import SettingsError
from quel_dagster.pipeline import draining
from quel_dagster.pipeline.event_writer import gather_events
from quel_dagster.pipeline.launcher import CELERY_SETTINGS
from quel_dagster.pipeline.outages import outlast_outages
from quel_dagster.pipeline.preload import preload
from quel_dagster.pipeline.process import StudioProcess
from quel_dagster.settings import Settings

#: glibc gives each of many threads a heap of its own, and takes back little of what pictures needed there.
MEMORY_ARENAS = 2
_M_ARENA_MAX = -8

_log = logging.getLogger(__name__)

redaction.install()


def _redis_url() -> str:
    url = Settings.read().redis()
    if url is None:
        raise SettingsError('REDIS_URL is not set. Set it, or run eval "$(quel env)" beside a `quel up`.')
    return celery_url(url)


app = make_app(  # type: ignore[no-untyped-call]
    app_args={"broker": _redis_url(), "backend": _redis_url(), "config_source": dict(CELERY_SETTINGS)}
)

execute_job = create_execute_job_task(app)
resume_job = create_resume_job_task(app)


@worker_init.connect  # type: ignore[untyped-decorator]
def load(**_: Any) -> None:
    """Load the definitions once, in the parent: every child shares their memory, and one that replaces a dead child
    is there at once."""
    preload()
    with suppress(AttributeError, OSError):  # another C library: it has ways of its own
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, MEMORY_ARENAS)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def warm(**_: Any) -> None:
    """Open once per process what the first run would wait for: the studio and its connections."""
    gather_events()
    outlast_outages()
    process = StudioProcess.current()
    process.run(process.studio.parts.database.ensure_schema)
    with DagsterInstance.get() as instance:
        instance.get_runs(limit=1)


@task_postrun.connect  # type: ignore[untyped-decorator]
def give_back(**_: Any) -> None:
    """Return the memory that the run's pictures needed; the C library would keep it for the next run."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def hand_over(**_: Any) -> None:
    """A warm shutdown: runs in flight finish their calls and leave the rest to other workers."""
    draining.ask()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def close(**_: Any) -> None:
    """Close the connections."""
    StudioProcess.current().close()
