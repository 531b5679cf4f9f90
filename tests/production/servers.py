"""Servers of the production shape: databases with roles of little power, PgBouncer, Redis with TLS.

PostgreSQL is the embedded one, used as a server from outside. PgBouncer and a newer Redis come from the system's
packages: what needs them is skipped where they are not installed.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psycopg
import trustme

from quel_dagster.adapters.database.web_app_tables import WEB_APP_SQL
from tests.missing_parts import skip_or_fail

HANG_SECONDS = 60.0
PASSWORD = "canary-password-of-the-role"
#: its statements prepare the servers of these tests
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@dataclass(frozen=True)
class SharedDatabase:
    """A database of the web app, and a role in it that owns nothing but schema quel_dagster."""

    owner_url: str
    role: str
    name: str

    @property
    def url(self) -> str:
        """As the role."""
        parts = urlsplit(self.owner_url)
        return f"postgresql://{self.role}:{PASSWORD}@{parts.hostname}:{parts.port}/{self.name}"

    def prepare(self, words: str) -> None:
        """Run the statements of docs/operations.md that begin with these words, as the owner."""
        self.execute(*documented_statements(words, role=self.role, database=self.name))

    def execute(self, *statements: str) -> None:
        """Run statements as the owner."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def value(self, statement: str, *values: object) -> Any:
        """Return the one value of a statement, as the owner."""
        with psycopg.connect(self.owner_url) as connection:
            row = connection.execute(statement.encode(), values).fetchone()
        assert row is not None
        return row[0]

    def connections(self) -> int:
        """How many the role has now."""
        return int(self.value("select count(*) from pg_stat_activity where usename = %s", self.role))

    def tables(self, schema: str) -> set[str]:
        with psycopg.connect(self.owner_url) as connection:
            rows = connection.execute("select tablename from pg_tables where schemaname = %s", (schema,)).fetchall()
        return {name for (name,) in rows}


@contextmanager
def shared_database(server_url: str, name: str, *, with_schema: bool = True) -> Iterator[SharedDatabase]:
    """Create a database with the web app's tables, and the role; drop both afterwards.

    Args:
        server_url: of a superuser of the server.
        with_schema: make schema quel_dagster for the role, which may create no schema itself.
    """
    base = server_url.rsplit("/", 1)[0]
    role = f"{name}_role"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"create database {name}".encode())
        for statement in documented_statements("create role", role=role, database=name):
            server.execute(statement.encode())
        # as in PostgreSQL 15 and newer, and on Supabase: an ordinary role creates nothing in a database
        server.execute(f"revoke create, temporary on database {name} from public".encode())
    made = SharedDatabase(f"{base}/{name}", role, name)
    try:
        made.execute(WEB_APP_SQL)
        made.prepare("grant")
        if with_schema:
            made.prepare("create schema")
        yield made
    finally:
        with psycopg.connect(server_url, autocommit=True) as server:
            server.execute(f"drop database {name} with (force)".encode())
            server.execute(f"drop role {role}".encode())


