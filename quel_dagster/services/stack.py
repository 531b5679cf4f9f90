"""The services of an installation, started and stopped together: behind `quel up`, `quel demo`, tests, benchmarks.

An external system (`DATABASE_URL`, `REDIS_URL`, `GEMINI_API_KEY`, …) is used and not started; for the others the
caller passes embedded servers.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from quel_dagster.adapters.database.platform_place import storage_identity
from quel_dagster.errors import ServiceError
from quel_dagster.services.dagster_home import write_dagster_home
from quel_dagster.services.endpoints import Endpoints, settings_environment, write_endpoints
from quel_dagster.services.home import home_of, locked
from quel_dagster.services.parts import require_gemini
from quel_dagster.services.plan import Embedded, plan
from quel_dagster.services.platform_holder import PlatformHolder, check_storage
from quel_dagster.services.ports import LOOPBACK
from quel_dagster.services.preparation import prepare_databases, wait_for_servers
from quel_dagster.services.processes import DEFINITIONS, FORK_SERVER, DagsterProcesses
from quel_dagster.services.supervisor import Echo, Service, Supervisor, end_leftovers
from quel_dagster.settings import Settings

#: all services except workers: these run on one machine, workers on any number
PLATFORM = ("postgres", "redis", "gemini", FORK_SERVER, "code-server", "webserver", "daemon")


class Stack:
    """The running services of one home.

    >>> with Stack(Settings.read(home=tmp, workers=1), embedded=EmbeddedServers()) as stack:
    ...     stack.endpoints.database_url

    Args:
        settings: which systems are external; passed on to every service.
        embedded: servers for the other systems; without it all must be external.
        port: of the web UI; 0 takes a free one.
        address: where the web UI listens. It has no login: other addresses than loopback need a proxy that has one.
        path_prefix: of the web UI, for a proxy that forwards a path.
        echo: called with one line per event, from several threads.
        restart: wait for given servers at the start, and restart a service that ends by itself; else a server that
            does not answer is refused, and `check` raises and `wait` returns.
        only: names of the services to run (`postgres`, `redis`, `gemini`, `fork-server`, `code-server`, `webserver`,
            `daemon`, `worker`); all by default. Dependencies that are left out count as ready.
        definitions: module of the code server and the worker.
        environment: more environment variables for every service.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        embedded: Embedded | None = None,
        port: int = 0,
        address: str = LOOPBACK,
        echo: Echo = lambda _line: None,
        restart: bool = False,
        only: Collection[str] | None = None,
        definitions: str = DEFINITIONS,
        environment: dict[str, str] | None = None,
        path_prefix: str = "",
    ) -> None:
        self._settings = settings
        self._embedded = embedded
        self._port = port
        self._address = address
        self._echo = echo
        self._restart = restart
        self._only = only
        self._definitions = definitions
        self._more_environment = environment or {}
        self._path_prefix = path_prefix
        self._home = home_of(settings)
        self._exit = ExitStack()
        self._endpoints: Endpoints | None = None
        self._supervisor: Supervisor | None = None

    @property
    def endpoints(self) -> Endpoints:
        """Where everything is; available after `start`."""
        if self._endpoints is None:
            raise ServiceError("This stack has not been started.")
        return self._endpoints

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor of the processes; available after `start`."""
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
        if self._embedded is not None and self._runs("worker"):
            require_gemini(self._settings)
        with ExitStack() as undo:
            undo.enter_context(locked(self._home))
            for name in end_leftovers(self._home):
                self._echo(f"ended {name}, left running by an earlier start")
            self._endpoints = self._plan(undo)
            if self._restart:
                wait_for_servers(self._endpoints, self._settings, self._echo)
            self._endpoints = prepare_databases(
                self._endpoints,
                self._settings,
                platform=self._runs("daemon"),
                workers=self._runs("worker"),
            )
            self._join(undo)
            write_dagster_home(self._endpoints)
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
        """Stop every service, the worker first; return when no process is left."""
        self._exit.close()

    def hurry(self) -> None:
        """Let a running `stop` (or a failing `start`) kill the remaining processes."""
        if self._supervisor is not None:
            self._supervisor.hurry()

    def check(self) -> None:
        """Raise ServiceError when a service has ended permanently."""
        self.supervisor.check()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a service has ended permanently; False when `timeout` seconds passed without."""
        return self.supervisor.wait(timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what runs ---------------------------------------------------------------------------------------

    def _plan(self, undo: ExitStack) -> Endpoints:
        planned = plan(self._settings, home=self._home, port=self._port, embedded=self._embedded, undo=undo)
        return planned.model_copy(update={"path_prefix": self._path_prefix})

    def _runs(self, name: str) -> bool:
        return self._only is None or name in self._only

    def _join(self, undo: ExitStack) -> None:
        """Take the platform lock, or check that this worker belongs to the platform.

        An embedded database belongs to this home, which is locked.
        """
        where = self.endpoints
        if self._settings.database_url is None:
            return
        if self._runs("daemon"):
            storage_id = storage_identity(where.dagster_postgres_url, create=True)
            holder = PlatformHolder(where.database_url, home=self._home, storage_id=str(storage_id), lost=self._fail)
            holder.take(self._echo)
            undo.callback(holder.leave)
        elif self._runs("worker"):
            check_storage(where.database_url, where.dagster_postgres_url)

    def _fail(self, error: Exception) -> None:
        if self._supervisor is not None:
            self._supervisor.report_failure(error)

    def _services(self) -> list[Service]:
        environment = self._environment()
        embedded = self._embedded.services(self.endpoints, environment) if self._embedded is not None else []
        processes = DagsterProcesses(
            where=self.endpoints,
            environment=environment,
            address=self._address,
            definitions=self._definitions,
            worker_grace=self._settings.worker_grace_seconds,
        )
        services = [*embedded, *processes.services()]
        wanted = [service for service in services if self._only is None or service.name in self._only]
        names = {service.name for service in wanted}
        return [_with_needs(service, names) for service in wanted]

    def _environment(self) -> dict[str, str]:
        settings = self._settings
        return {
            **settings_environment(settings),
            **self.endpoints.environment(),
            **({"QUEL_WEBSERVER_URL": settings.webserver_url} if settings.webserver_url else {}),
            "PYTHONUNBUFFERED": "1",
            "SPT_NOENV": "1",  # setproctitle, which Celery uses as well, leaves the environment's memory alone
            **self._more_environment,
        }


def _with_needs(service: Service, names: set[str]) -> Service:
    needs = tuple(name for name in service.needs if name in names)
    return replace(service, needs=needs, fork_server=service.fork_server if FORK_SERVER in names else None)
