"""Our own schema in a database that is not ours: installed once, upgraded, never downgraded, and nothing beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from quel_dagster.adapters.database.migrations import Migration, migrate, migrations
from quel_dagster.adapters.database.store import Database
from quel_dagster.errors import QuelError, SchemaError
from tests.integration.conftest import Look
from tests.older_version import OLDER, OLDER_SCHEMA, unpack_older_version

#: Everything that a database holds, outside our schema and the toast tables that belong to relations.
EVERYTHING = """
    with ours as (select oid from pg_namespace where nspname in ('quel_dagster', 'pg_toast'))
    select 'namespace' as kind, nspname::text as name, coalesce(nspacl::text, '') as more
        from pg_namespace where oid not in (select oid from ours)
    union all select 'relation', oid::regclass::text, concat(relkind, relnatts, relchecks, relhastriggers, relacl)
        from pg_class where relnamespace not in (select oid from ours)
    union all select 'column', concat(attrelid::regclass, '.', attname), concat(atttypid, attnotnull, atthasdef)
        from pg_attribute join pg_class on pg_class.oid = attrelid where relnamespace not in (select oid from ours)
    union all select 'function', oid::regprocedure::text, md5(prosrc)
        from pg_proc where pronamespace not in (select oid from ours)
    union all select 'type', oid::regtype::text, typtype::text
        from pg_type where typnamespace not in (select oid from ours)
    union all select 'constraint', concat(conrelid::regclass, '.', conname), contype::text
        from pg_constraint where connamespace not in (select oid from ours)
    union all select 'trigger', concat(tgrelid::regclass, '.', tgname), tgenabled::text from pg_trigger
    union all select 'extension', extname::text, extversion from pg_extension
    union all select 'event trigger', evtname::text, evtenabled::text from pg_event_trigger
    union all select 'role', rolname::text, '' from pg_roles
    union all select 'setting', setdatabase::text, setconfig::text from pg_db_role_setting
    order by 1, 2, 3
"""
OWN = "select oid::regprocedure::text as name from pg_proc where pronamespace = 'quel_dagster'::regnamespace order by 1"

#: Tables, columns, indexes and functions of our own schema, with what they consist of.
OWN_SCHEMA = """
    select 'relation' as kind, relname::text as name, relkind::text as more
        from pg_class where relnamespace = 'quel_dagster'::regnamespace
    union all select 'column', concat(attrelid::regclass, '.', attname),
        concat(format_type(atttypid, atttypmod), ' ', attnotnull, ' ', pg_get_expr(adbin, adrelid))
        from pg_attribute join pg_class on pg_class.oid = attrelid
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where relnamespace = 'quel_dagster'::regnamespace and attnum > 0 and relkind = 'r'
    union all select 'index', indexname::text, indexdef from pg_indexes where schemaname = 'quel_dagster'
    union all select 'function', oid::regprocedure::text, md5(pg_get_functiondef(oid))
        from pg_proc where pronamespace = 'quel_dagster'::regnamespace
    order by 1, 2, 3
"""


@pytest.fixture
async def fresh(fresh_url: str) -> AsyncIterator[Database]:
    database = Database(fresh_url)
    yield database
    await database.aclose()


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the older version."""
    return unpack_older_version(tmp_path_factory.mktemp("older"), OLDER_SCHEMA)


@pytest.fixture
async def look(fresh_url: str) -> AsyncIterator[Look]:
    async with await psycopg.AsyncConnection.connect(
        fresh_url, autocommit=True, row_factory=psycopg.rows.dict_row
    ) as connection:
        yield Look(connection)


async def comment(look: Look) -> Any:
    return await look.value("select obj_description('quel_dagster'::regnamespace, 'pg_namespace')")


async def test_it_is_installed_once_and_touches_nothing_else(fresh: Database, look: Look) -> None:
    await fresh.installation.create_web_app_tables()
    before = await look.all(EVERYTHING)

    assert await fresh.installation.ensure_schema()
    own = await look.all(OWN)
    assert not await fresh.installation.ensure_schema()

    assert await look.all(EVERYTHING) == before
    assert await look.all(OWN) == own != []
    applied = await look.all("select number from quel_dagster.schema_migration order by number")
    assert [row["number"] for row in applied] == [migration.number for migration in migrations()]


async def test_the_web_apps_tables_are_created_once(fresh: Database, look: Look) -> None:
    assert await fresh.installation.create_web_app_tables()
    before = await look.all(EVERYTHING)
    assert not await fresh.installation.create_web_app_tables()
    assert await look.all(EVERYTHING) == before


async def test_ten_that_start_at_once_install_it_once(fresh: Database, fresh_url: str, look: Look) -> None:
    await fresh.installation.create_web_app_tables()
    others = [Database(fresh_url) for _ in range(10)]

    answers = await asyncio.gather(*(other.installation.ensure_schema() for other in others))

    assert sum(answers) == 1
    assert len(await look.all(OWN)) > 5
    await asyncio.gather(*(other.aclose() for other in others))


