"""Connect a command to the installation: by the environment, or by the running `quel up` of the home."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import DBAPIError

from quel_dagster.adapters.database.reasons import reason_of
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.url import for_libpq
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.retry_policy import PERSON_SECONDS
from quel_dagster.console.connections import Connections
from quel_dagster.errors import NotRunningError, QuelError, SettingsError
from quel_dagster.services.endpoints import Endpoints, running_endpoints
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

_STORAGE_UNREACHABLE = "Dagster's storage does not answer; check DAGSTER_POSTGRES_URL."
#: Variables that Dagster itself reads.
_DAGSTERS = ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL")


def connect() -> Settings:
    """Return the settings with every URL in them.

    URLs missing from the environment are taken from the `quel up` that runs on QUEL_HOME; this process then has the
    same environment as its services.

    Raises:
        NotRunningError: a URL is missing, and no `quel up` runs.
    """
    settings = Settings.read()
    if settings.database_url is None or settings.redis() is None:
        given = _running(settings).environment()
        if settings.webserver_url is not None:  # the public address may differ from its own
            del given["QUEL_WEBSERVER_URL"]
        os.environ.update(given)
        return Settings.read()
    if "DAGSTER_HOME" not in os.environ and (running := endpoints_if_running(settings)) is not None:
        given = running.environment()
        os.environ.update({name: given[name] for name in _DAGSTERS if name in given})
    return settings


def missing_urls(settings: Settings) -> str:
    """Return the names of those variables that every command needs and that are not set."""
    given = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis()}
    return ", ".join(name for name, value in given.items() if value is None)


def _running(settings: Settings) -> Endpoints:
    try:
        return running_endpoints(settings)
    except NotRunningError as error:
        raise NotRunningError(f"{missing_urls(settings)} is not set. {error}") from None


def endpoints_if_running(settings: Settings) -> Endpoints | None:
    """Return the endpoints of this home's services; None when they do not run here."""
    try:
        return running_endpoints(settings)
    except NotRunningError:
        return None


def web_ui(settings: Settings) -> str | None:
    """Return the URL of Dagster's web UI: QUEL_WEBSERVER_URL, else the running `quel up`."""
    if settings.webserver_url is not None:
        return settings.webserver_url.rstrip("/")
    running = endpoints_if_running(settings)
    return running.webserver_url if running else None


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Database]:
    """Yield the database, and close it afterwards.

    Raises:
        QuelError: it does not answer, or is not prepared for this project.
    """
    opened = Database(settings.required_database_url(), pool_size=2, retry_seconds=PERSON_SECONDS)
    try:
        yield opened
    except DBAPIError as error:
        raise QuelError(f"PostgreSQL: {why_database(error)}.") from None
    finally:
        await opened.aclose()


def why_database(error: DBAPIError) -> str:
    """Return why a statement failed and the remedy, without the message itself: it may hold the URL or values."""
    return str(reason_of(error.orig or error))


@contextmanager
def queue(settings: Settings) -> Iterator[JobQueue]:
    """Yield the queue of job ids, and close it afterwards."""
    opened = JobQueue(settings.required_redis_url())
    try:
        yield opened
    finally:
        opened.close()


@asynccontextmanager
async def open_connections(settings: Settings) -> AsyncIterator[Connections]:
    """Yield connections to all systems of the installation, and close them afterwards.

    Raises:
        QuelError: PostgreSQL does not answer, or is not prepared for this project.
    """
    async with database(settings) as opened:
        with queue(settings) as job_queue:
            yield Connections(settings, opened, job_queue, dagster, web_ui(settings))


@contextmanager
def dagster() -> Iterator[DagsterInstance]:
    """Yield Dagster's instance with its storage.

    Raises:
        QuelError: there is no instance, or its storage does not answer.
    """
    from dagster import DagsterError, DagsterInstance  # noqa: PLC0415  takes a second to import
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from quel_dagster.platform.internals import (  # noqa: PLC0415  brings Dagster
        DagsterHomeNotSetError,
        DagsterPostgresException,
    )

    _probe_dagsters_storage()
    try:
        with DagsterInstance.get() as instance:
            yield instance
    except DagsterHomeNotSetError:
        raise SettingsError(
            'DAGSTER_HOME is not set, so runs are unknown. Set it, or: eval "$(quel env)" beside a `quel up`.'
        ) from None
    except (DagsterPostgresException, SQLAlchemyError):
        raise QuelError(_STORAGE_UNREACHABLE) from None
    except DagsterError as error:
        raise QuelError(f"Dagster cannot be used ({type(error).__name__}); check DAGSTER_HOME.") from None


def _probe_dagsters_storage() -> None:
    """Check the connection first: Dagster itself would retry an unreachable database for twelve seconds."""
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if url is None:
        return
    try:
        psycopg.connect(for_libpq(url), connect_timeout=5).close()
    except psycopg.Error as error:
        raise QuelError(f"Dagster's storage: {reason_of(error, 'DAGSTER_POSTGRES_URL')}.") from None
