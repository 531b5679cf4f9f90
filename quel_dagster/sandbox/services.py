"""The services of an installation, started and stopped as one: behind `quel up`, `quel demo`, tests, benchmarks.

What is given from outside (`DATABASE_URL`, `REDIS_URL`, `GEMINI_BASE_URL`, …) is used and not started.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psycopg

from quel_dagster.adapters.queue import celery_url
from quel_dagster.errors import QuelError, ServiceError, SettingsError
from quel_dagster.sandbox import embedded
from quel_dagster.sandbox.endpoints import (
    OWN_SCHEMA,
    Endpoints,
    home_of,
    in_own_schema,
    last_endpoints,
    locked,
    settings_environment,
    with_psycopg2,
    write_endpoints,
)
from quel_dagster.sandbox.supervisor import Echo, LogTail, Service, Supervisor, end_leftovers
from quel_dagster.settings import Settings

DEFINITIONS = "quel_dagster.definitions"
CELERY_APP = "quel_dagster.pipeline.celery_app"
DEFAULT_PORT = 3000
#: everything but the workers: one machine has these, any number has workers
PLATFORM = ("postgres", "redis", "gemini", "code-server", "webserver", "daemon")
#: also in workspace.yaml: sensors and queued runs are known by the name of their code location
LOCATION = "quel"
#: the stand-in takes any key; this one says in a log what it is
STAND_IN_KEY = "key-of-the-stand-in"
_LOOPBACK = "127.0.0.1"


class Stack:
    """The running services of one home.

    >>> with Stack(Settings.read(home=tmp, workers=1), port=0) as stack:
    ...     stack.endpoints.database_url

    Args:
        settings: which parts are given from outside; passed on to every service.
        port: of the web UI; 0 takes a free one.
        address: where the web UI listens. It has no login: another one than loopback's needs a proxy that has.
        echo: called with one line per event, from several threads.
        restart: start a service again when it ends by itself; else `check` raises and `wait` returns.
        only: names of the services to run (`postgres`, `redis`, `gemini`, `code-server`, `webserver`,
            `daemon`, `worker`); all by default. Needs among those left out are taken as met.
        definitions, celery_app: modules of the code server and the worker.
        environment: more environment variables for every service.
        worker_grace: seconds that runs in flight get when the stack stops.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        port: int = 0,
        address: str = _LOOPBACK,
        echo: Echo = lambda _line: None,
        restart: bool = False,
        only: Collection[str] | None = None,
        definitions: str = DEFINITIONS,
        celery_app: str = CELERY_APP,
        environment: dict[str, str] | None = None,
        worker_grace: float = 20.0,
    ) -> None:
        self._settings = settings
        self._port = port
        self._address = address
        self._echo = echo
        self._restart = restart
        self._only = only
        self._definitions = definitions
        self._celery_app = celery_app
        self._more_environment = environment or {}
        self._worker_grace = worker_grace
        self._home = home_of(settings)
        self._exit = ExitStack()
        self._endpoints: Endpoints | None = None
        self._supervisor: Supervisor | None = None

    @property
    def endpoints(self) -> Endpoints:
        """Where everything is; from `start` on."""
        if self._endpoints is None:
            raise ServiceError("This stack has not been started.")
        return self._endpoints

    @property
    def supervisor(self) -> Supervisor:
        """The watcher of the processes; from `start` on."""
        if self._supervisor is None:
            raise ServiceError("This stack has not been started.")
        return self._supervisor

    def start(self) -> Self:
        """Start every service and return once all are ready.

        Raises:
            HomeBusyError: another supervisor holds the home.
            ServiceError: a service did not start; nothing is left running.
            SettingsError: a setting given from outside cannot be used.
        """
        with ExitStack() as undo:
            undo.enter_context(locked(self._home))
            for name in end_leftovers(self._home):
                self._echo(f"ended {name}, left running by an earlier start")
            self._endpoints = self._plan(undo)
            self._prepare_home()
            self._supervisor = Supervisor(
                self._services(),
                home=self._home,
                logs=self._home / "logs",
                echo=self._echo,
                restart=self._restart,
            )
            self._supervisor.start()
            undo.callback(self._supervisor.stop)
            write_endpoints(self._endpoints)
            self._exit = undo.pop_all()
        return self

    def stop(self) -> None:
        """Stop every service, the worker first; returns when no process is left."""
        self._exit.close()

    def hurry(self) -> None:
        """Make a `stop` (or a failing `start`) kill what has not ended yet."""
        if self._supervisor is not None:
            self._supervisor.hurry()

    def check(self) -> None:
        """Raise ServiceError when a service has ended for good."""
        self.supervisor.check()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a service has ended for good; False when `timeout` seconds passed without."""
        return self.supervisor.wait(timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- where things will be ------------------------------------------------------------------------

    def _plan(self, undo: ExitStack) -> Endpoints:
        settings, home = self._settings, self._home
        last = last_endpoints(home)
        passwords = embedded.passwords(home)

        def free_port(name: str) -> int:
            """A free port: that of the last start if it still is, so that URLs in open shells stay true."""
            preferred: int | None = getattr(last, f"{name}_port", None)
            return undo.enter_context(_Reservation(preferred)).port

        postgres_port = redis_port = gemini_port = None
        if settings.database_url is None:
            postgres_port = free_port("postgres")
            database_url = embedded.postgres_url(postgres_port, passwords["postgres"])
        else:
            database_url = settings.database_url.get_secret_value()
        if settings.dagster_database_url is not None:
            dagster_url = with_psycopg2(settings.dagster_database_url.get_secret_value())
        elif postgres_port is not None:
            dagster_url = with_psycopg2(
                embedded.postgres_url(postgres_port, passwords["postgres"], embedded.DAGSTER_DATABASE)
            )
        else:
            dagster_url = in_own_schema(with_psycopg2(database_url))
        redis_url = settings.redis()
        if redis_url is None:
            redis_port = free_port("redis")
            redis_url = embedded.redis_url(redis_port, passwords["redis"])
        gemini_url = settings.gemini_base_url
        if gemini_url is None:
            gemini_port = free_port("gemini")
            gemini_url = f"http://{_LOOPBACK}:{gemini_port}"
        return Endpoints(
            home=home,
            dagster_home=home / "dagster",
            database_url=database_url,
            dagster_postgres_url=dagster_url,
            redis_url=redis_url,
            celery_broker_url=celery_url(redis_url),
            storage_url=_storage_url(settings, home),
            gemini_base_url=gemini_url,
            gemini_api_key=STAND_IN_KEY if gemini_port is not None else None,
            webserver_port=free_port("webserver") if self._port == 0 else self._given_port(undo),
            code_server_port=free_port("code_server"),
            postgres_port=postgres_port,
            redis_port=redis_port,
            gemini_port=gemini_port,
            workers=settings.workers,
            supervisor_pid=os.getpid(),
        )

    def _given_port(self, undo: ExitStack) -> int:
        try:
            return undo.enter_context(_Reservation(self._port, any_other=False)).port
        except OSError:
            raise ServiceError(
                f"Port {self._port} of {_LOOPBACK} is in use; choose another with --port, or 0 for a free one."
            ) from None

    def _prepare_home(self) -> None:
        where = self.endpoints
        for folder in (self._home / "objects", self._home / "logs", where.dagster_home):
            folder.mkdir(mode=0o700, exist_ok=True)
        config = resources.files("quel_dagster.pipeline").joinpath("dagster.yaml").read_text()
        (where.dagster_home / "dagster.yaml").write_text(
            "# Written anew at every start, from quel_dagster/pipeline/dagster.yaml: change it there.\n" + config
        )
        workspace = {
            "load_from": [
                {"grpc_server": {"host": _LOOPBACK, "port": where.code_server_port, "location_name": LOCATION}}
            ]
        }
        self._workspace.write_text(json.dumps(workspace))  # JSON is YAML
        if self._settings.database_url is not None and self._settings.dagster_database_url is None:
            _make_own_schema(where.database_url)

    @property
    def _workspace(self) -> Path:
        return self.endpoints.dagster_home / "workspace.yaml"

    # --- what runs ---------------------------------------------------------------------------------------

    def _services(self) -> list[Service]:
        where = self.endpoints
        passwords = embedded.passwords(self._home)
        services = []
        if where.postgres_port is not None:
            services.append(
                embedded.postgres_service(self._home, port=where.postgres_port, password=passwords["postgres"])
            )
        if where.redis_port is not None:
            services.append(embedded.redis_service(self._home, port=where.redis_port, password=passwords["redis"]))
        if where.gemini_port is not None:
            services.append(self._gemini(where.gemini_port))
        services += [self._code_server(), self._webserver(), self._daemon(), self._worker()]
        wanted = [service for service in services if self._only is None or service.name in self._only]
        names = {service.name for service in wanted}
        return [_with_needs(service, names) for service in wanted]

    def _python(self, name: str, *arguments: str, **more: Any) -> Service:
        environment = {
            **settings_environment(self._settings),
            **self.endpoints.environment(),
            **({"QUEL_WEBSERVER_URL": self._settings.webserver_url} if self._settings.webserver_url else {}),
            "PYTHONUNBUFFERED": "1",
            **self._more_environment,
        }
        return Service(name=name, command=[sys.executable, "-m", *arguments], environment=environment, **more)

    def _gemini(self, port: int) -> Service:
        url = f"http://{_LOOPBACK}:{port}"
        return self._python(
            "gemini",
            *("quel_dagster.sandbox.gemini_server", "--host", _LOOPBACK, "--port", str(port)),
            ready=lambda _log: _get(f"{url}/healthz") is not None,
            where=f"{url}  (the stand-in; set GEMINI_BASE_URL for another)",
        )

    def _code_server(self) -> Service:
        port = self.endpoints.code_server_port
        return self._python(
            "code-server",
            *("dagster", "api", "grpc", "-m", self._definitions, "--location-name", LOCATION),
            *("--host", _LOOPBACK, "--port", str(port)),
            ready=lambda _log: _accepts(port),  # it listens once the definitions are loaded
            where=f"{_LOOPBACK}:{port}",
            needs=("postgres",),  # it opens Dagster's storage before it loads them
        )

    def _webserver(self) -> Service:
        where = self.endpoints
        return self._python(
            "webserver",
            *("quel_dagster.pipeline.webserver", "--host", self._address, "--port", str(where.webserver_port)),
            *("--workspace", str(self._workspace)),
            ready=lambda _log: self._location_is_loaded(),
            where=where.webserver_url,
            needs=("postgres", "redis", "code-server"),
        )

    def _daemon(self) -> Service:
        return self._python(
            "daemon",
            *("quel_dagster.pipeline.daemon", "run", "--workspace", str(self._workspace)),
            ready=self._daemons_are_healthy(),
            needs=("postgres", "redis", "code-server"),
        )

    def _worker(self) -> Service:
        workers = self._settings.workers
        return self._python(
            "worker",
            *("celery", "-A", self._celery_app, "worker", "--loglevel", "info", "--pool", "prefork"),
            *("--concurrency", str(workers), "--hostname", f"quel-{os.getpid()}@%h"),
            ready=lambda log: re.search(r"@\S+ ready\.", log.text()) is not None,
            where=f"{workers} at a time",
            needs=("postgres", "redis", "gemini"),
            grace=self._worker_grace,
        )

    # --- probes ------------------------------------------------------------------------------------------

    def _graphql(self, query: str) -> dict[str, Any] | None:
        answer = _get(f"{self.endpoints.webserver_url}/graphql", {"query": query})
        return None if answer is None else json.loads(answer).get("data")

    def _location_is_loaded(self) -> bool:
        data = self._graphql(
            "{workspaceOrError {... on Workspace {locationEntries {loadStatus locationOrLoadError"
            " {__typename ... on PythonError {message}}}}}}"
        )
        if data is None:
            return False
        entries = data["workspaceOrError"].get("locationEntries", [])
        for entry in entries:
            problem = (entry["locationOrLoadError"] or {}).get("message")
            if problem:
                raise ServiceError(f"webserver: the code location does not load: {problem}")
        return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)

    def _daemons_are_healthy(self) -> Callable[[LogTail], bool]:
        query = "{instance {daemonHealth {allDaemonStatuses {daemonType required healthy lastHeartbeatTime}}}}"
        begun: dict[LogTail, float] = {}

        def ready(log: LogTail) -> bool:
            # a heartbeat of the process before is no sign of life of this one
            since = begun.setdefault(log, time.time())
            data = self._graphql(query)
            statuses = data["instance"]["daemonHealth"]["allDaemonStatuses"] if data else []
            required = [status for status in statuses if status["required"]]
            return bool(required) and all((s["lastHeartbeatTime"] or 0) >= since for s in required)

        return ready


def run_up(
    settings: Settings,
    *,
    port: int = DEFAULT_PORT,
    address: str = _LOOPBACK,
    workers: bool = True,
    echo: Echo = print,
) -> int:
    """Run the services in the foreground until SIGINT or SIGTERM; behind `quel up`.

    A service that ends by itself is started again. A second signal stops without waiting.

    Args:
        workers: False leaves them to other machines.

    Returns:
        0 after a signal, 1 when something could not be started (`echo` got the line that says why).
    """
    only = None if workers else PLATFORM
    stack = Stack(settings, port=port, address=address, echo=echo, restart=True, only=only)
    return _run(stack, settings, lambda: f"Everything is ready: {stack.endpoints.webserver_url}", echo)


def run_worker(settings: Settings, *, echo: Echo = print) -> int:
    """Run a worker alone in the foreground, for a `quel up` on another machine; behind `quel worker`.

    Returns:
        As `run_up`.

    Raises:
        SettingsError: a part is not given that would be this machine's own.
    """
    given = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis(),
        "STORAGE_URL": settings.storage_url or settings.supabase_url,
        "GEMINI_BASE_URL": settings.gemini_base_url,
    }
    if missing := [name for name, value in given.items() if not value]:
        raise SettingsError(
            f"{', '.join(missing)}: not set. A worker shares these with the rest of the installation: "
            "set them as they are there."
        )
    stack = Stack(settings, echo=echo, restart=True, only=("worker",))
    return _run(stack, settings, lambda: f"Taking runs, {settings.workers} at a time", echo)


def _run(stack: Stack, settings: Settings, ready: Callable[[], str], echo: Echo) -> int:
    with _Signals(stack.hurry, echo) as signals:
        try:
            with stack:
                echo(f"{ready()}  (Ctrl-C stops it)")
                signals.wait(stack)
                echo("Stopping; runs in flight are given a moment (Ctrl-C again: at once)")
        except _Interrupted:
            return 0
        except QuelError as error:
            echo(str(error))
            return 1
    echo(f"Stopped; the data stay in {home_of(settings)}")
    return 0


class _Interrupted(Exception):  # noqa: N818 - not an error
    """A signal came while the services were starting."""


class _Signals:
    """SIGINT and SIGTERM as requests: the first to stop, a second to hurry."""

    def __init__(self, hurry: Callable[[], None], echo: Echo) -> None:
        self._hurry = hurry
        self._echo = echo
        self._asked = 0
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked > 1:
            self._hurry()
        elif not self._waiting:
            raise _Interrupted

    def wait(self, stack: Stack) -> None:
        """Return when a signal has come; raise when a service has ended for good."""
        self._waiting = True
        while not self._asked:
            if stack.wait(0.2):
                stack.check()


class _Reservation:
    """A free port of 127.0.0.1, held as long as this is: bound without listening.

    A server that sets SO_REUSEADDR, as all of ours do, can listen on it meanwhile, while nobody else is
    handed the number, also in the moments when that server is being started again.
    """

    def __init__(self, preferred: int | None, *, any_other: bool = True) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((_LOOPBACK, preferred or 0))
        except OSError:
            if not any_other:
                self._socket.close()
                raise
            self._socket.bind((_LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _storage_url(settings: Settings, home: Path) -> str:
    if settings.storage_url is not None:
        return settings.storage_url.get_secret_value()
    return "supabase:" if settings.supabase_url else (home / "objects").as_uri()


def _with_needs(service: Service, names: set[str]) -> Service:
    return replace(service, needs=tuple(name for name in service.needs if name in names))


def _get(url: str, json_body: object = None) -> bytes | None:
    """The body of a 200 answer; None when the server is not there yet."""
    request = urllib.request.Request(url)  # noqa: S310 - http on loopback
    if json_body is not None:
        request.data = json.dumps(json_body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body
    except (urllib.error.URLError, OSError):
        return None


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection((_LOOPBACK, port), timeout=1):
        return True
    return False


def _make_own_schema(database_url: str) -> None:
    """Create the schema of ours in a database that is not; nothing else is created there."""
    try:
        with psycopg.connect(database_url, connect_timeout=10, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA}".encode())
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(f"DATABASE_URL: schema {OWN_SCHEMA} cannot be made there: {reason}") from None
