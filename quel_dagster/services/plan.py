"""Decide which systems of a stack are external, which are embedded, and where each one is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quel_dagster.adapters.database.url import in_own_schema, with_psycopg2
from quel_dagster.errors import ServiceError, SettingsError
from quel_dagster.services.endpoints import Endpoints, last_endpoints
from quel_dagster.services.parts import embedded_parts
from quel_dagster.services.ports import LOOPBACK, Reservation
from quel_dagster.services.private_sockets import private_socket
from quel_dagster.services.supervisor import Service
from quel_dagster.settings import Settings


@dataclass(frozen=True)
class DatabaseUrls:
    """The two databases of an embedded PostgreSQL."""

    web_app: str
    dagster: str


class Embedded(Protocol):
    """Servers for systems without a URL. Provided by the sandbox; production has none."""

    def database_urls(self, home: Path, port: int) -> DatabaseUrls: ...

    def redis_url(self, home: Path, port: int) -> str: ...

    def gemini_url(self, port: int) -> str: ...

    @property
    def gemini_key(self) -> str: ...

    def services(self, where: Endpoints, environment: Mapping[str, str]) -> list[Service]:
        """Return the services of every server that has a port in `where`."""
        ...


def plan(settings: Settings, *, home: Path, port: int, embedded: Embedded | None, undo: ExitStack) -> Endpoints:
    """Return where every system of the stack on `home` will be.

    Args:
        port: of the web UI; 0 takes a free one.
        undo: holds the ports until the stack ends.

    Raises:
        SettingsError: a system is neither given nor embedded.
        ServiceError: `port` is in use.
    """
    if embedded is None:
        _refuse_missing_parts(settings)
    last = last_endpoints(home)

    def free_port(name: str) -> int:
        """Return a free port: that of the last start if possible, so that URLs in open shells stay valid."""
        preferred: int | None = getattr(last, f"{name}_port", None)
        return undo.enter_context(Reservation(preferred)).port

    postgres_port = redis_port = gemini_port = None
    database_urls = _given_databases(settings)
    if database_urls is None:
        assert embedded is not None  # noqa: S101 - refused above
        postgres_port = free_port("postgres")
        database_urls = embedded.database_urls(home, postgres_port)
        if settings.dagster_database_url is not None:
            database_urls = DatabaseUrls(database_urls.web_app, settings.dagster_database_url.get_secret_value())
    redis_url = settings.redis()
    if redis_url is None:
        assert embedded is not None  # noqa: S101 - refused above
        redis_port = free_port("redis")
        redis_url = embedded.redis_url(home, redis_port)
    gemini_url = settings.gemini_base_url
    gemini_key = None
    if embedded is not None and "gemini" in embedded_parts(settings):
        gemini_port = free_port("gemini")
        gemini_url, gemini_key = embedded.gemini_url(gemini_port), embedded.gemini_key
    return Endpoints(
        home=home,
        dagster_home=home / "dagster",
        database_url=database_urls.web_app,
        dagster_postgres_url=with_psycopg2(database_urls.dagster),
        redis_url=redis_url,
        storage_url=storage_url(settings, home),
        gemini_base_url=gemini_url,
        gemini_api_key=gemini_key,
        webserver_port=free_port("webserver") if port == 0 else _given_port(port, undo),
        code_server_socket=private_socket(home, "code-server.sock"),
        postgres_port=postgres_port,
        redis_port=redis_port,
        gemini_port=gemini_port,
        workers=settings.runs_here,
        supervisor_pid=os.getpid(),
    )


def storage_url(settings: Settings, home: Path) -> str:
    """Return the object store: the given one, Supabase's if its variables are set, else a folder of the home."""
    if settings.storage_url is not None:
        return settings.storage_url.get_secret_value()
    return "supabase:" if settings.supabase_url else (home / "objects").as_uri()


def _refuse_missing_parts(settings: Settings) -> None:
    given = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis(),
        "STORAGE_URL": settings.storage_url or settings.supabase_url,
        "GEMINI_API_KEY": settings.gemini_api_key or settings.use_vertex_ai,
    }
    if missing := [name for name, value in given.items() if not value]:
        raise SettingsError(
            f"{', '.join(missing)}: not set. A worker shares these with the rest of the installation: "
            "set them to the same values as there."
        )


def _given_databases(settings: Settings) -> DatabaseUrls | None:
    if settings.database_url is None:
        return None
    web_app = settings.database_url.get_secret_value()
    if settings.dagster_database_url is not None:
        return DatabaseUrls(web_app, settings.dagster_database_url.get_secret_value())
    return DatabaseUrls(web_app, in_own_schema(with_psycopg2(web_app)))


def _given_port(port: int, undo: ExitStack) -> int:
    try:
        return undo.enter_context(Reservation(port, any_other=False)).port
    except OSError:
        raise ServiceError(
            f"Port {port} of {LOOPBACK} is in use; choose another with --port, or 0 for a free one."
        ) from None
