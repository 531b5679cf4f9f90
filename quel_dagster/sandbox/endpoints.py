"""Where everything of a home is: the URLs, paths and ports of its running services, as one value.

A running `quel up` writes it to `QUEL_HOME/endpoints.json` (mode 0600, for it holds passwords); `quel env`
reads it. Whether that file is still true is told by the lock of the home, which the kernel drops with its holder.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from quel_dagster.errors import HomeBusyError, NotRunningError, SettingsError
from quel_dagster.sandbox.embedded import write_private
from quel_dagster.settings import Settings

#: schema for Dagster's storage and our own tables, in a database that is not ours
OWN_SCHEMA = "quel_dagster"


class Endpoints(BaseModel):
    """Every URL, path and port in use of one home."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    home: Path
    dagster_home: Path
    database_url: str
    #: Dagster's storage, always with the driver named: `postgresql+psycopg2://…`
    dagster_postgres_url: str
    redis_url: str
    #: Redis as Celery reads it
    celery_broker_url: str
    storage_url: str
    #: None: Google's own endpoint
    gemini_base_url: str | None
    #: only the stand-in's, which is no secret
    gemini_api_key: str | None
    webserver_port: int
    code_server_port: int
    #: ports of the embedded parts, kept from one start to the next where they are still free
    postgres_port: int | None = None
    redis_port: int | None = None
    gemini_port: int | None = None
    #: runs at a time
    workers: int
    supervisor_pid: int

    @property
    def webserver_url(self) -> str:
        return f"http://127.0.0.1:{self.webserver_port}"

    def run_url(self, run_id: str) -> str:
        """The page of a run."""
        return f"{self.webserver_url}/runs/{run_id}"

    def environment(self) -> dict[str, str]:
        """The environment variables with which any program reaches these services."""
        values = {
            "QUEL_HOME": str(self.home),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "STORAGE_URL": self.storage_url,
            "GEMINI_BASE_URL": self.gemini_base_url,
            "GEMINI_API_KEY": self.gemini_api_key,
            "DAGSTER_HOME": str(self.dagster_home),
            "DAGSTER_POSTGRES_URL": self.dagster_postgres_url,
            "CELERY_BROKER_URL": self.celery_broker_url,
            "CELERY_RESULT_BACKEND": self.celery_broker_url,
            "QUEL_WORKERS": str(self.workers),
            "QUEL_WEBSERVER_URL": self.webserver_url,
            "QUEL_CODE_SERVER_PORT": str(self.code_server_port),
        }
        return {name: value for name, value in values.items() if value is not None}

    def shell_exports(self) -> str:
        """`export NAME='value'` lines for `eval "$(quel env)"`."""
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in self.environment().items())


def home_of(settings: Settings) -> Path:
    """The installation's folder, absolute, so that a change of directory changes nothing."""
    return settings.home.expanduser().absolute()


def endpoints_path(home: Path) -> Path:
    return home / "endpoints.json"


def write_endpoints(endpoints: Endpoints) -> None:
    """Write `endpoints.json` of the home."""
    write_private(endpoints_path(endpoints.home), endpoints.model_dump_json(indent=2) + "\n")


def last_endpoints(home: Path) -> Endpoints | None:
    """What the last start wrote, whether or not it still runs; None when there is nothing usable."""
    try:
        return Endpoints.model_validate_json(endpoints_path(home).read_text())
    except (FileNotFoundError, ValidationError):
        return None


def running_endpoints(settings: Settings) -> Endpoints:
    """The endpoints of the `quel up` that runs on this home now.

    Raises:
        NotRunningError: none does, or it is not ready yet; a file left by one that is gone is not believed.
    """
    home = home_of(settings)
    if not is_locked(home):
        raise NotRunningError(f"No `quel up` is running on {home}; start one, or set QUEL_HOME.")
    endpoints = last_endpoints(home)
    if endpoints is None or endpoints.supervisor_pid != _holder(home):
        raise NotRunningError(f"The `quel up` on {home} is not ready yet; try again in a few seconds.")
    return endpoints


# --- the lock of a home ------------------------------------------------------------------------------


def _lock_path(home: Path) -> Path:
    return home / "up.lock"


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the home: one supervisor at a time.

    Raises:
        HomeBusyError: another process holds it.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(_lock_path(home), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for pause in (0.05, 0.1, 0.2, None):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if pause is None:
                    raise HomeBusyError(
                        f"Another `quel up` (process {_holder(home)}) is running on {home}; "
                        "stop it, or give this one a QUEL_HOME of its own."
                    ) from None
                time.sleep(pause)  # a `quel env` may be looking at this very moment
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(home: Path) -> bool:
    """Whether a supervisor holds the home now."""
    try:
        descriptor = os.open(_lock_path(home), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(home: Path) -> int | None:
    with suppress(FileNotFoundError, ValueError):
        return int(_lock_path(home).read_text())
    return None


# --- URLs ------------------------------------------------------------------------------------------------


def with_psycopg2(url: str) -> str:
    """A PostgreSQL URL with psycopg2 named as its driver, the one dagster-postgres is made for.

    Raises:
        SettingsError: it is not a PostgreSQL URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in {"postgresql", "postgres"}:
        raise SettingsError("DATABASE_URL and DAGSTER_DATABASE_URL must begin with postgresql://")
    return f"postgresql+psycopg2://{rest}"


def in_own_schema(url: str) -> str:
    """A PostgreSQL URL whose connections see the schema `quel_dagster` and no other.

    Raises:
        SettingsError: the URL has connection options of its own.
    """
    if "options=" in url:
        raise SettingsError(
            "DATABASE_URL holds options=…, so the schema of Dagster's storage cannot be added; "
            "set DAGSTER_DATABASE_URL as well."
        )
    return f"{url}{'&' if '?' in url else '?'}options=-csearch_path={OWN_SCHEMA}"


def settings_environment(settings: Settings) -> Mapping[str, str]:
    """The settings as environment variables, so that child processes have exactly those of the supervisor."""
    values: dict[str, str] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value is None or field.alias is None:
            continue
        revealed = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        values[field.alias] = str(revealed).lower() if isinstance(revealed, bool) else str(revealed)
    return values
