"""Prepare the databases of a stack before its first process starts: check, install the schema, find the search path.

Configurations that cannot work are refused here by name: a Dagster process would fail a minute later with a traceback.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import redis
from sqlalchemy.exc import DBAPIError

from quel_dagster.adapters.database.connections import free_connections
from quel_dagster.adapters.database.reasons import reason_of
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.url import for_libpq
from quel_dagster.adapters.redis_connection import open_redis
from quel_dagster.adapters.retry_policy import START_SECONDS
from quel_dagster.errors import SettingsError
from quel_dagster.platform.storage_location import check_location, storage_in_own_schema
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.supervisor import Echo
from quel_dagster.settings import Settings

#: seconds between two questions whether a server takes connections, and of one question
WAIT_SECONDS, CONNECT_SECONDS = 1.0, 2
#: kept open by code server, webserver and daemon, as measured by tests/production/test_whole.py; a few more are
#: opened briefly, and a pooler lets those wait
PLATFORM_CONNECTIONS = 8
#: maximum per worker process: 4 to the web app's database, 7 to Dagster's, 1 for the leases
CONNECTIONS_PER_PROCESS = 12


def wait_for_servers(where: Endpoints, settings: Settings, echo: Echo) -> None:
    """Return once the given PostgreSQL and Redis take connections: a host may boot faster than its servers.

    What does not pass by itself (a wrong password, no such database) is left to the checks that follow.

    Args:
        echo: gets one line for each reason to wait.
    """
    shown = None
    while (reason := next(_reasons_to_wait(where, settings), None)) is not None:
        if reason != shown:
            echo(f"Waiting for {reason}")
            shown = reason
        time.sleep(WAIT_SECONDS)


def _reasons_to_wait(where: Endpoints, settings: Settings) -> Iterator[str]:
    given = {}
    if settings.database_url is not None:
        given["DATABASE_URL"] = where.database_url
    if settings.dagster_database_url is not None:
        given["DAGSTER_DATABASE_URL"] = where.dagster_postgres_url
    for variable, url in given.items():
        try:
            psycopg.connect(for_libpq(url), connect_timeout=CONNECT_SECONDS).close()
        except psycopg.Error as error:
            if (reason := reason_of(error, variable)).passes:
                yield f"PostgreSQL: {reason}."
    if settings.redis() is not None:
        try:
            with open_redis(redis.Redis, where.redis_url) as client:
                client.ping()
        except (redis.AuthenticationError, redis.ResponseError):
            return
        except (redis.ConnectionError, redis.TimeoutError):
            yield "Redis: it does not answer; check REDIS_URL, and that the server runs, or ask `quel doctor`."


def prepare_databases(
    where: Endpoints, settings: Settings, *, platform: bool = True, workers: bool = True
) -> Endpoints:
    """Install the schema in a given database, and find a URL that puts Dagster's tables into their own schema.

    Args:
        platform, workers: the processes that will run here, to count their connections.

    Raises:
        SettingsError: something is missing or refused; one line with the remedy.
        SchemaError: this version is too old for that schema.
    """
    if settings.database_url is not None:
        install_schema(where.database_url)
        _check_connections(where.database_url, settings, platform=platform, workers=workers)
        if settings.dagster_database_url is None:
            where = where.model_copy(update={"dagster_postgres_url": _checked(where, "DATABASE_URL")})
    if settings.dagster_database_url is not None:
        _checked(where, "DAGSTER_DATABASE_URL")
    return where


def connections_needed(settings: Settings, *, platform: bool = True, workers: bool = True) -> int:
    """Return how many connections the processes of one `quel up` keep open, in both databases together."""
    of_workers = CONNECTIONS_PER_PROCESS * settings.processes if workers else 0
    of_platform = PLATFORM_CONNECTIONS + (1 if settings.web_api else 0)
    return of_workers + (of_platform if platform else 0)


def _check_connections(url: str, settings: Settings, *, platform: bool, workers: bool) -> None:
    needed = connections_needed(settings, platform=platform, workers=workers)
    try:
        found = free_connections(url, wanted=needed)
    except psycopg.Error as error:
        raise SettingsError(f"DATABASE_URL: {reason_of(error)}.") from None
    if found.free < needed:
        where = "the pooler gives" if found.pooled else "the server has"
        raise SettingsError(
            f"DATABASE_URL: not enough free connections: {where} {found.free}, and {settings.processes} worker "
            f"processes need up to {needed}. Raise max_connections or the pool size, or lower QUEL_WORKER_PROCESSES."
        )


def install_schema(database_url: str, *, web_app_tables: bool = False) -> None:
    """Apply the missing migrations of schema quel_dagster.

    Args:
        web_app_tables: create the web app's tables first, in an embedded database.

    Raises:
        SettingsError: the database cannot be reached, or the role lacks a privilege.
        SchemaError: this version is too old for that schema.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:  # the caller may be inside an event loop
        executor.submit(lambda: asyncio.run(_install(database_url, web_app_tables))).result()


async def _install(database_url: str, web_app_tables: bool) -> None:
    database = Database(database_url, pool_size=1, retry_seconds=START_SECONDS)
    try:
        if web_app_tables:
            await database.installation.create_web_app_tables()
        await database.installation.ensure_schema()
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig or error if isinstance(error, DBAPIError) else error
        if getattr(cause, "sqlstate", None) == "42501":
            raise SettingsError(
                "DATABASE_URL: this role may not create or change schema quel_dagster; as the owner of the database: "
                "create schema quel_dagster authorization <role>. Where it may not own it, run `quel migrate` as a "
                "role that does."
            ) from None
        raise SettingsError(f"DATABASE_URL: {reason_of(cause)}.") from None
    finally:
        await database.aclose()


def _checked(where: Endpoints, variable: str) -> str:
    url = where.dagster_postgres_url
    try:
        if variable == "DATABASE_URL":
            url = storage_in_own_schema(url)
        check_location(url, variable)
    except psycopg.Error as error:
        raise SettingsError(f"{variable}: {reason_of(error, variable)}.") from None
    return url
