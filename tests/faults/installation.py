"""A whole installation; tests can break each of its connections and processes.

    PostgreSQL, Redis        a stack of their own, started again when they end
    code server, webserver, daemon
                             a second stack, likewise; they reach PostgreSQL and Redis through proxies
    worker hosts             processes of the test, so that one can end and another stay; through their own proxies
    Gemini, object store     in this process, behind a proxy for the workers

The product runs unchanged: nothing in it knows that it is being tested.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import redis
from dagster import DagsterInstance

from quel_dagster.platform.workers import WorkerBoard
from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.services.endpoints import Endpoints, settings_environment
from quel_dagster.services.stack import Stack
from quel_dagster.settings import Settings
from tests.faults.proxy import TcpProxy
from tests.faults.storage_server import StorageServer, running_storage
from tests.integration.storage.supabase_server import SERVICE_KEY

PRICE = 20
GEMINI_KEY = "gemini-key-canary-77af"
#: every secret setting that is not an embedded server's own password, and its canary
SECRETS = {
    "GEMINI_API_KEY": GEMINI_KEY,
    "SUPABASE_SERVICE_KEY": SERVICE_KEY,
    "AWS_ACCESS_KEY_ID": "aws-id-canary-1b90",
    "AWS_SECRET_ACCESS_KEY": "aws/secret+canary-8e22",
    "AWS_SESSION_TOKEN": "aws-session-canary-64fd",
    "REDIS_PASSWORD": "redis-canary p@ss/93a1",
    "QUEL_ALERT_WEBHOOK_URL": "/services/webhook-canary-2f7c",
}
ROOT = Path(__file__).parents[2]
BACKING = ("postgres", "redis")
PLATFORM = ("fork-server", "code-server", "webserver", "daemon")


@dataclass(frozen=True)
class Proxies:
    """One in front of every outside part, for the workers; and three for the platform."""

    #: the web app's tables and ours, as workers reach them
    database: TcpProxy
    #: Dagster's storage, as workers reach it
    dagster: TcpProxy
    redis: TcpProxy
    storage: TcpProxy
    gemini: TcpProxy
    platform_database: TcpProxy
    platform_dagster: TcpProxy
    platform_redis: TcpProxy

    def all(self) -> Mapping[str, TcpProxy]:
        return dict(vars(self))


def has_ended(process: psutil.Process) -> bool:
    """Return whether the process is gone, or waits to be reaped."""
    try:
        return process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return True


class WorkerHost:
    """A worker, parent and processes, as on a separate machine."""

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        log: Path,
        *,
        children: int,
        runs_per_process: int = 1,
        command: Sequence[str] = (),
    ) -> None:
        """`command` starts the worker in another way than as the product does."""
        self.name = name
        self.runs_per_process = runs_per_process
        self._command = command
        self.children = children
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._from = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        command = [sys.executable, "-m", "quel_dagster.platform.worker", "--import-first", "tests.faults.worker_app"]
        command += ["--processes", str(self.children), "--runs-per-process", str(self.runs_per_process)]
        self._from = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command or command,
                env={**os.environ, **self._environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(rb"runs each: ready\.", self.log_bytes()):
            if not self.alive:
                raise RuntimeError(f"Worker {self.name} ended; see {self._log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"Worker {self.name} was not ready after {seconds:g} s; see {self._log}")
            time.sleep(0.05)

    def log_bytes(self) -> bytes:
        """Return the log of the current process."""
        with self._log.open("rb") as log:
            log.seek(self._from)
            return log.read()

    def children_alive(self) -> list[psutil.Process]:
        """Return the worker processes below the parent, without those that have ended and are not yet reaped."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children(recursive=True) if self.alive else []
            return [child for child in children if not has_ended(child)]
        return []

    def kill(self) -> None:
        """The machine is gone: SIGKILL for all at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def freeze(self) -> None:
        """The machine stands still."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM to the parent, as a deploy sends it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def wait_gone(self, seconds: float) -> None:
        assert self._process is not None
        self._process.wait(seconds)


class Hosts(Enum):
    """The worker hosts of a healed installation."""

    #: host `a` alone
    FIRST = auto()
    #: those of the test, or host `a` if none is left
    ANY = auto()
    #: none: the test starts its own
    NONE = auto()


