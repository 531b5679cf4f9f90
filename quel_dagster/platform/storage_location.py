"""Check in which schema Dagster's tables will be created, before the first one is.

A pooler may silently drop the search path of a URL, and Dagster would then create its 22 tables among those of
the web app.
"""

from __future__ import annotations

import psycopg

from quel_dagster.adapters.database.reasons import refuses_options
from quel_dagster.adapters.database.url import OWN_SCHEMA, for_libpq, without_options
from quel_dagster.errors import SettingsError

CONNECT_SECONDS = 10
_QUERY = """
    select current_schema() as schema, current_user::text as role, current_database()::text as database,
           exists (select 1 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                   where n.nspname = current_schema() and c.relname = 'quel_production_jobs') as is_web_apps,
           exists (select 1 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                   where n.nspname = current_schema() and c.relname = 'event_logs') as has_dagster
"""


def check_location(url: str, variable: str = "DAGSTER_DATABASE_URL") -> None:
    """Refuse a storage with tables that would be created among the web app's, or that cannot be created.

    An installation with existing tables is accepted.

    Raises:
        SettingsError: with the remedy.
        psycopg.Error: the database cannot be read.
    """
    with psycopg.connect(for_libpq(url), connect_timeout=CONNECT_SECONDS, prepare_threshold=None) as connection:
        row = connection.execute(_QUERY.encode()).fetchone()
    assert row is not None  # noqa: S101 - a select without from has one row
    schema, role, database, is_web_apps, has_dagster = row
    if schema is None:
        raise SettingsError(
            f"{variable}: the search path of role {role} names no schema that exists, so Dagster's tables cannot be "
            f"created; as the owner of the database: create schema {OWN_SCHEMA} authorization {role}"
        )
    if is_web_apps and not has_dagster:
        raise SettingsError(
            f"{variable}: Dagster's tables would be created in schema {schema}, among the web app's. "
            f"{_remedy(role, database)}"
        )


def storage_in_own_schema(url: str) -> str:
    """Return a URL that puts Dagster's tables into schema `quel_dagster`: `url`, or `url` without its options.

    With a pooler that refuses or drops the search path of a URL, only that of the role works.

    Args:
        url: of the web app's database, with the search path as an option.

    Raises:
        SettingsError: neither reaches that schema; with the remedy.
        psycopg.Error: the database cannot be reached.
    """
    try:
        if _schema_of(url)[0] in (OWN_SCHEMA, None):  # None: the path is kept, and the schema does not exist yet
            return url
    except psycopg.OperationalError as error:
        if not refuses_options(error):
            raise
    plain = without_options(url)
    schema, role, database = _schema_of(plain)
    if schema == OWN_SCHEMA:
        return plain
    raise SettingsError(
        f"DATABASE_URL: a pooler drops the search path, so Dagster's tables would be created in schema {schema}. "
        f"{_remedy(role, database)}"
    )


def _remedy(role: str, database: str) -> str:
    return (
        f"Give this project a role of its own and run: alter role {role} in database {database} set search_path = "
        f"{OWN_SCHEMA} (not for a role that the web app uses; a pooler has to reconnect), or set DAGSTER_DATABASE_URL "
        "to another database."
    )


def _schema_of(url: str) -> tuple[str | None, str, str]:
    with psycopg.connect(for_libpq(url), connect_timeout=CONNECT_SECONDS, prepare_threshold=None) as connection:
        row = connection.execute(b"select current_schema(), current_user::text, current_database()::text").fetchone()
    assert row is not None  # noqa: S101 - a select without from has one row
    return row