async def test_ten_that_start_at_once_create_the_tables_once(fresh: Database, fresh_url: str) -> None:
    others = [Database(fresh_url) for _ in range(10)]
    answers = await asyncio.gather(*(other.installation.create_web_app_tables() for other in others))
    assert sum(answers) == 1
    await asyncio.gather(*(other.aclose() for other in others))


async def test_a_schema_from_before_numbered_migrations_is_upgraded_and_keeps_its_rows(
    fresh: Database, look: Look, older: Path
) -> None:
    await fresh.installation.create_web_app_tables()
    await look.connection.execute((older / OLDER_SCHEMA).read_bytes())
    await look.all("comment on schema quel_dagster is 'quel_dagster 1 abc'")
    job_id = uuid4()
    await look.all("insert into quel_dagster.job_cancel (job_id) values (%s)", job_id)

    assert await fresh.installation.ensure_schema()

    await fresh.work.keep_cancel(uuid4())
    assert await look.all("select 1 from quel_dagster.job_cancel where job_id = %s", job_id) != []
    assert int(str(await comment(look)).split()[1]) > 1, "a version without numbers would install its own again"


async def test_a_fresh_install_and_every_older_version_upgraded_are_the_same_schema(
    fresh: Database, look: Look, older: Path
) -> None:
    """An older version is the schema of the last commit without migrations, or the first N of these."""
    await fresh.installation.create_web_app_tables()
    await fresh.installation.ensure_schema()
    installed = await look.all(OWN_SCHEMA)
    assert installed != []

    await look.all("drop schema quel_dagster cascade")
    await look.connection.execute((older / OLDER_SCHEMA).read_bytes())
    assert await look.all(OWN_SCHEMA) != installed
    await fresh.installation.ensure_schema()
    assert await look.all(OWN_SCHEMA) == installed, f"of {OLDER}"

    for count in range(1, len(migrations())):
        await look.all("drop schema quel_dagster cascade")
        await migrate(fresh.engine, migrations()[:count])
        await fresh.installation.ensure_schema()
        assert await look.all(OWN_SCHEMA) == installed, f"of the version with migration {migrations()[count - 1].name}"


async def test_a_landed_file_that_was_changed_is_refused(fresh: Database, look: Look) -> None:
    await fresh.installation.create_web_app_tables()
    await fresh.installation.ensure_schema()
    changed = [replace(migrations()[0], sql=migrations()[0].sql + "-- more"), *migrations()[1:]]

    with pytest.raises(SchemaError, match=r"0001_baseline\.sql differs"):
        await migrate(fresh.engine, changed)


async def test_a_newer_schema_that_works_with_this_version_is_left_alone(fresh: Database, look: Look) -> None:
    await fresh.installation.create_web_app_tables()
    newer = [*migrations(), Migration(9001, "newer", "create table quel_dagster.newer (id int);")]
    await migrate(fresh.engine, newer)
    own = await look.all(OWN_SCHEMA)

    assert not await fresh.installation.ensure_schema()
    assert (await fresh.installation.schema_state()).problem is None
    assert await look.all(OWN_SCHEMA) == own


async def test_a_version_that_is_too_old_for_the_schema_is_refused(fresh: Database) -> None:
    await fresh.installation.create_web_app_tables()
    newer = [*migrations(), Migration(9001, "newer", "select 1;", oldest_code=9001)]
    await migrate(fresh.engine, newer)

    with pytest.raises(SchemaError, match="needs a version of quel_dagster with migration 9001"):
        await fresh.installation.ensure_schema()


async def test_a_migration_that_fails_leaves_nothing_of_itself(fresh: Database, look: Look) -> None:
    await fresh.installation.create_web_app_tables()
    await fresh.installation.ensure_schema()
    own = await look.all(OWN_SCHEMA)
    broken = [*migrations(), Migration(9001, "broken", "create table quel_dagster.half (id int); select 1 / 0;")]

    with pytest.raises(psycopg.errors.DivisionByZero):
        await migrate(fresh.engine, broken)

    assert await look.all(OWN_SCHEMA) == own


async def test_a_schema_that_only_exists_is_filled(fresh: Database, look: Look) -> None:
    """Dagster's own storage may have been given the schema before."""
    await fresh.installation.create_web_app_tables()
    await look.all("create schema quel_dagster")
    assert await fresh.installation.ensure_schema()
    await fresh.work.keep_cancel(uuid4())


async def test_a_database_without_the_web_apps_tables_is_refused_in_words(fresh: Database, look: Look) -> None:
    before = await look.all(EVERYTHING)
    with pytest.raises(QuelError, match="quel_production_jobs"):
        await fresh.installation.ensure_schema()
    assert await look.all(EVERYTHING) == before
    assert await look.all("select 1 from pg_namespace where nspname = 'quel_dagster'") == []
