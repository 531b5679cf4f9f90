"""How a command reaches the parts: by the environment, or by the `quel up` that runs on the home."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import DBAPIError

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.errors import NotRunningError, QuelError, SettingsError
from quel_dagster.sandbox.endpoints import Endpoints, running_endpoints
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

#: A person waits: a database that is away is tried again this long only.
RETRY_SECONDS = 2.0
_STORAGE_AWAY = "Dagster's storage does not answer; check DAGSTER_POSTGRES_URL."
#: What Dagster itself reads from the environment.
_DAGSTERS = ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")


def connect() -> Settings:
    """The settings with every URL in them.

    What the environment leaves out is taken from the `quel up` that runs on QUEL_HOME; this process then has
    the same environment as its services.

    Raises:
        NotRunningError: something is left out, and none runs.
    """
    settings = Settings.read()
    if settings.database_url is None or settings.redis() is None:
        given = running_endpoints(settings).environment()
        if settings.webserver_url is not None:  # where people reach it may be another address than its own
            del given["QUEL_WEBSERVER_URL"]
        os.environ.update(given)
        return Settings.read()
    if "DAGSTER_HOME" not in os.environ and (running := endpoints_if_running(settings)) is not None:
        given = running.environment()
        os.environ.update({name: given[name] for name in _DAGSTERS if name in given})
    return settings


def endpoints_if_running(settings: Settings) -> Endpoints | None:
    """Where the services of this home are; None when they run elsewhere."""
    try:
        return running_endpoints(settings)
    except NotRunningError:
        return None


def web_ui(settings: Settings) -> str | None:
    """Where Dagster's pages are: QUEL_WEBSERVER_URL, else the running `quel up`."""
    if settings.webserver_url is not None:
        return settings.webserver_url.rstrip("/")
    running = endpoints_if_running(settings)
    return running.webserver_url if running else None


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The database, closed afterwards.

    Raises:
        QuelError: it does not answer, or is not prepared for this project.
    """
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL is not set.")
    opened = Database(settings.database_url.get_secret_value(), pool_size=2, retry_seconds=RETRY_SECONDS)
    try:
        yield opened
    except DBAPIError as error:
        raise QuelError(f"PostgreSQL: {why_database(error)}.") from None
    finally:
        await opened.aclose()


def why_database(error: DBAPIError) -> str:
    """Why a statement failed, and what to do. No part of the message itself: it may hold the URL or values."""
    state = getattr(error.orig, "sqlstate", None)
    text = str(error.orig)
    match state:
        case "3F000" | "42P01" | "42883":
            return "a table, schema or function is missing; `quel doctor` says which"
        case "42501":
            return "this user may not do that; `quel doctor` says what is not granted"
        case "53300":
            return "it has no connection left; close some, or raise max_connections"
        case None if "authentication failed" in text or "no password supplied" in text:  # the driver drops the state
            return "user or password refused; check DATABASE_URL"
        case None if 'database "' in text and "does not exist" in text:
            return "there is no such database; check DATABASE_URL"
        case None if "refused" in text:
            return "connection refused; check DATABASE_URL, and that the server runs"
        case None if "imeout" in text or "timed out" in text:
            return "no answer in time; check DATABASE_URL, and the network between"
        case None if "resolve" in text or "translate host" in text or "not known" in text:
            return "its host name is unknown; check DATABASE_URL"
    return f"{type(error.orig).__name__}{f', SQLSTATE {state}' if state else ''}; check DATABASE_URL, see `quel doctor`"


@contextmanager
def queue(settings: Settings) -> Iterator[JobQueue]:
    """The queue of job ids, closed afterwards."""
    url = settings.redis()
    if url is None:
        raise SettingsError("REDIS_URL is not set.")
    opened = JobQueue(url)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def dagster() -> Iterator[DagsterInstance]:
    """Dagster's instance, with its storage.

    Raises:
        QuelError: there is none, or its storage does not answer.
    """
    from dagster import DagsterError, DagsterInstance  # noqa: PLC0415  takes a second to import
    from dagster._core.errors import DagsterHomeNotSetError  # noqa: PLC0415
    from dagster_postgres.utils import DagsterPostgresException  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    _knock_at_dagsters_storage()
    try:
        with DagsterInstance.get() as instance:
            yield instance
    except DagsterHomeNotSetError:
        raise SettingsError(
            'DAGSTER_HOME is not set, so runs are not known. Set it, or: eval "$(quel env)" beside a `quel up`.'
        ) from None
    except (DagsterPostgresException, SQLAlchemyError):
        raise QuelError(_STORAGE_AWAY) from None
    except DagsterError as error:
        raise QuelError(f"Dagster cannot be used ({type(error).__name__}); check DAGSTER_HOME.") from None


def _knock_at_dagsters_storage() -> None:
    """Dagster itself would ask a database that is away again and again, for twelve seconds."""
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if url is None:
        return
    scheme, _, rest = url.partition("://")
    try:
        psycopg.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=5).close()
    except psycopg.Error:
        raise QuelError(_STORAGE_AWAY) from None
