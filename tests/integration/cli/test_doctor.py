"""`quel doctor`: each thing that can be wrong, made wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from quel_dagster.adapters.database.url import DatabaseUrl
from quel_dagster.adapters.database.web_app_tables import WEB_APP_SQL
from quel_dagster.cli.doctor.dagster_parts import check_dagster
from quel_dagster.cli.doctor.finding import Finding, Result
from quel_dagster.cli.doctor.gemini import check_gemini
from quel_dagster.cli.doctor.object_store import PROBE_KEY, check_object_store
from quel_dagster.cli.doctor.postgres import check_postgres
from quel_dagster.cli.doctor.redis_server import check_redis
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.settings import Settings
from tests.integration.cli.conftest import Quel
from tests.integration.conftest import GEMINI_KEY

NOTHING_LISTENS = "127.0.0.1:9"


def failures(findings: Iterator[Finding] | list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.result is not Result.OK]


def only(findings: Iterator[Finding]) -> Finding:
    """The one thing that is wrong; it has a remedy."""
    (finding,) = failures(findings)
    assert finding.remedy
    return finding


# --- the whole -------------------------------------------------------------------------------------------


def test_every_system_has_one_line(
    quel: Quel, gemini: GeminiStandIn, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]
) -> None:
    monkeypatch.setenv("GEMINI_BASE_URL", gemini.url)
    monkeypatch.setenv("GEMINI_API_KEY", GEMINI_KEY)
    monkeypatch.setenv("QUEL_WEBSERVER_URL", f"http://{NOTHING_LISTENS}")
    answer = quel.now("doctor", "--json").wrong()  # there are neither daemons nor workers here
    assert answer.data["ok"] is False
    by_part: dict[str, set[str]] = {}
    for finding in answer.data["findings"]:
        by_part.setdefault(finding["part"], set()).add(finding["result"])
        assert bool(finding["remedy"]) is (finding["result"] != "ok")
    healthy = {"Settings", "PostgreSQL", "Redis", "Object store", "Gemini", "Dagster storage"}
    assert {part for part, results in by_part.items() if results == {"ok"}} == healthy
    assert {"Dagster daemons", "Dagster code", "Dagster workers"} == by_part.keys() - healthy
    text = quel.now("doctor").wrong().out
    assert "✓ PostgreSQL: the web app's tables are as expected" in text
    assert "✗ Dagster workers: none lives, so runs wait in the queue; start one: quel worker" in text
    assert "\n3 checks failed." in text
    for secret in (GEMINI_KEY, *(url.split(":")[2].split("@")[0] for url in _with_passwords(variables))):
        assert secret not in text + answer.out


def _with_passwords(variables: Mapping[str, str]) -> list[str]:
    return [variables["DATABASE_URL"], variables["REDIS_URL"]]


def test_nothing_is_set(quel: Quel, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name in variables:
        if name != "QUEL_HOME":
            monkeypatch.delenv(name)
    answer = quel.now("doctor").wrong()
    for line in (
        "✗ Settings: DATABASE_URL, REDIS_URL: not set",
        "✗ PostgreSQL: DATABASE_URL is not set",
        "✗ Redis: REDIS_URL is not set",
        "✗ Object store: cannot be opened; STORAGE_URL is not set",
        "✗ Gemini: GEMINI_API_KEY is not set",
        "! Dagster: no `quel up` runs on ",
    ):
        assert line in answer.out


def test_a_setting_that_cannot_be_read_is_code_2(quel: Quel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_PER_PRICE", "twenty")
    for words in (("doctor",), ("list",), ("audit",)):
        assert quel.now(*words).wrong(2).err.startswith("quel: IMAGE_PER_PRICE: ")


# --- PostgreSQL ------------------------------------------------------------------------------------------


@pytest.fixture
def other_database(endpoints: Endpoints) -> Iterator[psycopg.Connection[Any]]:
    """A database with the tables of the web app, to be spoilt."""
    with psycopg.connect(endpoints.database_url, autocommit=True, dbname="postgres") as server:
        server.execute("create database spoilt")
        try:
            with psycopg.connect(endpoints.database_url, autocommit=True, dbname="spoilt") as connection:
                connection.execute(WEB_APP_SQL.encode())
                yield connection
        finally:
            server.execute("drop database spoilt with (force)")
            server.execute("drop role if exists doctors_patient")


def _settings(endpoints: Endpoints, **changes: Any) -> Settings:
    """Settings that look at the spoilt database."""
    url = DatabaseUrl.parse(endpoints.database_url).url.set(drivername="postgresql", database="spoilt", **changes)
    return Settings.read(_env_file=None, database_url=url.render_as_string(hide_password=False))


def test_tables_that_are_not_as_they_should_be(endpoints: Endpoints, other_database: psycopg.Connection[Any]) -> None:
    finding = only(check_postgres(_settings(endpoints)))
    assert finding.result is Result.WARNING
    assert "schema quel_dagster does not exist yet" in finding.said
    other_database.execute("create schema quel_dagster")
    assert "lacks migrations" in only(check_postgres(_settings(endpoints))).said, "it has no migration"
    other_database.execute("drop schema quel_dagster cascade")

    other_database.execute("alter table quel_production_photo alter column total_quantity type text")
    other_database.execute("alter table quel_credits drop column used_by_member_id")
    other_database.execute("drop table quel_organization_member")
    other_database.execute("alter type job_status_enum rename value 'user_cancelled' to 'usercancelled'")
    wrong = failures(check_postgres(_settings(endpoints)))
    said = " | ".join(finding.said for finding in wrong if finding.result is Result.FAILED)
    for part in (
        "quel_production_photo.total_quantity is text, not integer",
        "quel_credits.used_by_member_id is missing",
        "table quel_organization_member is missing",
        "job_status_enum lacks user_cancelled",
    ):
        assert part in said


def test_wider_columns_and_more_of_them_are_fine(endpoints: Endpoints, other_database: psycopg.Connection[Any]) -> None:
    other_database.execute("alter table quel_production_jobs alter column stage_name type text")
    other_database.execute("alter table quel_production_jobs add column extra int")
    assert "schema quel_dagster" in only(check_postgres(_settings(endpoints))).said


def test_a_user_without_privileges(endpoints: Endpoints, other_database: psycopg.Connection[Any]) -> None:
    other_database.execute("create role doctors_patient login password 'pw'")
    other_database.execute("grant select on all tables in schema public to doctors_patient")
    other_database.execute("grant insert on quel_attach, quel_credits to doctors_patient")
    settings = _settings(endpoints, username="doctors_patient", password="pw")
    wrong = failures(check_postgres(settings))
    lacking, schema = (finding.said for finding in wrong)
    assert "update on quel_production_jobs" in lacking
    assert "quel_attach" not in lacking
    assert "schema quel_dagster is missing and cannot be created" in schema
    other_database.execute("alter table quel_attach enable row level security")
    assert "row security hides rows of quel_attach" in " ".join(f.said for f in check_postgres(settings))


def test_a_database_that_cannot_be_written(endpoints: Endpoints, other_database: psycopg.Connection[Any]) -> None:
    other_database.execute("create schema quel_dagster")
    other_database.execute("alter database spoilt set default_transaction_read_only = on")
    assert "read-only" in " ".join(f.said for f in failures(check_postgres(_settings(endpoints))))


def test_a_database_that_is_not_there(endpoints: Endpoints) -> None:
    assert "no such database" in only(check_postgres(_settings(endpoints))).said
    assert "password refused" in only(check_postgres(_settings(endpoints, password="wrong"))).said
    unreachable = Settings.read(_env_file=None, database_url=f"postgresql://u:canary@{NOTHING_LISTENS}/quel")
    finding = only(check_postgres(unreachable))
    assert "connection refused" in finding.said
    assert "canary" not in finding.said + finding.remedy
    odd = Settings.read(_env_file=None, database_url="mysql://u:canary@localhost/quel")
    assert "postgresql://" in only(check_postgres(odd)).remedy


# --- Redis -----------------------------------------------------------------------------------------------


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """The Redis of these tests, set back afterwards."""
    with redis.Redis.from_url(redis_url) as client:
        kept = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy", "appendonly")}
        yield client
        for name, value in kept.items():
            client.config_set(name, value)
        client.acl_deluser("patient")


def _redis_settings(url: str) -> Settings:
    return Settings.read(_env_file=None, redis_url=url)


def test_a_redis_that_may_forget(redis_url: str, server: redis.Redis) -> None:
    assert failures(check_redis(_redis_settings(redis_url))) == []
    assert server.keys("*") == [], "the probe is gone"
    server.config_set("maxmemory", "1gb")
    server.config_set("maxmemory-policy", "allkeys-lru")
    finding = only(check_redis(_redis_settings(redis_url)))
    assert finding.result is Result.FAILED
    assert "allkeys-lru" in finding.said
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("appendonly", "no")
    finding = only(check_redis(_redis_settings(redis_url)))
    assert finding.result is Result.WARNING
    assert "append-only" in finding.said


def test_what_lies_in_redis(redis_url: str, server: redis.Redis) -> None:
    server.lpush("jobs:dead", "a letter")
    finding = only(check_redis(_redis_settings(redis_url)))
    assert (finding.result, finding.remedy) == (Result.WARNING, "quel dead list")
    server.set("jobs:queue", "a string")
    assert "jobs:queue is a string" in only(check_redis(_redis_settings(redis_url))).said


def test_a_redis_that_refuses_us(redis_url: str, server: redis.Redis) -> None:
    address = redis_url.rpartition("@")[2]
    assert "password refused" in only(check_redis(_redis_settings(f"redis://:canary@{address}"))).said
    server.acl_setuser("patient", enabled=True, passwords=["+pw"], commands=["+ping", "+info", "+client"], keys=["*"])
    assert "not permitted" in only(check_redis(_redis_settings(f"redis://patient:pw@{address}"))).said
    finding = only(check_redis(_redis_settings(f"redis://:canary@{NOTHING_LISTENS}/0")))
    assert "does not answer" in finding.said
    assert "canary" not in finding.said + finding.remedy
    assert "not a Redis URL" in only(check_redis(_redis_settings("http://localhost"))).said


# --- object store, Gemini, Dagster -----------------------------------------------------------------------


def test_the_store_check_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = Settings.read(_env_file=None, storage_url=tmp_path.as_uri())
    (finding,) = check_object_store(settings)
    assert (finding.result, PROBE_KEY in finding.said) == (Result.OK, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_object_store_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "quel-doctor").write_text("a file where a folder should be")
    finding = only(check_object_store(Settings.read(_env_file=None, storage_url=tmp_path.as_uri())))
    assert "cannot be stored" in finding.said
    odd = Settings.read(_env_file=None, storage_url="ftp://host")
    assert "STORAGE_URL must begin with" in only(check_object_store(odd)).remedy


def test_gemini_is_asked_without_spending(gemini: GeminiStandIn) -> None:
    settings = Settings.read(_env_file=None, gemini_base_url=gemini.url, gemini_api_key=GEMINI_KEY)
    (finding,) = check_gemini(settings)
    assert finding.result is Result.OK
    assert gemini.state.report(since=0)["requests"] == [], "a picture was asked for"
    unreachable = settings.model_copy(update={"gemini_base_url": f"http://{NOTHING_LISTENS}"})
    assert "does not answer" in only(check_gemini(unreachable)).said


def test_unreachable_dagster_storage(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", f"postgresql+psycopg2://u:canary@{NOTHING_LISTENS}/dagster")
    finding = only(check_dagster(Settings.read()))
    assert "storage: connection refused" in finding.said
    assert "canary" not in finding.said + finding.remedy
