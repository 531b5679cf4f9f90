"""The servers that `quel up` starts itself: PostgreSQL, Redis and the stand-in for Gemini.

Each is used only for a part without a configured URL.
"""

from __future__ import annotations

import json
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from quel_dagster.redaction import learn
from quel_dagster.sandbox.postgres_server import DAGSTER_DATABASE, postgres_service, postgres_url
from quel_dagster.sandbox.redis_server import redis_service, redis_url
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.home import write_private
from quel_dagster.services.plan import DatabaseUrls
from quel_dagster.services.ports import LOOPBACK
from quel_dagster.services.supervisor import Service

#: the stand-in takes any key; this one is recognizable in a log
STAND_IN_KEY = "key-of-the-stand-in"


class EmbeddedServers:
    """Builds the URLs and the services of the embedded servers of a home."""

    def database_urls(self, home: Path, port: int) -> DatabaseUrls:
        password = passwords(home)["postgres"]
        return DatabaseUrls(
            web_app=postgres_url(port, password), dagster=postgres_url(port, password, DAGSTER_DATABASE)
        )

    def redis_url(self, home: Path, port: int) -> str:
        return redis_url(port, passwords(home)["redis"])

    def gemini_url(self, port: int) -> str:
        return f"http://{LOOPBACK}:{port}"

    @property
    def gemini_key(self) -> str:
        return STAND_IN_KEY

    def services(self, where: Endpoints, environment: Mapping[str, str]) -> list[Service]:
        """Return the services of every embedded server that has a port in `where`."""
        made = []
        if where.postgres_port is not None:
            made.append(
                postgres_service(where.home, port=where.postgres_port, password=passwords(where.home)["postgres"])
            )
        if where.redis_port is not None:
            made.append(redis_service(where.home, port=where.redis_port, password=passwords(where.home)["redis"]))
        if where.gemini_port is not None:
            made.append(_gemini_service(self.gemini_url(where.gemini_port), where.gemini_port, environment))
        return made


def passwords(home: Path) -> dict[str, str]:
    """Return the generated passwords of a home, `postgres` and `redis`; created on first use, mode 0600."""
    path = home / "credentials.json"
    try:
        found = dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        found = {name: secrets.token_urlsafe(24) for name in ("postgres", "redis")}
        write_private(path, json.dumps(found))
    learn(*found.values())
    return found


def _gemini_service(url: str, port: int, environment: Mapping[str, str]) -> Service:
    return Service(
        name="gemini",
        command=[
            *(sys.executable, "-m", "quel_dagster.sandbox.gemini_server"),
            *("--host", LOOPBACK, "--port", str(port)),
        ],
        environment=environment,
        ready=lambda _log: _answers(f"{url}/healthz"),
        where=f"{url}  (the stand-in; set GEMINI_API_KEY for Google's)",
    )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):  # noqa: S310 - http on loopback
            return True
    except (urllib.error.URLError, OSError):
        return False
