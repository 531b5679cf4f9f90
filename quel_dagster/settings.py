"""Every environment variable that this project reads.

A process reads its settings once, and no setting changes while it runs (docs/operations.md):
- a command reads them with `Settings.read()` and passes them on;
- what Dagster or Celery loads (definitions, storage, launcher, daemon) takes `Settings.of_process()`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict

from quel_dagster.errors import SettingsError
from quel_dagster.outside_parts import OutsideParts
from quel_dagster.redaction import learn, learn_url

DEFAULT_HOME = Path(".quel")
#: seconds of QUEL_WORKER_GRACE_SECONDS for what no call is begun for: cutting short, handing over, closing
HAND_OVER_SECONDS = 8.0
#: of these only the password is secret; the rest helps a reader of the log
_URLS_WITH_A_PASSWORD = {"database_url", "dagster_database_url", "redis_url", "storage_url"}


_reading = threading.Lock()
_of_process: Settings | None = None


class Settings(OutsideParts):
    """The settings of one process. `quel up` and `quel demo` embed each part without a URL."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        # fields are also read by name from the environment; without a prefix `home` would read HOME
        env_prefix="QUEL_",
        hide_input_in_errors=True,  # a bad URL may hold a password
    )

    # --- Gemini --------------------------------------------------------------------------------------
    gemini_model: str = Field("gemini-nano-banana-2.1", alias="GEMINI_MODEL", min_length=1)
    gemini_model_fashion: str | None = Field(None, alias="GEMINI_MODEL_FASHION")
    gemini_model_beauty: str | None = Field(None, alias="GEMINI_MODEL_BEAUTY")
    gemini_model_eats: str | None = Field(None, alias="GEMINI_MODEL_EATS")
    gemini_model_cinema: str | None = Field(None, alias="GEMINI_MODEL_CINEMA")
    gemini_model_cartoon: str | None = Field(None, alias="GEMINI_MODEL_CARTOON")
    gemini_fallback_models: str = Field(
        "",
        alias="GEMINI_FALLBACK_MODELS",
        description="Asked in this order, comma-separated, where the first model is retired or stays overloaded.",
    )
    gemini_image_size: Literal["512", "1K", "2K", "4K"] = Field("1K", alias="GEMINI_IMAGE_SIZE")
    gemini_thinking: Literal["minimal", "medium", "high"] | None = Field(
        None, alias="GEMINI_THINKING", description="Default: the model's own."
    )
    gemini_timeout_seconds: float | None = Field(
        None,
        alias="GEMINI_TIMEOUT_SECONDS",
        gt=0,
        description="Hard deadline of one call; default: by picture size, 120 s for 1K.",
    )
    gemini_outage_hours: float = Field(
        6.0,
        alias="GEMINI_OUTAGE_HOURS",
        ge=0,
        description="Jobs wait so long for a Gemini that is overloaded or unreachable before they fail.",
    )
    gemini_attempts: int = Field(5, alias="GEMINI_ATTEMPTS", ge=1, le=20)
    gemini_backoff_seconds: float = Field(
        1.0, alias="GEMINI_BACKOFF_SECONDS", ge=0, description="First pause between attempts; doubles up to 60 s."
    )
    gemini_requests_per_minute: int | None = Field(
        None,
        alias="QUEL_GEMINI_REQUESTS_PER_MINUTE",
        ge=1,
        description="Calls that all workers together begin in any minute; default: no limit.",
    )
    gemini_max_in_flight: int | None = Field(
        None,
        alias="QUEL_GEMINI_MAX_IN_FLIGHT",
        ge=1,
        description="Calls that all workers together have under way; default: no limit.",
    )

    # --- the job -------------------------------------------------------------------------------------
    image_per_price: int = Field(20, alias="IMAGE_PER_PRICE", ge=0, description="Credits per picture.")
    max_concurrent_images: int = Field(
        2, alias="QUEL_MAX_CONCURRENT_IMAGES", ge=1, le=100, description="Gemini calls of one job at a time."
    )
    max_runs_per_member: int | None = Field(
        None,
        alias="QUEL_MAX_RUNS_PER_MEMBER",
        ge=1,
        description="Runs of one member at a time, so that others find a free worker; default: no limit.",
    )
    small_job_pictures: int = Field(
        4,
        alias="QUEL_SMALL_JOB_PICTURES",
        ge=0,
        description="Jobs of at most so many pictures start before larger ones; 0: in order alone.",
    )
    older_worker: bool = Field(
        False,
        alias="QUEL_OLDER_WORKER",
        description="The older worker reads jobs:queue too: ids of its own kinds (inpainting, multiview, landing) stay "
        "there for it. Default: they go to jobs:dead.",
    )
    max_images_per_job: int = Field(1_000, alias="QUEL_MAX_IMAGES_PER_JOB", ge=1)
    max_units_per_job: int = Field(200, alias="QUEL_MAX_UNITS_PER_JOB", ge=1)
    max_prompt_length: int = Field(20_000, alias="QUEL_MAX_PROMPT_LENGTH", ge=1, description="Characters.")
    max_references_per_unit: int = Field(50, alias="QUEL_MAX_REFERENCES_PER_UNIT", ge=1)
    max_reference_megabytes: int = Field(
        200,
        alias="QUEL_MAX_REFERENCE_MEGABYTES",
        ge=30,
        description="Reference pictures of one job that are kept in memory at the same time.",
    )

    outage_hours: float = Field(
        6.0,
        alias="QUEL_OUTAGE_HOURS",
        gt=0,
        description="How long a job at work waits for PostgreSQL or the object store before its run fails.",
    )

    # --- the installation ----------------------------------------------------------------------------
    home: Path = Field(DEFAULT_HOME, alias="QUEL_HOME", description="Data of the embedded parts, logs, Dagster home.")
    keep_runs_days: int | None = Field(
        None,
        alias="QUEL_KEEP_RUNS_DAYS",
        ge=1,
        description="Delete finished runs, their events and op outputs that are older; default: keep everything.",
    )
    warn_balance: int = Field(
        100, alias="QUEL_WARN_BALANCE", ge=0, description="Credits below which a payer's balance is a warning."
    )
    warn_queue_seconds: float = Field(
        300.0, alias="QUEL_WARN_QUEUE_SECONDS", gt=0, description="A job that waits longer than this is a warning."
    )
    alert_webhook_url: SecretStr | None = Field(
        None,
        alias="QUEL_ALERT_WEBHOOK_URL",
        description="Where failures are posted as JSON with a `text`; `log:` writes them to the log. Default: nowhere.",
    )
    webserver_url: str | None = Field(
        None,
        alias="QUEL_WEBSERVER_URL",
        description="Where people reach the web UI, for links to run pages; default: that of the running `quel up`.",
    )
    webserver_hosts: str = Field(
        "",
        alias="QUEL_WEBSERVER_HOSTS",
        description="More names, separated by commas, under which browsers reach the web UI; others are refused.",
    )
    user_header: str | None = Field(
        None,
        alias="QUEL_USER_HEADER",
        description="Header in which a proxy in front of the web UI names the user, such as X-Forwarded-User: the name "
        "in the action log. Default: the page asks for a name.",
    )
    web_api: bool = Field(
        False, alias="QUEL_WEB_API", description="Answer POST /enqueue and POST /api/jobs/{id}/cancel (the web app's)."
    )
    web_api_token: SecretStr | None = Field(None, alias="QUEL_WEB_API_TOKEN", description="What those calls carry.")
    web_api_origins: str = Field(
        "",
        alias="QUEL_WEB_API_ORIGINS",
        description="Origins of the pages that may call, separated by commas; * is all.",
    )
    worker_processes: int | None = Field(
        None, alias="QUEL_WORKER_PROCESSES", ge=1, le=256, description="Processes of a worker; default: one per core."
    )
    runs_per_process: int = Field(
        100, alias="QUEL_RUNS_PER_PROCESS", ge=1, le=1_000, description="Runs that one process executes at a time."
    )
    max_runs: int | None = Field(
        None,
        alias="QUEL_MAX_RUNS",
        ge=1,
        description="Runs at a time over all workers; default: as many as those that live report.",
    )
    worker_memory_mb: int = Field(
        1_500,
        alias="QUEL_WORKER_MEMORY_MB",
        ge=200,
        description="A worker process that holds more hands its runs over and is replaced.",
    )
    worker_grace_seconds: float = Field(
        20.0,
        alias="QUEL_WORKER_GRACE_SECONDS",
        ge=10,
        le=3_600,
        description="Time that a stopped worker has before it is killed; calls under way go on for all but 8 s of it.",
    )
    workers: int | None = Field(
        None, alias="QUEL_WORKERS", ge=1, le=256, description="Older name: runs at a time on this machine."
    )

    @field_validator("*")
    @classmethod
    def _in_one_line(cls, value: object) -> object:
        """Refuse a line break, which a paste leaves in keys and which no HTTP header may hold."""
        written = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(written, str) and any(character in written for character in "\r\n\0"):
            raise ValueError("it holds a line break: write it in one line")
        return value

    @classmethod
    def read(cls, **overrides: object) -> Settings:
        """Read the environment and `.env`, and register the secrets with `redaction`.

        Raises:
            SettingsError: a value is missing or wrong; the line names the variable.
        """
        try:
            settings = cls(**overrides)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            raise SettingsError(
                f"{name}: {first['msg'].removeprefix('Value error, ')}. Set it in the environment or in .env."
            ) from None
        settings._register_secrets()
        return settings

    @classmethod
    def of_process(cls) -> Settings:
        """Return the settings of this process, read at the first call; a forked child keeps its parent's.

        Raises:
            SettingsError: a value is missing or wrong; the next call reads again.
        """
        global _of_process  # noqa: PLW0603  Dagster and Celery import these modules and pass no settings to them
        with _reading:
            if _of_process is None:
                _of_process = cls.read()
            return _of_process

    def _register_secrets(self) -> None:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if not isinstance(value, SecretStr):
                continue
            secret = value.get_secret_value()
            if name in _URLS_WITH_A_PASSWORD:
                learn_url(secret)
            elif "://" in secret:  # a webhook: its path or query is the secret, and an HTTP client logs both by itself
                parts = urlsplit(secret)
                learn(secret, parts.path, parts.query, *(value for _, value in parse_qsl(parts.query)))
                learn_url(secret)
            else:
                learn(secret)

    def embedded(self, home: Path) -> Settings:
        """Return these settings with every outside part at its embedded default, in another home."""
        outside = {name: type(self).model_fields[name].default for name in OutsideParts.model_fields}
        return self.model_copy(update={**outside, "home": home})

    @property
    def processes(self) -> int:
        """Processes of the worker on this machine."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = self.worker_processes or cores
        return processes if self.workers is None else min(processes, self.workers)

    @property
    def runs_in_each_process(self) -> int:
        """Runs at a time in each of them; `QUEL_WORKERS` is shared out over the processes, rounded up."""
        return self.runs_per_process if self.workers is None else -(-self.workers // self.processes)

    @property
    def drain_seconds(self) -> float:
        """Time for which runs of a stopped worker finish their calls under way, before they are cut short."""
        return self.worker_grace_seconds - HAND_OVER_SECONDS

    @property
    def runs_here(self) -> int:
        """Runs at a time on this machine."""
        return self.processes * self.runs_in_each_process
