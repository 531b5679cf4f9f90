"""Our own schema in a database that is not ours: installed once, upgraded, never downgraded, and nothing beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from quel_dagster.adapters.database import store
from quel_dagster.adapters.database.store import Database
from quel_dagster.errors import QuelError
from quel_dagster.sandbox.endpoints import Endpoints
from tests.integration.conftest import Look

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


@pytest.fixture
async def fresh_url(endpoints: Endpoints) -> AsyncIterator[str]:
    """A database of this test's own, empty."""
    name = f"fresh_{uuid4().hex}"
    async with await psycopg.AsyncConnection.connect(endpoints.database_url, autocommit=True) as connection:
        await connection.execute(f"create database {name}".encode())
        yield endpoints.database_url.rsplit("/", 1)[0] + f"/{name}"
        await connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
async def fresh(fresh_url: str) -> AsyncIterator[Database]:
    database = Database(fresh_url)
    yield database
    await database.aclose()


@pytest.fixture
async def look(fresh_url: str) -> AsyncIterator[Look]:
    async with await psycopg.AsyncConnection.connect(
        fresh_url, autocommit=True, row_factory=psycopg.rows.dict_row
    ) as connection:
        yield Look(connection)


async def comment(look: Look) -> Any:
    return await look.value("select obj_description('quel_dagster'::regnamespace, 'pg_namespace')")


async def test_it_is_installed_once_and_touches_nothing_else(fresh: Database, look: Look) -> None:
    await fresh.create_web_app_tables()
    before = await look.all(EVERYTHING)

    assert await fresh.ensure_schema()
    own = await look.all(OWN)
    assert not await fresh.ensure_schema()

    assert await look.all(EVERYTHING) == before
    assert await look.all(OWN) == own != []
    assert str(await comment(look)).startswith(f"quel_dagster {store.SCHEMA_VERSION} ")


async def test_the_web_apps_tables_are_created_once(fresh: Database, look: Look) -> None:
    assert await fresh.create_web_app_tables()
    before = await look.all(EVERYTHING)
    assert not await fresh.create_web_app_tables()
    assert await look.all(EVERYTHING) == before


async def test_ten_that_start_at_once_install_it_once(fresh: Database, fresh_url: str, look: Look) -> None:
    await fresh.create_web_app_tables()
    others = [Database(fresh_url) for _ in range(10)]

    answers = await asyncio.gather(*(other.ensure_schema() for other in others))

    assert sum(answers) == 1
    assert len(await look.all(OWN)) > 5
    await asyncio.gather(*(other.aclose() for other in others))


async def test_ten_that_start_at_once_create_the_tables_once(fresh: Database, fresh_url: str) -> None:
    others = [Database(fresh_url) for _ in range(10)]
    answers = await asyncio.gather(*(other.create_web_app_tables() for other in others))
    assert sum(answers) == 1
    await asyncio.gather(*(other.aclose() for other in others))


@pytest.mark.parametrize("installed", ["quel_dagster 0 abc", f"quel_dagster {store.SCHEMA_VERSION} other", None])
async def test_an_older_or_different_one_is_replaced_and_keeps_its_rows(
    fresh: Database, look: Look, installed: str | None
) -> None:
    await fresh.create_web_app_tables()
    await fresh.ensure_schema()
    current = await comment(look)
    job_id = uuid4()
    await look.all("insert into quel_dagster.job_cancel (job_id) values (%s)", job_id)
    await look.all("drop function quel_dagster.keep_cancel(uuid)")
    said = "null" if installed is None else f"'{installed}'"
    await look.all(f"comment on schema quel_dagster is {said}")

    assert await fresh.ensure_schema()

    assert await comment(look) == current
    await fresh.keep_cancel(uuid4())
    assert await look.all("select 1 from quel_dagster.job_cancel where job_id = %s", job_id) != []


async def test_a_newer_one_is_left_alone(fresh: Database, look: Look) -> None:
    await fresh.create_web_app_tables()
    await fresh.ensure_schema()
    newer = f"quel_dagster {store.SCHEMA_VERSION + 1} ffff"
    await look.all(f"comment on schema quel_dagster is '{newer}'")
    await look.all("drop function quel_dagster.keep_cancel(uuid)")
    own = await look.all(OWN)

    assert not await fresh.ensure_schema()

    assert (await comment(look), await look.all(OWN)) == (newer, own)


async def test_a_schema_that_only_exists_is_filled(fresh: Database, look: Look) -> None:
    """Dagster's own storage may have been given the schema before."""
    await fresh.create_web_app_tables()
    await look.all("create schema quel_dagster")
    assert await fresh.ensure_schema()
    await fresh.keep_cancel(uuid4())


async def test_a_database_without_the_web_apps_tables_is_refused_in_words(fresh: Database, look: Look) -> None:
    before = await look.all(EVERYTHING)
    with pytest.raises(QuelError, match="quel_production_jobs"):
        await fresh.ensure_schema()
    assert await look.all(EVERYTHING) == before
    assert await look.all("select 1 from pg_namespace where nspname = 'quel_dagster'") == []
