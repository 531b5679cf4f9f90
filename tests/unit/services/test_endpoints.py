"""The endpoints of a home, its lock, and the environment of a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from quel_dagster.cli.services import parse_path_prefix
from quel_dagster.errors import HomeBusyError, NotRunningError
from quel_dagster.sandbox.embedded import passwords
from quel_dagster.services.endpoints import (
    Endpoints,
    connecting_environment,
    running_endpoints,
    settings_environment,
    shell_exports,
    write_endpoints,
)
from quel_dagster.services.home import home_of, locked
from quel_dagster.settings import Settings

_NASTY = "p'a\"s $(touch /tmp/never) `x` \\ & ü"

_HOLD = """
import sys
from pathlib import Path
from quel_dagster.services.home import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _held_by_another_process(home: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def _endpoints(home: Path, **changes: Any) -> Endpoints:
    values: dict[str, Any] = {
        "home": home,
        "dagster_home": home / "dagster",
        "database_url": "postgresql://quel:pw@127.0.0.1:1/quel",
        "dagster_postgres_url": "postgresql+psycopg2://quel:pw@127.0.0.1:1/dagster",
        "redis_url": "redis://:pw@127.0.0.1:2/0",
        "storage_url": "file:///somewhere",
        "gemini_base_url": None,
        "gemini_api_key": None,
        "webserver_port": 3000,
        "code_server_socket": home / "run/code-server.sock",
        "workers": 2,
        "supervisor_pid": os.getpid(),
    }
    return Endpoints(**{**values, **changes})


def test_servers_elsewhere_have_their_urls_also_while_nothing_runs(tmp_path: Path) -> None:
    settings = Settings.read(
        _env_file=None, home=tmp_path, database_url="postgresql://u:pw@db/app", redis_host="queue", redis_use_tls=True
    )
    assert connecting_environment(settings) == {
        "DATABASE_URL": "postgresql://u:pw@db/app",
        "REDIS_URL": "rediss://queue:6379/0",
    }


def test_embedded_servers_have_no_urls_while_nothing_runs(tmp_path: Path) -> None:
    endpoints = _endpoints(tmp_path, postgres_port=1, redis_port=2)
    write_endpoints(endpoints)
    shell = {"database_url": endpoints.database_url, "redis_url": endpoints.redis_url}  # of eval "$(quel env)"
    with pytest.raises(NotRunningError):
        connecting_environment(Settings.read(_env_file=None, home=tmp_path, **shell))


def test_exports_mean_the_same_in_a_shell(tmp_path: Path) -> None:
    endpoints = _endpoints(tmp_path / _NASTY.replace("/", ""), database_url=_NASTY)
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        ["bash", "-c", f'eval "$EXPORTS"; "{sys.executable}" -I -c "{program}"'],
        env={"EXPORTS": shell_exports(endpoints.environment())},
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    assert {name: seen.get(name) for name in endpoints.environment()} == endpoints.environment()
    assert seen["DATABASE_URL"] == _NASTY


def test_what_is_not_in_use_is_not_exported(tmp_path: Path) -> None:
    assert "GEMINI_BASE_URL" not in _endpoints(tmp_path).environment()
    assert _endpoints(tmp_path, gemini_base_url="http://x").environment()["GEMINI_BASE_URL"] == "http://x"


def test_a_home_that_was_never_used_is_not_running(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="No `quel up` is running"):
        running_endpoints(Settings.read(home=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_endpoints_of_an_ended_supervisor_are_ignored(tmp_path: Path) -> None:
    with locked(tmp_path):
        write_endpoints(_endpoints(tmp_path))
        assert running_endpoints(Settings.read(home=tmp_path)) == _endpoints(tmp_path)
    with pytest.raises(NotRunningError, match=f"No `quel up` is running on {tmp_path}"):
        running_endpoints(Settings.read(home=tmp_path))


def test_endpoints_of_an_earlier_start_are_not_those_of_one_that_is_starting(tmp_path: Path) -> None:
    write_endpoints(_endpoints(tmp_path))
    with _held_by_another_process(tmp_path), pytest.raises(NotRunningError, match="not ready yet"):
        running_endpoints(Settings.read(home=tmp_path))


def test_a_home_has_one_supervisor(tmp_path: Path) -> None:
    with (
        _held_by_another_process(tmp_path) as other,
        pytest.raises(HomeBusyError, match=rf"process {other.pid}\) is running on {tmp_path}"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with _held_by_another_process(tmp_path) as other:
        other.kill()
        other.wait()
        with locked(tmp_path):
            pass


def test_passwords_are_made_once_and_are_private(tmp_path: Path) -> None:
    made = passwords(tmp_path)
    assert passwords(tmp_path) == made
    assert len(set(made.values())) == 2
    assert min(map(len, made.values())) >= 32
    assert (tmp_path / "credentials.json").stat().st_mode & 0o777 == 0o600
    write_endpoints(_endpoints(tmp_path))
    assert (tmp_path / "endpoints.json").stat().st_mode & 0o777 == 0o600


def test_children_read_the_settings_of_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.read(
        home=tmp_path,
        workers=7,
        image_per_price=3,
        redis_host="r",
        redis_password="s3cret",
        redis_use_tls=True,
        supabase_url="https://s",
        gemini_backoff_seconds=0.25,
    )
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings.read() == settings


def test_a_home_does_not_move_with_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert home_of(Settings.read()) == tmp_path / ".quel"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_of(Settings.read(home=Path("~/q"))) == tmp_path / "q"


def test_a_path_prefix_is_part_of_every_address_of_the_web_ui(tmp_path: Path) -> None:
    where = _endpoints(tmp_path, path_prefix="/ops")
    assert where.webserver_url == "http://127.0.0.1:3000/ops"
    assert where.run_url("r1") == "http://127.0.0.1:3000/ops/runs/r1"
    assert where.environment()["QUEL_WEBSERVER_URL"] == where.webserver_url


@pytest.mark.parametrize(("given", "path"), [("", ""), ("/", ""), ("/ops", "/ops"), ("/a/b/", "/a/b")])
def test_path_prefix_is_read(given: str, path: str) -> None:
    assert parse_path_prefix(given) == path


@pytest.mark.parametrize("given", ["ops", "http://x/ops", "/a b", "/a//b", "/../x?y"])
def test_what_is_no_path_is_refused_as_a_prefix(given: str) -> None:
    with pytest.raises(typer.BadParameter, match="no path"):
        parse_path_prefix(given)
