"""Read and apply the numbered migrations of schema quel_dagster.

Responsibilities: reading `migrations/NNNN_name.sql`, applying the missing ones, refusing a database that is too new.
Not here: the purpose of tables and functions (see the head of each file).

A landed file never changes. An SQL function carries its version in its name, and stays until no worker calls it. The
head of a file may hold `-- oldest-code: N`: a program without migration N must not use the database any more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from quel_dagster.errors import SchemaError

_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_OLDEST_CODE = re.compile(r"^-- oldest-code: (\d+)$", re.MULTILINE)

HAS_WEB_APP_TABLES = text("select to_regclass('public.quel_production_jobs') is not null")
#: Read from the catalog's tables: to_regclass() answers from a cache that does not notice what others commit meanwhile.
_HAS_SCHEMA = text("select exists (select 1 from pg_catalog.pg_namespace where nspname = 'quel_dagster')")
_HAS_TABLE = text(
    "select exists (select 1 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace "
    "where n.nspname = 'quel_dagster' and c.relname = 'schema_migration')"
)
_APPLIED = text("select number, name, sha256, oldest_code from quel_dagster.schema_migration order by number")
_CREATE_TABLE = text(
    "create table if not exists quel_dagster.schema_migration (number int primary key, name text not null, "
    "sha256 text not null, oldest_code int not null, applied_at timestamptz not null default clock_timestamp())"
)
_RECORD = text(
    "insert into quel_dagster.schema_migration (number, name, sha256, oldest_code) "
    "values (:number, :name, :sha256, :oldest_code)"
)
#: One installer at a time; the number is arbitrary but fixed.
SCHEMA_LOCK = text("select pg_advisory_xact_lock(7061737)")
#: Versions without numbered migrations read the comment, and leave a schema of a higher number alone.
_COMMENT = text("comment on schema quel_dagster is 'quel_dagster 2 numbered migrations'")


@dataclass(frozen=True)
class Migration:
    """One file of `migrations/`."""

    number: int
    name: str
    sql: str
    #: a program without the migration of this number must not use the database
    oldest_code: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True)
class SchemaState:
    """The state of a database against the migrations of this version."""

    #: numbers that this version has and the database has not
    missing: tuple[int, ...]
    #: one sentence: why this version must not work on this database; None when it may
    problem: str | None = None


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations of this version, in order."""
    found = []
    for file in (files("quel_dagster.adapters.database") / "migrations").iterdir():
        if named := _NAME.fullmatch(file.name):
            sql = file.read_text(encoding="utf-8")
            oldest = _OLDEST_CODE.search(sql)
            found.append(Migration(int(named[1]), named[2], sql, int(oldest[1]) if oldest else 0))
    return tuple(sorted(found, key=lambda migration: migration.number))


async def schema_state(engine: AsyncEngine) -> SchemaState:
    """Return the missing migrations, and whether this version may use the database. Changes nothing."""
    async with engine.connect() as connection:
        applied = await _applied(connection)
    return _compare(migrations(), applied)


async def migrate(engine: AsyncEngine, known: Iterable[Migration] | None = None) -> tuple[int, ...]:
    """Apply the missing migrations in one transaction and return their numbers. Changes schema quel_dagster alone.

    Raises:
        SchemaError: the web app's tables are not in this database, a landed migration was changed, or the database
            needs a newer version of this program.
    """
    files_known = tuple(migrations() if known is None else known)
    async with engine.connect() as plain:
        if not (await plain.execute(HAS_WEB_APP_TABLES)).scalar():
            raise SchemaError("quel_production_jobs is not in this database; check that DATABASE_URL is the web app's.")
        state = _compare(files_known, await _applied(plain))
        if state.problem:
            raise SchemaError(state.problem)
        if not state.missing:
            return ()
    async with engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await connection.execute(SCHEMA_LOCK)
            state = _compare(files_known, await _applied(connection))
            if state.problem:
                raise SchemaError(state.problem)
            if not (await connection.execute(_HAS_SCHEMA)).scalar():  # `if not exists` needs CREATE even when it does
                await connection.execute(text("create schema quel_dagster"))
            await connection.execute(_CREATE_TABLE)
            for migration in files_known:
                if migration.number in state.missing:
                    await run_script(connection, migration.sql)
                    await connection.execute(
                        _RECORD,
                        {
                            "number": migration.number,
                            "name": migration.name,
                            "sha256": migration.sha256,
                            "oldest_code": migration.oldest_code,
                        },
                    )
            if state.missing:
                await connection.execute(_COMMENT)
    return state.missing


async def run_script(connection: AsyncConnection, sql: str) -> None:
    """Run a script of several statements: the driver's simple protocol takes it whole."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    await driver.execute(sql.encode())


async def _applied(connection: AsyncConnection) -> Mapping[int, Any]:
    if not (await connection.execute(_HAS_TABLE)).scalar():
        return {}
    return {row.number: row for row in await connection.execute(_APPLIED)}


def _compare(known: tuple[Migration, ...], applied: Mapping[int, Any]) -> SchemaState:
    newest = max((migration.number for migration in known), default=0)
    needed = max((row.oldest_code for row in applied.values()), default=0)
    missing = tuple(migration.number for migration in known if migration.number not in applied)
    if needed > newest:
        return SchemaState(
            missing,
            f"The schema quel_dagster in this database needs a version of quel_dagster with migration {needed:04d}; "
            f"this one ends at {newest:04d}. Upgrade this program.",
        )
    for migration in known:
        row = applied.get(migration.number)
        if row is not None and row.sha256 != migration.sha256:
            return SchemaState(
                missing,
                f"Migration {migration.number:04d}_{migration.name}.sql differs from the one that this database has "
                "applied; install a released version of quel_dagster.",
            )
    return SchemaState(missing)
