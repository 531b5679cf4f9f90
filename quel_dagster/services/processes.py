"""The processes of Dagster and the worker as services: command lines, start order, probes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quel_dagster.services.dagster_home import LOCATION, workspace_path
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.private_sockets import private_socket
from quel_dagster.services.probes import accepts, daemons_are_healthy, location_is_loaded
from quel_dagster.services.supervisor import Service

DEFINITIONS = "quel_dagster.definitions"
FORK_SERVER = "fork-server"
#: what the services load apart from the definitions; not their main modules, which run as `__main__`
SHARED_MODULES = (
    "dagster._api.snapshot_sensor",
    "dagster._cli",
    "dagster._cli.api",
    "dagster._daemon.cli",
    "dagster._daemon.controller",
    "dagster._grpc.client",
    "dagster._grpc.server",
    "dagster_webserver.cli",
    "quel_dagster.cli.doctor.command",
    "quel_dagster.console.page.routes",
    "quel_dagster.platform.webserver",
    "quel_dagster.platform.worker_process",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)


@dataclass(frozen=True)
class DagsterProcesses:
    """Creates the services of fork server, code server, webserver, daemon and worker.

    Args:
        where: the endpoints of the stack.
        environment: of every process.
        address: where the web UI listens.
        definitions: module of the code server and the worker.
        worker_grace: seconds that runs in flight get when the worker stops.
    """

    where: Endpoints
    environment: Mapping[str, str]
    address: str
    definitions: str
    worker_grace: float

    @property
    def _fork_server_socket(self) -> Path:
        return private_socket(self.where.home, "fork-server.sock")

    def services(self) -> list[Service]:
        # elsewhere, a fork that is not followed by an exec can break the system's libraries
        fork_server = [self._fork_server()] if sys.platform == "linux" else []
        return [*fork_server, self._code_server(), self._webserver(), self._daemon(), self._worker()]

    def _python(self, name: str, *arguments: str, **more: Any) -> Service:
        return Service(name=name, command=[sys.executable, "-m", *arguments], environment=self.environment, **more)

    def _forked(self, name: str, *arguments: str, needs: tuple[str, ...], **more: Any) -> Service:
        return self._python(name, *arguments, needs=(FORK_SERVER, *needs), fork_server=self._fork_server_socket, **more)

    def _fork_server(self) -> Service:
        path = self._fork_server_socket
        return self._python(
            FORK_SERVER,
            *("quel_dagster.services.fork_server", str(path), self.definitions, *SHARED_MODULES),
            ready=lambda _log: accepts(path),  # it listens once the modules are loaded
            where=str(path),
        )

    def _code_server(self) -> Service:
        path = self.where.code_server_socket
        return self._forked(
            "code-server",
            *("dagster", "api", "grpc", "-m", self.definitions, "--location-name", LOCATION),
            *("--socket", str(path)),
            ready=lambda _log: accepts(path),  # it listens once the definitions are loaded
            where=str(path),
            needs=("postgres",),  # it opens Dagster's storage before it loads them
        )

    def _webserver(self) -> Service:
        url = self.where.webserver_url
        return self._forked(
            "webserver",
            *("quel_dagster.cli.webserver", "--host", self.address, "--port", str(self.where.webserver_port)),
            *("--workspace", str(workspace_path(self.where))),
            *(("--path-prefix", self.where.path_prefix) if self.where.path_prefix else ()),
            ready=lambda _log: location_is_loaded(url),
            where=url,
            needs=("postgres", "redis", "code-server"),
        )

    def _daemon(self) -> Service:
        return self._forked(
            "daemon",
            *("quel_dagster.platform.daemon", "run", "--workspace", str(workspace_path(self.where))),
            ready=daemons_are_healthy(self.where.webserver_url),
            needs=("postgres", "redis", "code-server"),
        )

    def _worker(self) -> Service:
        return self._forked(
            "worker",
            *("quel_dagster.platform.worker", "--definitions", self.definitions),
            ready=lambda log: re.search(r"runs each: ready\.", log.text()) is not None,
            where=f"{self.where.workers} runs at a time",
            needs=("postgres", "redis", "gemini"),
            grace=self.worker_grace,
        )