@contextmanager
def pgbouncer(
    database: SharedDatabase, *, mode: str, drops_options: bool, pool_size: int = 60, wait_seconds: int = 120
) -> Iterator[str]:
    """The URL of the database through PgBouncer, as the role.

    Args:
        mode: `session` or `transaction`.
        drops_options: ignore the startup parameter `options`, instead of refusing it as PgBouncer does by default.
        pool_size: connections to the server.
        wait_seconds: how long a client waits for one of them.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        _not_installed("PgBouncer", "pgbouncer")
    parts = urlsplit(database.url)
    port = free_port()
    user = "nobody" if os.geteuid() == 0 else None  # PgBouncer does not run as root
    with tempfile.TemporaryDirectory(prefix="quel-pgbouncer-") as folder:
        users = Path(folder) / "users.txt"
        users.write_text(f'"{database.role}" "{PASSWORD}"\n')
        ignored = "extra_float_digits, options" if drops_options else "extra_float_digits"
        config = Path(folder) / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n{database.name} = host={parts.hostname} port={parts.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = plain\n"
            f"auth_file = {users}\npool_mode = {mode}\nignore_startup_parameters = {ignored}\n"
            f"default_pool_size = {pool_size}\nmax_client_conn = 500\nquery_wait_timeout = {wait_seconds}\n"
        )
        if user is not None:
            owner = pwd.getpwnam(user)
            for path in (Path(folder), users, config):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([program, str(config)], user=user, stdout=log, stderr=subprocess.STDOUT, cwd="/")
        try:
            wait_for_port(port, process)
            yield f"postgresql://{database.role}:{PASSWORD}@127.0.0.1:{port}/{database.name}"
        finally:
            process.terminate()
            process.wait()


def documented_statements(words: str, *, role: str, database: str) -> list[str]:
    """Return the statements in the blocks of docs/operations.md that begin with these words, with these names."""
    found = re.findall(rf"^    ({re.escape(words)}\b[^;]*);", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{OPERATIONS} shows no statement that begins with {words!r}"
    names = {"quel_worker": role, " database app ": f" database {database} ", "…": PASSWORD}
    for shown, name in names.items():
        found = [statement.replace(shown, name) for statement in found]
    return found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("the server did not listen in time")


@contextmanager
def system_redis(folder: Path, *options: str, tls: trustme.LeafCert | None = None) -> Iterator[int]:
    """The port of the system's Redis (7 or newer); with `tls` it speaks nothing else."""
    program = shutil.which("redis-server")
    if program is None:
        _not_installed("redis-server", "redis-server")
    port = free_port()
    words = [program, "--port", "0" if tls else str(port), "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    if tls is not None:
        _write_certificate(folder, tls)
        words += ["--tls-port", str(port), "--tls-cert-file", str(folder / "cert.pem")]
        words += ["--tls-key-file", str(folder / "key.pem"), "--tls-auth-clients", "no"]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([*words, *options], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def system_postgres(certificate: trustme.LeafCert, *, plain: bool = False, max_connections: int = 100) -> Iterator[int]:
    """The port of the system's PostgreSQL: user and password `quel`, database `postgres`; TLS alone unless `plain`."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs or not (programs[-1] / "postgres").exists():
        _not_installed("PostgreSQL", "postgresql")
    port = free_port()
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="quel-postgres-") as name:
        folder = Path(name)
        _write_certificate(folder, certificate)
        (folder / "password").write_text("quel")
        if user is not None:
            owner = pwd.getpwnam(user)
            for path in (folder, *folder.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        (folder / "key.pem").chmod(0o600)
        data = folder / "data"
        login = ("-U", "quel", "--pwfile", str(folder / "password"), "--auth=scram-sha-256")
        subprocess.run(
            [str(programs[-1] / "initdb"), "-D", str(data), *login],
            user=user,
            check=True,
            capture_output=True,
            cwd="/",
        )
        with (data / "pg_hba.conf").open("w") as rules:
            rules.write(f"{'host' if plain else 'hostssl'} all all 127.0.0.1/32 scram-sha-256\n")
        options = ["unix_socket_directories=", "listen_addresses=127.0.0.1", "ssl=on"]
        options += [f"max_connections={max_connections}"]
        options += [f"ssl_cert_file={folder / 'cert.pem'}", f"ssl_key_file={folder / 'key.pem'}"]
        process = subprocess.Popen(
            [str(programs[-1] / "postgres"), "-D", str(data), "-p", str(port), *(f"-c{option}" for option in options)],
            user=user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        try:
            wait_for_port(port, process)
            asked = [str(programs[-1] / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-t", "5", "-q"]
            while subprocess.run(asked, check=False).returncode != 0:
                assert process.poll() is None, "PostgreSQL ended while it started"
                time.sleep(0.05)
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def _write_certificate(folder: Path, certificate: trustme.LeafCert) -> None:
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(folder / "key.pem")


def _not_installed(what: str, package: str) -> NoReturn:
    skip_or_fail(f"{what} is not installed: apt-get install {package}")