@dataclass
class Installation:
    """Made by `installation()`."""

    home: Path
    backing: Stack
    platform: Stack
    proxies: Proxies
    gemini: GeminiStandIn
    storage: StorageServer
    settings: Settings
    instance: DagsterInstance
    hosts: dict[str, WorkerHost] = field(default_factory=dict)

    @property
    def endpoints(self) -> Endpoints:
        return self.platform.endpoints

    @property
    def database_url(self) -> str:
        """Past every proxy."""
        return self.backing.endpoints.database_url

    @property
    def redis_url(self) -> str:
        """Past every proxy."""
        return self.backing.endpoints.redis_url

    @cached_property
    def workers(self) -> WorkerBoard:
        """The records of the worker processes, past every proxy."""
        return WorkerBoard(self.redis_url)

    def living_workers(self) -> dict[str, psutil.Process]:
        """Record name → worker process of a host, without the processes that a record outlives."""
        children = {child.pid: child for host in self.hosts.values() for child in host.children_alive()}
        pids = self.workers.read().pids
        return {name: children[pid] for name, pid in pids.items() if pid in children}

    # --- breaking and mending ------------------------------------------------------------------------

    def heal(self, *, hosts: Hosts = Hosts.FIRST) -> None:
        """Undo every fault: proxies open, servers obedient, all processes there.

        Args:
            hosts: which worker hosts are there; each start costs seconds.
        """
        for proxy in self.proxies.all().values():
            proxy.heal()
        self.storage.heal()
        self.gemini.state.reset()
        for host in self.hosts.values():
            if host.alive:
                host.thaw()
        self.wait_services()
        first = self.hosts["a"]
        if hosts is Hosts.ANY and any(host.alive for host in self.hosts.values()):
            return
        for name in [name for name in self.hosts if name != "a"]:
            self.remove_host(name)
        if hosts is Hosts.NONE:
            first.kill()
            return
        if not first.alive:
            first.start()
        first.wait_ready()

    def wait_services(self, *names: str, seconds: float = 240.0) -> None:
        """Wait until these services are ready, by default all."""
        deadline = time.monotonic() + seconds
        for name in names or (*BACKING, *PLATFORM):
            stack = self.stack_of(name)
            while stack.supervisor.state(name) != "ready":
                stack.check()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} is not back after {seconds:g} s")
                time.sleep(0.05)

    def stack_of(self, service: str) -> Stack:
        """Return the stack that runs this service."""
        return self.backing if service in BACKING else self.platform

    def kill_service(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal PostgreSQL, Redis or a service of the platform, and wait until it has ended.

        Its supervisor starts it again.
        """
        supervisor = self.stack_of(name).supervisor
        self.wait_services(name)
        process = psutil.Process(supervisor.pids()[name])
        process.send_signal(number)
        # until the supervisor sees it, too, or has already started another one
        while not has_ended(process) or (
            supervisor.state(name) == "ready" and supervisor.pids().get(name) in {None, process.pid}
        ):
            time.sleep(0.01)

    def empty_redis(self) -> None:
        """Redis forgets everything, its append-only file too, and restarts."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()
        self.kill_service("redis")

    def add_host(
        self,
        name: str,
        *,
        children: int = 1,
        runs_per_process: int = 1,
        start: bool = True,
        wait: bool = True,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
        log: Path | None = None,
    ) -> WorkerHost:
        """Return another worker host, with its own environment, command and log if they are given."""
        host = self.hosts[name] = WorkerHost(
            name,
            {**self._worker_environment(), **(environment or {})},
            log or self.home / f"worker-{name}.log",
            children=children,
            runs_per_process=runs_per_process,
            command=command,
        )
        if start:
            host.start()
        if start and wait:
            host.wait_ready()
        return host

    def remove_host(self, name: str) -> None:
        host = self.hosts.pop(name)
        if host.alive:
            host.thaw()
        host.kill()

    def stall_event_loop(self, process: psutil.Process, seconds: float) -> None:
        """Make the loop that draws pictures in this process busy for so long."""
        self._stall_file.write_text(str(seconds))
        process.send_signal(signal.SIGRTMIN)

    def logs(self) -> Iterator[tuple[str, str]]:
        """Every log file with its text."""
        for path in sorted(path for path in self.home.rglob("*.log*") if path.is_file()):
            yield str(path.relative_to(self.home)), path.read_text(errors="replace")

    @property
    def _stall_file(self) -> Path:
        return self.home / "stall"

    def _worker_environment(self) -> dict[str, str]:
        through = self.proxies
        values = {**settings_environment(self.settings), **self.endpoints.environment()}
        values |= {
            "DATABASE_URL": _through(values["DATABASE_URL"], through.database),
            "DAGSTER_POSTGRES_URL": _through(values["DAGSTER_POSTGRES_URL"], through.dagster),
            "REDIS_URL": _through(values["REDIS_URL"], through.redis),
            "PYTHONUNBUFFERED": "1",
            "FAULTS_STALL_FILE": str(self._stall_file),
        }
        return values


def _through(url: str, proxy: TcpProxy) -> str:
    """The URL with the proxy's port."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login}{at}{proxy.address}:{proxy.port}").geturl()


@contextmanager
def installation(
    home: Path,
    *,
    children: int = 2,
    runs_per_process: int = 1,
    slots: int | None = 4,
    address: str = "127.0.0.1",
    echo: Any = lambda _line: None,
    **settings: Any,
) -> Iterator[Installation]:
    """Everything running, with one worker host `a`.

    Args:
        children: worker processes of host `a`; 0: without that host.
        runs_per_process: runs at a time in each of them.
        slots: runs at a time, over all hosts; None: as many as the hosts take.
        address: of this machine, where worker hosts reach everything.
        settings: more settings, by their field names.
    """
    with ExitStack() as exits:
        bare = Settings.read(_env_file=None).embedded(home / "backing")  # another one may have set its variables
        backing = exits.enter_context(
            Stack(
                bare,
                embedded=EmbeddedServers(),
                only=BACKING,
                restart=True,
                echo=lambda line: echo(f"backing: {line}"),
            )
        )
        urls = backing.endpoints
        assert urls.postgres_port is not None and urls.redis_port is not None
        gemini = exits.enter_context(GeminiStandIn(api_key=GEMINI_KEY, canned=True))
        storage = exits.enter_context(running_storage(home / "objects"))
        ports = {
            "database": urls.postgres_port,
            "dagster": urls.postgres_port,
            "redis": urls.redis_port,
            "storage": storage.port,
            "gemini": urlsplit(gemini.url).port or 0,
            "platform_database": urls.postgres_port,
            "platform_dagster": urls.postgres_port,
            "platform_redis": urls.redis_port,
        }
        proxies = Proxies(**{name: exits.enter_context(TcpProxy(port, address)) for name, port in ports.items()})
        store_url = f"http://{address}:{proxies.storage.port}"
        given: dict[str, Any] = {
            "database_url": _through(urls.database_url, proxies.platform_database),
            "dagster_database_url": _through(urls.dagster_postgres_url, proxies.platform_dagster),
            "redis_url": _through(urls.redis_url, proxies.platform_redis),
            "storage_url": "supabase:",
            "supabase_url": store_url,
            "supabase_service_key": SERVICE_KEY,
            "storage_base_url": f"{store_url}/storage/v1/object/public/attachments/",
            "gemini_base_url": f"http://{address}:{proxies.gemini.port}",
            "gemini_api_key": GEMINI_KEY,
            "aws_access_key_id": SECRETS["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": SECRETS["AWS_SECRET_ACCESS_KEY"],
            "aws_session_token": SECRETS["AWS_SESSION_TOKEN"],
            "redis_password": SECRETS["REDIS_PASSWORD"],
            # no server listens there
            "alert_webhook_url": f"http://127.0.0.1:1{SECRETS['QUEL_ALERT_WEBHOOK_URL']}",
            "gemini_timeout_seconds": 8.0,
            "gemini_attempts": 3,
            "gemini_backoff_seconds": 0.1,
            "gemini_outage_hours": 0.02,
            "image_per_price": PRICE,
            "home": home / "platform",
            "max_runs": slots,
            **settings,
        }
        full = Settings.read(**given, _env_file=None)
        platform = exits.enter_context(
            Stack(full, only=PLATFORM, restart=True, echo=lambda line: echo(f"platform: {line}"))
        )
        instance = exits.enter_context(_open_instance(platform.endpoints, urls))
        made = Installation(home, backing, platform, proxies, gemini, storage, full, instance)
        exits.callback(lambda: [made.remove_host(name) for name in list(made.hosts)])
        if children:
            made.add_host("a", children=children, runs_per_process=runs_per_process)
        yield made


@contextmanager
def _open_instance(platform: Endpoints, backing: Endpoints) -> Iterator[DagsterInstance]:
    """Dagster's instance in this process, past every proxy."""
    environment = {
        **platform.environment(),
        "DAGSTER_POSTGRES_URL": backing.dagster_postgres_url,
        "DATABASE_URL": backing.database_url,
        "REDIS_URL": backing.redis_url,
    }
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with DagsterInstance.from_config(str(platform.dagster_home)) as instance:
            instance.get_runs(limit=1)
            yield instance
    finally:
        os.environ.clear()
        os.environ.update(before)
