"""The URLs, paths and ports of a home's running services, as one value.

A running `quel up` writes it to `QUEL_HOME/endpoints.json` (mode 0600, because it holds passwords); `quel env`
reads it. The lock of the home tells whether that file is current.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from quel_dagster.errors import NotRunningError
from quel_dagster.services.home import holder, home_of, is_locked, write_private
from quel_dagster.settings import Settings


class Endpoints(BaseModel):
    """Every URL, path and port in use by one home."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    home: Path
    dagster_home: Path
    database_url: str
    #: Dagster's storage, always with the driver named: `postgresql+psycopg2://…`
    dagster_postgres_url: str
    redis_url: str
    storage_url: str
    #: None: Google's own endpoint
    gemini_base_url: str | None
    #: only the stand-in's key, which is not secret
    gemini_api_key: str | None
    webserver_port: int
    #: path prefix of the web UI, such as `/quel-ui`, for a proxy; empty: the root
    path_prefix: str = ""
    code_server_socket: Path
    #: ports of the embedded servers, reused at the next start if they are still free
    postgres_port: int | None = None
    redis_port: int | None = None
    gemini_port: int | None = None
    #: maximum of concurrent runs
    workers: int
    supervisor_pid: int

    @property
    def webserver_url(self) -> str:
        return f"http://127.0.0.1:{self.webserver_port}{self.path_prefix}"

    def run_url(self, run_id: str) -> str:
        """Return the URL of a run's page."""
        return f"{self.webserver_url}/runs/{run_id}"

    def environment(self) -> dict[str, str]:
        """Return the environment variables that connect any program to these services."""
        values = {
            "QUEL_HOME": str(self.home),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "STORAGE_URL": self.storage_url,
            "GEMINI_BASE_URL": self.gemini_base_url,
            "GEMINI_API_KEY": self.gemini_api_key,
            "DAGSTER_HOME": str(self.dagster_home),
            "DAGSTER_POSTGRES_URL": self.dagster_postgres_url,
            "QUEL_WEBSERVER_URL": self.webserver_url,
        }
        return {name: value for name, value in values.items() if value is not None}


def endpoints_path(home: Path) -> Path:
    return home / "endpoints.json"


def write_endpoints(endpoints: Endpoints) -> None:
    """Write `endpoints.json` of the home."""
    write_private(endpoints_path(endpoints.home), endpoints.model_dump_json(indent=2) + "\n")


def last_endpoints(home: Path) -> Endpoints | None:
    """Return what the last start wrote, whether or not it still runs; None when there is nothing usable."""
    try:
        return Endpoints.model_validate_json(endpoints_path(home).read_text())
    except (FileNotFoundError, ValidationError):
        return None


def without_own_parts(settings: Settings) -> Settings:
    """Return the settings without the URLs of this home's own embedded servers.

    A shell that ran `eval "$(quel env)"` has them set. They do not come from outside: the next `quel up` starts these
    servers.
    """
    last = last_endpoints(home_of(settings))
    if last is None:
        return settings
    changes: dict[str, None] = {}
    if last.postgres_port is not None and _is(settings.database_url, last.database_url):
        changes["database_url"] = None
    if last.redis_port is not None and _is(settings.redis_url, last.redis_url):
        changes["redis_url"] = None
    if last.gemini_port is not None and settings.gemini_base_url == last.gemini_base_url:
        changes["gemini_base_url"] = None
        if _is(settings.gemini_api_key, last.gemini_api_key):
            changes["gemini_api_key"] = None
    if settings.webserver_url == last.webserver_url:
        changes["webserver_url"] = None
    return settings.model_copy(update=changes)


def _is(given: SecretStr | None, value: str | None) -> bool:
    return given is not None and given.get_secret_value() == value


def running_endpoints(settings: Settings) -> Endpoints:
    """Return the endpoints of the `quel up` that runs on this home now.

    Raises:
        NotRunningError: none runs, or it is not ready yet. A file left by an ended one is ignored.
    """
    home = home_of(settings)
    if not is_locked(home):
        raise NotRunningError(f"No `quel up` is running on {home}; start one, or set QUEL_HOME.")
    endpoints = last_endpoints(home)
    if endpoints is None or endpoints.supervisor_pid != holder(home):
        raise NotRunningError(f"The `quel up` on {home} is not ready yet; try again in a few seconds.")
    return endpoints


def connecting_environment(settings: Settings) -> Mapping[str, str]:
    """Return the variables that connect a program to this installation: to its servers elsewhere also while it is down.

    Raises:
        NotRunningError: no `quel up` runs, and PostgreSQL or Redis is its own.
    """
    try:
        return running_endpoints(settings).environment()
    except NotRunningError:
        outside = without_own_parts(settings)
        if outside.database_url is None or outside.redis() is None:
            raise
        return {"DATABASE_URL": outside.required_database_url(), "REDIS_URL": outside.required_redis_url()}


def shell_exports(values: Mapping[str, str]) -> str:
    """Return `export NAME='value'` lines for `eval "$(quel env)"`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def settings_environment(settings: Settings) -> Mapping[str, str]:
    """Return the settings as environment variables, so that child processes have exactly those of the supervisor."""
    values: dict[str, str] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value is None or field.alias is None:
            continue
        revealed = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        values[field.alias] = str(revealed).lower() if isinstance(revealed, bool) else str(revealed)
    return values
