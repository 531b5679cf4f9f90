"""What `quel doctor` says of a PostgreSQL elsewhere: TLS, poolers, connections, row security."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import trustme

from quel_dagster.adapters.database.connections import free_connections
from quel_dagster.cli.doctor.finding import Finding, Result
from quel_dagster.cli.doctor.postgres import check_postgres
from quel_dagster.errors import SettingsError
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.settings import Settings
from tests.production.servers import (
    PASSWORD,
    SharedDatabase,
    documented_statements,
    pgbouncer,
    shared_database,
    system_postgres,
)
from tests.production.test_preparation import prepared


@pytest.fixture(autouse=True)
def _outside_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _findings(url: str, **more: object) -> list[Finding]:
    found = list(check_postgres(Settings.read(_env_file=None, database_url=url, **more)))
    assert all(PASSWORD not in finding.said + finding.remedy for finding in found)
    return found


def _failed(url: str, **more: object) -> str:
    (finding,) = [each for each in _findings(url, **more) if each.result is Result.FAILED]
    return f"{finding.said}; {finding.remedy}"


# --- TLS -------------------------------------------------------------------------------------------------


def test_a_url_that_demands_tls_of_a_server_without(shared: SharedDatabase) -> None:
    assert _failed(f"{shared.url}?sslmode=require").startswith("the server has no TLS, and the URL demands it; remove")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_port(authority: trustme.CA) -> Iterator[int]:
    with system_postgres(authority.issue_cert("db.quel.example", "127.0.0.1")) as port:
        yield port


def test_server_that_requires_tls_is_named(tls_port: int) -> None:
    said = _failed(f"postgresql://quel:quel@127.0.0.1:{tls_port}/postgres?sslmode=disable")
    assert said == "the server wants TLS; add sslmode=require to DATABASE_URL"


def test_certificate_of_an_unknown_authority_is_named(tls_port: int, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    url = f"postgresql://quel:quel@127.0.0.1:{tls_port}/postgres?sslmode=verify-full&sslrootcert="
    assert "not signed by a trusted authority; name the file" in _failed(f"{url}{tmp_path / 'other.pem'}")
    assert "the file of the certificate authority is not there" in _failed(f"{url}{tmp_path / 'none.pem'}")


def test_certificate_for_another_host_is_named(tls_port: int, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    url = f"postgresql://quel:quel@localhost:{tls_port}/postgres?sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"
    assert "the server's certificate is for another host name" in _failed(url)


# --- passwords and keys ----------------------------------------------------------------------------------


def test_unescaped_character_in_a_password_is_named() -> None:
    assert "write it as %40" in _failed("postgresql://u:p@ss@127.0.0.1:9/d")


def test_a_key_with_a_line_break_is_named_by_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", "canary-first\ncanary-second")
    with pytest.raises(SettingsError, match=r"^SUPABASE_SERVICE_KEY: it holds a line break") as refused:
        Settings.read(_env_file=None)
    assert "canary" not in str(refused.value)


def test_parameter_of_another_driver_is_named(shared: SharedDatabase) -> None:
    said = _failed(f"{shared.url}?pgbouncer=true")
    assert said == "PostgreSQL does not know the URL's parameter pgbouncer; remove pgbouncer=… from DATABASE_URL"


# --- before the first start ------------------------------------------------------------------------------


def test_missing_schema_is_named_with_the_statement_that_creates_it(bare: SharedDatabase) -> None:
    said = _failed(bare.url)
    assert said.endswith(f"as the owner of the database: create schema quel_dagster authorization {bare.role}")


def test_empty_schema_is_a_warning_because_quel_up_installs_it(shared: SharedDatabase) -> None:
    (warning,) = [each for each in _findings(shared.url) if each.result is Result.WARNING]
    assert "`quel up` or `quel migrate` installs" in warning.remedy


# --- poolers and connections -----------------------------------------------------------------------------


def test_pooler_without_search_path_is_named_before_the_first_start(shared: SharedDatabase) -> None:
    with pgbouncer(shared, mode="session", drops_options=False) as url:
        assert f"alter role {shared.role} in database {shared.name} set search_path" in _failed(url)
        shared.prepare("alter role")
        shared.prepare("select pg_terminate_backend")
        # the pooler notices at its next use that a connection was ended, and says so to one client
        while (said := [finding.said for finding in _findings(url)]) and said[0].startswith("the pooler "):
            pass
        assert "connected through a pooler, with connections to spare" in said
        assert "Dagster's tables have schema quel_dagster" in said


def test_pool_that_is_too_small_is_named_with_the_number_needed(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path
) -> None:
    """A stack with 8 workers on a pool of 15 ended in "webserver was not ready after 120 s"."""
    shared.prepare("alter role")
    with pgbouncer(shared, mode="session", drops_options=True, pool_size=15, wait_seconds=2) as url:
        assert "15 connections free through a pooler, and this installation needs up to " in _failed(url, workers=8)
        with pytest.raises(SettingsError, match=r"not enough free connections: the pooler gives 1[0-5],") as refused:
            prepared(url, tmp_path, outside, workers=8)
        assert "lower QUEL_WORKER_PROCESSES" in str(refused.value)


def test_connections_counted_free_are_those_that_the_role_can_open() -> None:
    """Some are reserved for superusers."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    with ExitStack() as opened:
        port = opened.enter_context(system_postgres(certificate, plain=True, max_connections=20))
        server = f"postgresql://quel:quel@127.0.0.1:{port}/postgres"
        database = opened.enter_context(shared_database(server, "web_app"))
        counted = free_connections(database.url, wanted=1).free
        for _ in range(counted):
            opened.enter_context(psycopg.connect(database.url))
        with pytest.raises(psycopg.OperationalError, match="remaining connection slots"):
            psycopg.connect(database.url)


def test_limit_of_connections_of_the_role_counts(shared: SharedDatabase) -> None:
    assert "with connections to spare" in " ".join(each.said for each in _findings(shared.url, workers=8))
    shared.execute(f"alter role {shared.role} connection limit 12")
    assert "free directly, and this installation needs up to" in _failed(shared.url, workers=8)


# --- privileges ------------------------------------------------------------------------------------------


def test_each_missing_privilege_of_the_page_is_named(shared: SharedDatabase) -> None:
    for grant in documented_statements("grant", role=shared.role, database=shared.name):
        if " on schema " in grant:  # everyone has it
            continue
        shared.execute(grant.replace("grant", "revoke", 1).replace(" to ", " from "))
        said = _failed(shared.url)
        assert said.startswith("not granted: "), said
        for table in re.findall(r"quel_\w+", grant.partition(" to ")[0]):
            assert f" on {table}" in said, said
        shared.execute(grant)


# --- row security ----------------------------------------------------------------------------------------


def test_row_security_with_a_policy_for_the_role_is_fine(shared: SharedDatabase) -> None:
    shared.execute("alter table quel_member enable row level security")
    assert "row security hides rows of quel_member" in _failed(shared.url)
    shared.execute("create policy own on quel_member using (quel_email = current_user)")
    assert "row security hides rows of quel_member" in _failed(shared.url), "a policy that filters"
    shared.execute(f"create policy quel on quel_member to {shared.role} using (true) with check (true)")
    assert "permissions suffice" in [finding.said for finding in _findings(shared.url)]
    shared.execute("create policy strict on quel_member as restrictive using (quel_email <> '')")
    assert "row security hides rows of quel_member" in _failed(shared.url), "a restrictive policy hides rows"
