"""What is read out of `schema/web_app.sql` is what PostgreSQL makes of it."""

from __future__ import annotations

import psycopg

from quel_dagster.adapters.database.web_app_tables import enums, tables
from quel_dagster.services.endpoints import Endpoints

_COLUMNS = """
    select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull, coalesce(i.indisprimary, false)
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    left join pg_index i on i.indrelid = c.oid and i.indisprimary and a.attnum = any (i.indkey)
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
    order by c.relname, a.attnum
"""
_ENUMS = """
    select t.typname, array_agg(e.enumlabel::text order by e.enumsortorder)
    from pg_type t join pg_enum e on e.enumtypid = t.oid
    where t.typnamespace = 'public'::regnamespace group by t.typname
"""


def test_columns_and_enums_are_those_of_the_database(endpoints: Endpoints) -> None:
    with psycopg.connect(endpoints.database_url, autocommit=True) as connection:
        created = connection.execute(_COLUMNS).fetchall()
        created_enums = connection.execute(_ENUMS).fetchall()
        parsed = [
            (table, column.name, _full(connection, column.kind), column.nullable, column.primary_key)
            for table, columns in sorted(tables().items())
            for column in columns
        ]
    assert parsed == [row for row in created if row[0] in tables()]
    assert {name: list(labels) for name, labels in enums().items()} == dict(created_enums)


def _full(connection: psycopg.Connection, kind: str) -> str:
    """PostgreSQL's own name of a type: `int` is `integer`."""
    row = connection.execute(f"select format_type('{kind}'::regtype, -1)".encode()).fetchone()
    assert row is not None
    length = kind.partition("(")[1:]
    return f"{row[0]}{length[0]}{length[1].replace(', ', ',')}" if length[0] else str(row[0])
