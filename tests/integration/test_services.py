"""The embedded servers, the whole set of services, and `quel up`, as their users meet them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from quel_dagster.adapters.database.web_app_tables import WEB_APP_SQL
from quel_dagster.errors import HomeBusyError, ServiceError, SettingsError
from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.services.endpoints import running_endpoints
from quel_dagster.services.stack import Stack
from quel_dagster.services.supervisor import MARK
from quel_dagster.settings import Settings

HANG = 60.0
_PUBLIC = "SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'"
SERVERS = ("postgres", "redis")
#: definitions and a Celery application without this project's code
_TOYS = {
    "toy_definitions.py": "import dagster\n\n@dagster.job\ndef toy(): ...\n\ndefs = dagster.Definitions(jobs=[toy])\n",
}


@pytest.fixture
def home() -> Iterator[Path]:
    # a deep path with everything in it that a URL, a shell or a configuration file may stumble over
    with tempfile.TemporaryDirectory(prefix="quel tests' é-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL is another user, and opens no folder by itself
        yield Path(folder) / ("d" * 60) / ("e" * 60) / "home"


@pytest.fixture
def toys(tmp_path: Path) -> dict[str, Any]:
    """What a Stack takes to run toys in place of our definitions and worker."""
    for name, text in _TOYS.items():
        (tmp_path / name).write_text(text)
    return {
        "definitions": "toy_definitions",
        "environment": {"PYTHONPATH": str(tmp_path)},
    }


def _servers(home: Path, **more: Any) -> Stack:
    return Stack(Settings.read(home=home), embedded=EmbeddedServers(), only=SERVERS, **more)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.05)


def _processes_of(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _one(url: str, query: str) -> Any:
    with psycopg.connect(url.replace("+psycopg2", ""), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


# --- the embedded servers --------------------------------------------------------------------------------


def test_data_and_urls_stay_from_start_to_start(home: Path) -> None:
    with _servers(home) as stack:
        first = stack.endpoints
        _one(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        with redis.Redis.from_url(first.redis_url) as client:
            client.lpush("jobs:queue", "an id")
    assert _processes_of(home) == []
    with _servers(home) as stack:
        again = stack.endpoints
        assert (again.database_url, again.redis_url) == (first.database_url, first.redis_url)
        assert _one(again.database_url, "SELECT answer FROM kept") == 42
        with redis.Redis.from_url(again.redis_url) as client:
            assert client.lrange("jobs:queue", 0, -1) == [b"an id"]
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_append_only_file_of_redis_6_is_read(home: Path) -> None:
    """Installations before Valkey have one file, newer servers a folder of them."""
    (home / "redis").mkdir(parents=True)
    commands = (("SELECT", "0"), ("LPUSH", "jobs:queue", "older"), ("LPUSH", "jobs:queue", "newer"))
    (home / "redis" / "appendonly.aof").write_text("".join(_resp(command) for command in commands), newline="")
    with _servers(home) as stack, redis.Redis.from_url(stack.endpoints.redis_url) as client:
        assert client.lrange("jobs:queue", 0, -1) == [b"newer", b"older"]


def _resp(words: Sequence[str]) -> str:
    return f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)


def test_an_embedded_database_has_the_web_apps_tables_and_one_for_dagster(home: Path) -> None:
    with _servers(home) as stack:
        where = stack.endpoints
        assert _one(where.database_url, "SHOW server_version_num")[:2] == "18"
        assert _one(where.database_url, "SELECT count(*) FROM quel_production_jobs") == 0
        assert _one(where.dagster_postgres_url, "SELECT current_database()") == "dagster"
        assert where.dagster_postgres_url.startswith("postgresql+psycopg2://")


def test_other_users_of_the_machine_are_refused(home: Path) -> None:
    with _servers(home) as stack:
        where = stack.endpoints
        secrets = json.loads((home / "credentials.json").read_text())
        command_lines = [" ".join(process.cmdline()) for process in _processes_of(home)]
        assert len(command_lines) >= 2
        assert not [line for line in command_lines if any(secret in line for secret in secrets.values())]
        with pytest.raises(psycopg.OperationalError, match="password"):
            _one(where.database_url.replace(secrets["postgres"], "guess"), "SELECT 1")
        stranger = redis.Redis.from_url(where.redis_url.replace(secrets["redis"], "guess"))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        listening = {
            connection.laddr.ip
            for process in _processes_of(home)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}


def test_a_server_that_is_killed_comes_back_where_it_was(home: Path) -> None:
    with _servers(home, restart=True) as stack:
        where = stack.endpoints
        _one(where.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        for name in SERVERS:
            before = stack.supervisor.pids()[name]
            os.kill(before, signal.SIGKILL)
            _until(lambda: stack.supervisor.pids().get(name, before) != before)  # noqa: B023
            _until(lambda: stack.supervisor.state(name) == "ready")  # noqa: B023
        assert _one(where.database_url, "SELECT answer FROM kept") == 42
        with redis.Redis.from_url(where.redis_url) as client:
            assert client.ping()


def test_a_stale_pid_file_that_names_a_live_process_is_no_hindrance(home: Path) -> None:
    with _servers(home):
        pass
    pid_file = home / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{home / 'postgres'}\n1\n5432\n\n127.0.0.1\n 1 1\nready   \n")
    with _servers(home) as stack:
        assert _one(stack.endpoints.database_url, "SELECT 1") == 1


def test_an_initdb_cut_short_is_done_again(home: Path) -> None:
    (home / "postgres.new").mkdir(parents=True)
    (home / "postgres.new" / "PG_VERSION").write_text("18")
    with _servers(home) as stack:
        assert _one(stack.endpoints.database_url, "SELECT 1") == 1


def test_two_homes_do_not_meet(home: Path) -> None:
    other_home = home.with_name("other")
    with _servers(home) as one, _servers(other_home) as other:
        with redis.Redis.from_url(one.endpoints.redis_url) as client:
            client.lpush("jobs:queue", "an id")
        _one(one.endpoints.database_url, "CREATE TABLE mine ()")
        with redis.Redis.from_url(other.endpoints.redis_url) as client:
            assert client.llen("jobs:queue") == 0
        assert _one(other.endpoints.database_url, "SELECT to_regclass('mine')") is None


def test_a_second_start_of_a_home_is_refused(home: Path) -> None:
    with _servers(home) as stack:
        with pytest.raises(HomeBusyError, match=f"process {os.getpid()}"):
            _servers(home).start()
        assert _one(stack.endpoints.database_url, "SELECT 1") == 1
        assert running_endpoints(Settings.read(home=home)) == stack.endpoints


def test_a_port_in_use_is_named(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"^Port {port} of 127\.0\.0\.1 is in use"):
            _servers(home, port=port).start()


# --- everything ------------------------------------------------------------------------------------------


def test_all_services_start_answer_and_stop(home: Path, toys: dict[str, Any]) -> None:
    lines: list[str] = []
    with Stack(Settings.read(home=home, workers=1), embedded=EmbeddedServers(), echo=lines.append, **toys) as stack:
        names = {"postgres", "redis", "gemini", "fork-server", "code-server", "webserver", "daemon", "worker"}
        assert set(stack.supervisor.pids()) == names
        assert {line.split(":")[0] for line in lines} == names
        stack.check()
        code_server = psutil.Process(stack.supervisor.pids()["code-server"])
        assert [c for c in code_server.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN] == []
        assert stack.endpoints.code_server_socket.parent.stat().st_mode & 0o777 == 0o700
        code_server.kill()
        assert stack.wait(HANG)
        with pytest.raises(ServiceError, match=r"^code-server ended by SIGKILL"):
            stack.check()
    assert _processes_of(home) == []


def test_what_is_given_is_used_and_only_our_schema_is_made_there(home: Path, toys: dict[str, Any]) -> None:
    with _servers(home) as outside, socket.create_server(("127.0.0.1", 0)) as gemini:
        _one(outside.endpoints.database_url, "CREATE DATABASE theirs")
        theirs = outside.endpoints.database_url.removesuffix("/quel") + "/theirs"
        _one(theirs, WEB_APP_SQL)
        before = _one(theirs, _PUBLIC)
        settings = Settings.read(
            home=home.with_name("given"),
            workers=1,
            database_url=theirs,
            redis_url=outside.endpoints.redis_url,
            gemini_base_url=f"http://127.0.0.1:{gemini.getsockname()[1]}",
            gemini_api_key="k3y",
        )
        with Stack(settings, embedded=EmbeddedServers(), **toys) as stack:
            assert set(stack.supervisor.pids()) == {"fork-server", "code-server", "webserver", "daemon", "worker"}
            environment = psutil.Process(stack.supervisor.pids()["worker"]).environ()
            assert environment["DATABASE_URL"] == theirs
            assert environment["GEMINI_API_KEY"] == "k3y"
            assert "k3y" not in (settings.home / "endpoints.json").read_text()
            schemas = _one(
                theirs,
                "SELECT array_agg(DISTINCT table_schema::text) FROM information_schema.tables"
                " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')",
            )
            assert schemas == ["public", "quel_dagster"]
            assert _one(theirs, _PUBLIC) == before
            assert _one(theirs, "SELECT count(*) FROM quel_dagster.runs") == 0


def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = Settings.read(home=home, database_url=f"postgresql://u:s3cret@127.0.0.1:{port}/d", gemini_api_key="k3y")
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: ") as caught:
        Stack(settings, embedded=EmbeddedServers()).start()
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_definitions_that_do_not_load_fail_the_start_with_the_reason(home: Path, toys: dict[str, Any]) -> None:
    lines: list[str] = []
    toys["definitions"] = "no_such_module"
    with pytest.raises(ServiceError, match=r"^code-server ended"):
        Stack(
            Settings.read(home=home),
            embedded=EmbeddedServers(),
            echo=lines.append,
            only=("postgres", "code-server"),
            **toys,
        ).start()
    assert any("no_such_module" in line for line in lines), lines


# --- quel up -----------------------------------------------------------------------------------------------


class _Up:
    """A `quel up` in a process of its own, with toys in it."""

    def __init__(self, home: Path, toys: dict[str, Any]) -> None:
        program = (
            "import sys\n"
            "from quel_dagster.sandbox.embedded import EmbeddedServers\n"
            "from quel_dagster.services.foreground import run_up\n"
            "from quel_dagster.settings import Settings\n"
            "say = lambda line: print(line, flush=True)\n"
            "toys = {'definitions': 'toy_definitions'}\n"
            "sys.exit(run_up(Settings.read(), embedded=EmbeddedServers(), port=0, echo=say, **toys))\n"
        )
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **toys["environment"], "QUEL_HOME": str(home), "QUEL_WORKERS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line
        raise AssertionError(f"ended with {self.process.wait()} before saying {text!r}")

    def rest(self) -> str:
        return self.process.communicate(timeout=HANG)[0]


@pytest.fixture
def up(home: Path, toys: dict[str, Any]) -> Iterator[_Up]:
    running = _Up(home, toys)
    yield running
    running.process.kill()
    running.process.communicate()
    _until(lambda: not _processes_of(home))


def test_up_runs_until_it_is_stopped(up: _Up, toys: dict[str, Any]) -> None:
    url = re.search(r"Dagster at (http://\S+)", up.read_until("Everything is ready"))
    assert url is not None
    with pytest.raises(HomeBusyError, match=f"process {up.process.pid}"):
        Stack(Settings.read(home=up.home), embedded=EmbeddedServers(), **toys).start()
    where = running_endpoints(Settings.read(home=up.home))
    assert where.webserver_url == url[1]
    # one that hangs, and one that has died, are no hindrance
    webserver = "quel_dagster.cli.webserver"
    os.kill(next(p.pid for p in _processes_of(up.home) if webserver in " ".join(p.cmdline())), signal.SIGSTOP)
    os.kill(next(p.pid for p in _processes_of(up.home) if "valkey-server" in p.name()), signal.SIGKILL)
    up.process.send_signal(signal.SIGTERM)
    up.read_until("Stopping")
    said = up.rest()
    assert up.process.returncode == 0, said
    assert "webserver: did not stop in time; killed" in said
    assert _processes_of(up.home) == []


def test_up_starts_in_a_shell_that_has_the_variables_of_the_one_before_and_after_one_that_was_killed(
    up: _Up, toys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`eval "$(quel env)"`, Ctrl-C, `quel up`: the URLs are those of servers that are to be started."""
    up.read_until("Everything is ready")
    variables = running_endpoints(Settings.read(home=up.home)).environment()
    up.process.send_signal(signal.SIGINT)
    said = up.rest()
    assert up.process.returncode == 0, said
    with monkeypatch.context() as shell:
        for name, value in variables.items():
            shell.setenv(name, value)
        again = _Up(up.home, toys)
    try:
        assert again.read_until("redis: ready")
        assert again.read_until("Everything is ready")
    finally:
        again.process.kill()
        again.rest()
    _until(lambda: not _processes_of(up.home))
    with _servers(up.home) as stack:
        assert _one(stack.endpoints.database_url, "SELECT 1") == 1


def test_up_can_be_stopped_while_it_starts(up: _Up) -> None:
    up.read_until("redis: ready")
    up.process.send_signal(signal.SIGINT)
    said = up.rest()
    assert up.process.returncode == 0, said
    assert "Traceback" not in said
    assert _processes_of(up.home) == []
