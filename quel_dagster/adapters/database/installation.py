"""Is this the database that the project needs? Migrations, tables, rights."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import text

from quel_dagster.adapters.database.connection import Connection
from quel_dagster.adapters.database.migrations import (
    HAS_WEB_APP_TABLES,
    SCHEMA_LOCK,
    SchemaState,
    migrate,
    run_script,
    schema_state,
)
from quel_dagster.adapters.database.rows import read_one
from quel_dagster.adapters.database.web_app_tables import WEB_APP_SQL
from quel_dagster.jobs.model import Value

#: The server, and the role of this connection.
_SERVER_FACTS = text(
    """
    select current_setting('server_version') as version, current_setting('server_version_num')::int as version_num,
           current_setting('transaction_read_only') = 'on' or pg_is_in_recovery() as read_only,
           current_user as role, clock_timestamp() as clock,
           has_database_privilege(current_database(), 'create') as may_create_schema,
           to_regnamespace('quel_dagster') is not null as has_own_schema
    """
)
#: The columns of tables in schema public.
_TABLE_COLUMNS = text(
    """
    select c.relname as table_name, a.attname as column_name, format_type(a.atttypid, a.atttypmod) as type
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relname = any(cast(:tables as text[]))
    order by c.relname, a.attnum
    """
)
#: The labels of the enums in schema public.
_ENUM_LABELS = text(
    """
    select t.typname as enum_name, array_agg(e.enumlabel::text order by e.enumsortorder) as labels
    from pg_type t join pg_enum e on e.enumtypid = t.oid
    where t.typnamespace = 'public'::regnamespace group by t.typname
    """
)
#: Privileges on the tables in schema public that exist; `filtered`: row security hides rows from this role.
_TABLE_PRIVILEGES = text(
    """
    select c.relname as table_name, row_security_active(c.oid) as filtered,
           array(select lower(p) from unnest(array['SELECT', 'INSERT', 'UPDATE']) p
                 where has_table_privilege(c.oid, p)) as granted
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname = any(cast(:tables as text[]))
    """
)


class ServerFacts(Value):
    """A PostgreSQL server, as a connection of this project finds it."""

    version: str
    #: such as 160004
    version_num: int
    read_only: bool
    #: of the connection
    role: str
    clock: datetime
    #: whether the role may create schema quel_dagster
    may_create_schema: bool
    has_own_schema: bool


class Installation:
    """What the installer and `quel doctor` ask and do."""

    def __init__(self, database: Connection) -> None:
        self._database = database

    async def ensure_schema(self) -> bool:
        """Apply the migrations of schema quel_dagster that are missing; touches nothing else. True when there were any.

        Raises:
            SchemaError: the web app's tables are not in this database, or this version must not work on it.
        """
        return bool(await migrate(self._database.engine))

    async def schema_state(self) -> SchemaState:
        """Return the missing migrations, and whether this version may use the database."""
        return await schema_state(self._database.engine)

    async def create_web_app_tables(self) -> bool:
        """Create the web app's tables in an embedded database. Return True when they did not exist."""
        async with self._database.engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                await connection.execute(SCHEMA_LOCK)
                if (await connection.execute(HAS_WEB_APP_TABLES)).scalar():
                    return False
                await run_script(connection, WEB_APP_SQL)
        return True

    async def server_facts(self) -> ServerFacts:
        return await read_one(self._database, ServerFacts, _SERVER_FACTS)

    async def columns(self, tables: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return name and type of the columns of those tables of schema public that exist, by table."""
        found: dict[str, dict[str, str]] = {}
        for row in await self._database.ask(_TABLE_COLUMNS, tables=list(tables)):
            found.setdefault(row.table_name, {})[row.column_name] = row.type
        return found

    async def enums(self) -> dict[str, list[str]]:
        """Return the labels of every enum of schema public."""
        return {row.enum_name: list(row.labels) for row in await self._database.ask(_ENUM_LABELS)}

    async def privileges(self, tables: Iterable[str]) -> dict[str, tuple[frozenset[str], bool]]:
        """Return for each of those tables that exists: `select`, `insert`, `update` as granted; whether row security
        hides rows."""
        rows = await self._database.ask(_TABLE_PRIVILEGES, tables=list(tables))
        return {row.table_name: (frozenset(row.granted), row.filtered) for row in rows}
