"""`quel migrate`: the schema by hand, for a worker's role that does not own it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quel_dagster.adapters.database.migrations import migrations
from quel_dagster.services.endpoints import Endpoints
from tests.production.servers import PASSWORD, SharedDatabase
from tests.production.site import quel
from tests.production.test_preparation import prepared


def _shell(url: str, home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "DATABASE_URL": url, "QUEL_HOME": str(home)}


def test_an_owner_migrates_and_the_role_works_with_it(bare: SharedDatabase, outside: Endpoints, tmp_path: Path) -> None:
    owner, role = _shell(bare.owner_url, tmp_path), _shell(bare.url, tmp_path)
    newest = f"{migrations()[-1].number:04d}"
    refused = quel("migrate", environment=role)
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False), refused
    assert PASSWORD not in refused.stderr

    missing = quel("migrate", "--check", environment=owner)
    assert (missing.returncode, newest in missing.stdout) == (1, True), missing
    assert bare.tables("quel_dagster") == set()

    done = quel("migrate", "--grant-to", bare.role, environment=owner)
    assert (done.returncode, newest in done.stdout) == (0, True), done
    assert quel("migrate", "--check", environment=role).stdout == "Schema quel_dagster is up to date.\n"
    prepared(bare.url, tmp_path, outside)  # as `quel up` does before its first process


def test_command_before_the_first_start_says_what_installs_the_schema(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path
) -> None:
    answer = quel("list", environment={**_shell(shared.url, tmp_path), "REDIS_URL": outside.redis_url})
    assert answer.returncode != 0
    assert "`quel up` or `quel migrate` installs schema quel_dagster." in answer.stderr


@pytest.mark.parametrize(("given", "missing"), [("DATABASE_URL", "REDIS_URL"), ("REDIS_URL", "DATABASE_URL")])
def test_command_with_one_of_two_variables_names_the_other(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path, given: str, missing: str
) -> None:
    values = {"DATABASE_URL": shared.url, "REDIS_URL": outside.redis_url}
    environment = {"PATH": os.environ["PATH"], "QUEL_HOME": str(tmp_path), given: values[given]}
    answer = quel("list", environment=environment)
    assert answer.returncode != 0
    assert answer.stderr.startswith(f"quel: {missing} is not set.")


def test_database_that_needs_a_newer_version_is_refused(shared: SharedDatabase, tmp_path: Path) -> None:
    shell = _shell(shared.url, tmp_path)
    assert quel("migrate", environment=shell).returncode == 0
    shared.execute("insert into quel_dagster.schema_migration values (9999, 'later', 'x', 9999)")
    for words in (("migrate",), ("migrate", "--check")):
        answer = quel(*words, environment=shell)
        assert answer.returncode == 1
        assert "needs a version of quel_dagster with migration 9999" in answer.stdout + answer.stderr


@pytest.mark.parametrize("words", [("migrate",), ("migrate", "--check")])
def test_unreachable_database_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    answer = quel(*words, environment=_shell("postgresql://u@127.0.0.1:9/d", tmp_path))
    assert answer.returncode == 2
    assert answer.stderr.startswith("quel: DATABASE_URL: connection refused")
