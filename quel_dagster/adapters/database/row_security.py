"""Find the commands that the row security of a table allows this role on every row."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text

from quel_dagster.adapters.database.store import Database

#: A policy for every row has no condition but `true`. One of these for a command is enough, unless a restrictive policy
#: excludes rows.
_OPEN_COMMANDS = text(
    """
    select p.tablename as table_name, lower(p.cmd) as command, p.permissive = 'PERMISSIVE' as permissive,
           coalesce(p.qual, 'true') = 'true' and coalesce(p.with_check, 'true') = 'true' as is_open
    from pg_policies p
    where p.schemaname = 'public' and p.tablename = any(cast(:tables as text[]))
      and exists (select 1 from unnest(p.roles) as role (name)
                  where role.name = 'public' or pg_has_role(role.name, 'member'))
    """
)
_ALL = frozenset({"select", "insert", "update"})


async def open_commands(database: Database, tables: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return, for each table with policies for this role, the commands allowed on every row."""
    allowed: dict[str, set[str]] = {}
    closed: dict[str, set[str]] = {}
    for row in await database.ask(_OPEN_COMMANDS, tables=list(tables)):
        commands = _ALL if row.command == "all" else {row.command}
        if row.permissive and row.is_open:
            allowed.setdefault(row.table_name, set()).update(commands)
        elif not row.permissive and not row.is_open:
            closed.setdefault(row.table_name, set()).update(commands)
    return {table: frozenset(commands - closed.get(table, set())) for table, commands in allowed.items()}
