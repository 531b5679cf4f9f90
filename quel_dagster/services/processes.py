"""The processes of Dagster and the worker as services: command lines, start order, probes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quel_dagster.services.dagster_home import LOCATION, workspace_path
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.probes import accepts, daemons_are_healthy, location_is_loaded
from quel_dagster.services.supervisor import Service

DEFINITIONS = "quel_dagster.definitions"


@dataclass(frozen=True)
class DagsterProcesses:
    """Creates the services of code server, webserver, daemon and worker.

    Args:
        where: the endpoints of the stack.
        environment: of every process.
        address: where the web UI listens.
        definitions: module of the code server and the worker.
        import_first: modules that the worker imports before it.
        worker_grace: seconds that runs in flight get when the worker stops.
    """

    where: Endpoints
    environment: Mapping[str, str]
    address: str
    definitions: str
    import_first: Sequence[str]
    worker_grace: float

    def services(self) -> list[Service]:
        return [self._code_server(), self._webserver(), self._daemon(), self._worker()]

    def _python(self, name: str, *arguments: str, **more: Any) -> Service:
        return Service(name=name, command=[sys.executable, "-m", *arguments], environment=self.environment, **more)

    def _code_server(self) -> Service:
        path = self.where.code_server_socket
        return self._python(
            "code-server",
            *("dagster", "api", "grpc", "-m", self.definitions, "--location-name", LOCATION),
            *("--socket", str(path)),
            ready=lambda _log: accepts(path),  # it listens once the definitions are loaded
            where=str(path),
            needs=("postgres",),  # it opens Dagster's storage before it loads them
        )

    def _webserver(self) -> Service:
        url = self.where.webserver_url
        return self._python(
            "webserver",
            *("quel_dagster.cli.webserver", "--host", self.address, "--port", str(self.where.webserver_port)),
            *("--workspace", str(workspace_path(self.where))),
            *(("--path-prefix", self.where.path_prefix) if self.where.path_prefix else ()),
            ready=lambda _log: location_is_loaded(url),
            where=url,
            needs=("postgres", "redis", "code-server"),
        )

    def _daemon(self) -> Service:
        return self._python(
            "daemon",
            *("quel_dagster.platform.daemon", "run", "--workspace", str(workspace_path(self.where))),
            ready=daemons_are_healthy(self.where.webserver_url),
            needs=("postgres", "redis", "code-server"),
        )

    def _worker(self) -> Service:
        return self._python(
            "worker",
            *("quel_dagster.platform.worker", "--definitions", self.definitions),
            *(word for module in self.import_first for word in ("--import-first", module)),
            ready=lambda log: re.search(r"runs each: ready\.", log.text()) is not None,
            where=f"{self.where.workers} runs at a time",
            needs=("postgres", "redis", "gemini"),
            grace=self.worker_grace,
        )
