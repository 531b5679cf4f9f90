"""Before the first process: the schema of a role of little power, and the place of Dagster's tables behind a pooler."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from quel_dagster.adapters.database.url import for_libpq, in_own_schema
from quel_dagster.errors import SettingsError
from quel_dagster.platform.storage import InstanceStorage
from quel_dagster.platform.storage_connections import close_connections
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.plan import plan
from quel_dagster.services.preparation import prepare_databases
from quel_dagster.settings import Settings
from tests.production.servers import PASSWORD, SharedDatabase, pgbouncer


def prepared(url: str, home: Path, outside: Endpoints, **more: object) -> Endpoints:
    """The endpoints of an installation on that database, as before its first process."""

    settings = Settings.read(
        _env_file=None,
        home=home,
        database_url=url,
        redis_url=outside.redis_url,
        storage_url=home.as_uri(),
        gemini_base_url="http://127.0.0.1:9",
        gemini_api_key="key-of-these-tests",
        **more,
    )
    with ExitStack() as undo:
        return prepare_databases(plan(settings, home=home, port=0, embedded=None, undo=undo), settings)


def _schema_of(url: str) -> str:
    with psycopg.connect(for_libpq(url)) as connection:
        row = connection.execute("select current_schema()").fetchone()
    assert row is not None
    return str(row[0])


def test_a_role_that_may_create_no_schema_uses_the_one_made_for_it(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path
) -> None:
    """`create schema if not exists` wants the privilege even when the schema is there."""
    where = prepared(shared.url, tmp_path, outside)
    assert "job_lease" in shared.tables("quel_dagster")
    assert _schema_of(where.dagster_postgres_url) == "quel_dagster"
    prepared(shared.url, tmp_path, outside)  # a second start


def test_without_a_schema_the_line_says_how_its_owner_makes_it(
    bare: SharedDatabase, outside: Endpoints, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="create schema quel_dagster authorization") as refused:
        prepared(bare.url, tmp_path, outside)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("drops_options", [True, False], ids=["drops", "refuses"])
def test_a_pooler_that_takes_no_search_path_is_refused_before_anything_is_created(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path, mode: str, drops_options: bool
) -> None:
    before = shared.tables("public")
    with pgbouncer(shared, mode=mode, drops_options=drops_options) as url:
        with pytest.raises(SettingsError) as refused:
            prepared(url, tmp_path, outside)
        assert f"alter role {shared.role} in database {shared.name} set search_path = quel_dagster" in str(
            refused.value
        )
        assert PASSWORD not in str(refused.value)
        assert shared.tables("public") == before


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("drops_options", [True, False], ids=["drops", "refuses"])
def test_the_search_path_of_the_role_works_through_any_pooler(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path, mode: str, drops_options: bool
) -> None:
    shared.prepare("alter role")
    before = shared.tables("public")
    with pgbouncer(shared, mode=mode, drops_options=drops_options) as url:
        where = prepared(url, tmp_path, outside)
        assert _schema_of(where.dagster_postgres_url) == "quel_dagster"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_OF_THIS_TEST", where.dagster_postgres_url)
            storage = InstanceStorage.from_config_value(None, {"url_from": "STORAGE_OF_THIS_TEST"})
            assert storage.run_storage.get_runs_count() == 0
            close_connections()
    assert shared.tables("public") == before
    assert {"runs", "event_logs"} <= shared.tables("quel_dagster")


def test_dagsters_storage_refuses_to_create_its_tables_among_the_web_apps(
    shared: SharedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a process is started by hand, with a URL that lacks the search path."""
    monkeypatch.setenv("STORAGE_OF_THIS_TEST", f"postgresql+psycopg2://{shared.owner_url.partition('://')[2]}")
    before = shared.tables("public")
    with pytest.raises(SettingsError, match=r"tables would be created in schema public, among the web app's"):
        InstanceStorage.from_config_value(None, {"url_from": "STORAGE_OF_THIS_TEST"})
    assert shared.tables("public") == before


def test_a_search_path_to_a_schema_that_is_not_there_is_named(
    bare: SharedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_OF_THIS_TEST", in_own_schema(bare.url).replace("postgresql:", "postgresql+psycopg2:"))
    with pytest.raises(SettingsError, match="names no schema that exists"):
        InstanceStorage.from_config_value(None, {"url_from": "STORAGE_OF_THIS_TEST"})


def test_a_storage_of_its_own_that_cannot_be_reached_is_one_line(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"^DAGSTER_DATABASE_URL: connection refused; "):
        prepared(shared.url, tmp_path, outside, dagster_database_url="postgresql://u@127.0.0.1:9/d")
