"""Check whether a process of Dagster is ready."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from quel_dagster.errors import ServiceError
from quel_dagster.services.supervisor import LogTail

LOCATIONS = (
    "{workspaceOrError {... on Workspace {locationEntries {name loadStatus locationOrLoadError"
    " {__typename ... on PythonError {message}}}}}}"
)
_HEARTBEATS = "{instance {daemonHealth {allDaemonStatuses {daemonType required healthy lastHeartbeatTime}}}}"


def accepts(path: Path) -> bool:
    """Return whether a server listens on this Unix socket."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.settimeout(1)
        client.connect(str(path))
        return True
    return False


def location_is_loaded(webserver_url: str) -> bool:
    """Return whether the webserver has loaded the definitions.

    Raises:
        ServiceError: they do not load.
    """
    data = _graphql(webserver_url, LOCATIONS)
    if data is None:
        return False
    entries = data["workspaceOrError"].get("locationEntries", [])
    for entry in entries:
        problem = (entry["locationOrLoadError"] or {}).get("message")
        if problem:
            raise ServiceError(f"webserver: the code location does not load: {problem}")
    return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)


def daemons_are_healthy(webserver_url: str) -> Callable[[LogTail], bool]:
    """Return a probe that is true once every required daemon has sent a heartbeat since this process began."""
    begun: dict[LogTail, float] = {}

    def ready(log: LogTail) -> bool:
        # a heartbeat of the previous process does not count
        since = begun.setdefault(log, time.time())
        data = _graphql(webserver_url, _HEARTBEATS)
        statuses = data["instance"]["daemonHealth"]["allDaemonStatuses"] if data else []
        required = [status for status in statuses if status["required"]]
        return bool(required) and all((s["lastHeartbeatTime"] or 0) >= since for s in required)

    return ready


def _graphql(webserver_url: str, query: str) -> dict[str, Any] | None:
    """Return the data of a query; None while the webserver does not answer."""
    request = urllib.request.Request(f"{webserver_url}/graphql", data=json.dumps({"query": query}).encode())  # noqa: S310 - http on loopback
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            data: dict[str, Any] | None = json.loads(answer.read()).get("data")
            return data
    except (urllib.error.URLError, OSError):
        return None
