"""How a command reaches the parts: by the environment, or by the `quel up` that runs on the home."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.errors import NotRunningError, SettingsError
from quel_dagster.sandbox.endpoints import Endpoints, running_endpoints
from quel_dagster.settings import Settings


def connect() -> Settings:
    """The settings with every URL in them.

    What the environment leaves out is taken from the `quel up` that runs on QUEL_HOME; this process then has
    the same environment as its services.

    Raises:
        NotRunningError: something is left out, and none runs.
    """
    settings = Settings.read()
    if settings.database_url is None or settings.redis() is None:
        os.environ.update(running_endpoints(settings).environment())
        settings = Settings.read()
    return settings


def endpoints_if_running(settings: Settings) -> Endpoints | None:
    """Where the services of this home are; None when they run elsewhere."""
    try:
        return running_endpoints(settings)
    except NotRunningError:
        return None


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The database, closed afterwards."""
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL is not set.")
    opened = Database(settings.database_url.get_secret_value(), pool_size=2)
    try:
        yield opened
    finally:
        await opened.aclose()


def queue(settings: Settings) -> JobQueue:
    """The queue of job ids."""
    url = settings.redis()
    if url is None:
        raise SettingsError("REDIS_URL is not set.")
    return JobQueue(url)
