"""`quel migrate`: update schema quel_dagster by hand, for installations with a role that may not do it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import psycopg
import typer
from psycopg import sql
from sqlalchemy.exc import DBAPIError

from quel_dagster.adapters.database.reasons import reason_of
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.url import for_libpq
from quel_dagster.cli.output import AsJson, print_json, print_text
from quel_dagster.console.words import plural
from quel_dagster.errors import SettingsError
from quel_dagster.settings import Settings

#: privileges of the workers' role in the schema; Dagster creates its own tables there
_GRANTS = (
    "grant usage, create on schema quel_dagster to {role}",
    "grant select, insert, update, delete on all tables in schema quel_dagster to {role}",
    "grant usage, select on all sequences in schema quel_dagster to {role}",
    "grant execute on all functions in schema quel_dagster to {role}",
)


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Show what is missing, and change nothing.")] = False,
    grant_to: Annotated[
        str | None, typer.Option(metavar="ROLE", help="Let this role, which does not own the schema, use it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Apply the missing migrations of schema quel_dagster, as the user of DATABASE_URL.

    Exit code 1 when this version is too old for the schema, or with --check when a migration is missing.
    """
    url = Settings.read().required_database_url()
    try:
        missing, problem = asyncio.run(_migrate(url, check=check))
        if grant_to is not None and not check:
            _grant(url, grant_to)
    except DBAPIError as error:
        raise SettingsError(f"DATABASE_URL: {reason_of(error.orig or error)}.") from None
    except psycopg.Error as error:
        raise SettingsError(f"DATABASE_URL: {reason_of(error)}.") from None
    numbers = [f"{number:04d}" for number in missing]
    if as_json:
        print_json({"check": check, "migrations": numbers, "problem": problem})
    elif problem:
        print_text(problem)
    elif not missing:
        print_text("Schema quel_dagster is up to date.")
    else:
        done = "missing" if check else "applied"
        print_text(f"{plural(len(missing), 'migration')} {done}: {', '.join(numbers)}")
    if problem or (check and missing):
        raise typer.Exit(1)


async def _migrate(url: str, *, check: bool) -> tuple[tuple[int, ...], str | None]:
    database = Database(url, pool_size=1, retry_seconds=2.0)
    try:
        state = await database.installation.schema_state()
        if not check:
            await database.installation.ensure_schema()
        return state.missing, state.problem
    finally:
        await database.aclose()


def _grant(url: str, role: str) -> None:
    with psycopg.connect(for_libpq(url), autocommit=True) as connection:
        for statement in _GRANTS:
            connection.execute(sql.SQL(statement).format(role=sql.Identifier(role)))
