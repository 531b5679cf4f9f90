"""Every environment variable that this project reads, in one place, read once.

Nothing reads the environment at import time: call `Settings.read()` where a program starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from quel_dagster.errors import SettingsError
from quel_dagster.redaction import learn, learn_url

DEFAULT_HOME = Path(".quel")
#: of these only the password is secret; the rest helps whoever reads a log
_URLS_WITH_A_PASSWORD = {"database_url", "dagster_database_url", "redis_url", "storage_url"}


class Settings(BaseSettings):
    """The settings of one process. A part whose URL is not set is embedded by `quel up` and `quel demo`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        # by name a field is read from the environment too, and without a prefix `home` is everybody's HOME
        env_prefix="QUEL_",
        hide_input_in_errors=True,  # a bad URL may hold a password
    )

    # --- outside parts -------------------------------------------------------------------------------
    database_url: SecretStr | None = Field(
        None, alias="DATABASE_URL", description="PostgreSQL with the web app's tables (domain.md §2)."
    )
    dagster_database_url: SecretStr | None = Field(
        None,
        alias="DAGSTER_DATABASE_URL",
        description="PostgreSQL for Dagster's own storage; default: schema quel_dagster of DATABASE_URL.",
    )
    redis_url: SecretStr | None = Field(None, alias="REDIS_URL", description="Redis with `jobs:queue`.")
    redis_host: str | None = Field(None, alias="REDIS_HOST")
    redis_port: int = Field(6379, alias="REDIS_PORT", ge=1, le=65535)
    redis_username: str | None = Field(None, alias="REDIS_USERNAME")
    redis_password: SecretStr | None = Field(None, alias="REDIS_PASSWORD")
    redis_use_tls: bool = Field(False, alias="REDIS_USE_TLS")

    storage_url: SecretStr | None = Field(
        None,
        alias="STORAGE_URL",
        description="Object store: file:///path, s3://bucket?endpoint=…&region=…, or supabase:",
    )
    storage_base_url: str | None = Field(
        None, alias="SUPABASE_STORAGE_BASE_URL", description="Public base URL for downloads (domain.md §5)."
    )
    supabase_url: str | None = Field(None, alias="SUPABASE_URL")
    supabase_service_key: SecretStr | None = Field(None, alias="SUPABASE_SERVICE_KEY")
    # for `s3:`; without a key the machine's role is asked for one
    aws_access_key_id: SecretStr | None = Field(None, alias="AWS_ACCESS_KEY_ID")
    aws_secret_access_key: SecretStr | None = Field(None, alias="AWS_SECRET_ACCESS_KEY")
    aws_session_token: SecretStr | None = Field(None, alias="AWS_SESSION_TOKEN")
    aws_region: str | None = Field(None, alias="AWS_REGION")
    aws_endpoint_url: str | None = Field(None, alias="AWS_ENDPOINT_URL")

    gemini_api_key: SecretStr | None = Field(None, alias="GEMINI_API_KEY")
    gemini_base_url: str | None = Field(
        None, alias="GEMINI_BASE_URL", description="Default: Google's own endpoint, or the embedded stand-in."
    )
    gemini_model: str = Field("gemini-2.5-flash-image", alias="GEMINI_MODEL")
    gemini_timeout_seconds: float = Field(
        120.0, alias="GEMINI_TIMEOUT_SECONDS", gt=0, description="Hard deadline of one call."
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
    max_images_per_job: int = Field(1_000, alias="QUEL_MAX_IMAGES_PER_JOB", ge=1)
    max_units_per_job: int = Field(200, alias="QUEL_MAX_UNITS_PER_JOB", ge=1)
    max_prompt_length: int = Field(20_000, alias="QUEL_MAX_PROMPT_LENGTH", ge=1, description="Characters.")
    max_references_per_unit: int = Field(50, alias="QUEL_MAX_REFERENCES_PER_UNIT", ge=1)

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
    workers: int = Field(2, alias="QUEL_WORKERS", ge=1, le=256, description="Runs at a time on this machine.")

    @classmethod
    def read(cls, **overrides: object) -> Settings:
        """Read the environment and `.env`. No log line and no error tells its secrets from then on.

        Raises:
            SettingsError: a value is missing or wrong; the line names the variable.
        """
        try:
            settings = cls(**overrides)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            raise SettingsError(f"{name}: {first['msg']}. Set it in the environment or in .env.") from None
        settings._teach_redaction()
        return settings

    def _teach_redaction(self) -> None:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if not isinstance(value, SecretStr):
                continue
            secret = value.get_secret_value()
            if name in _URLS_WITH_A_PASSWORD:
                learn_url(secret)
            elif "://" in secret:  # a webhook: its path is the secret, and an HTTP client logs that by itself
                learn(secret, urlsplit(secret).path)
            else:
                learn(secret)

    def embedded(self, home: Path) -> Settings:
        """These settings with every outside part left to the embedded default, in another home."""
        outside = (
            "database_url",
            "dagster_database_url",
            "redis_url",
            "redis_host",
            "redis_username",
            "redis_password",
            "storage_url",
            "storage_base_url",
            "supabase_url",
            "supabase_service_key",
            "gemini_api_key",
            "gemini_base_url",
        )
        return self.model_copy(update={**dict.fromkeys(outside), "home": home})

    def redis(self) -> str | None:
        """The URL of Redis: `REDIS_URL`, else built from the `REDIS_*` set, else None (embedded)."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        if self.redis_host is None:
            return None
        scheme: Literal["redis", "rediss"] = "rediss" if self.redis_use_tls else "redis"
        user = quote(self.redis_username or "", safe="")
        password = quote(self.redis_password.get_secret_value(), safe="") if self.redis_password else ""
        login = f"{user}:{password}@" if user or password else ""
        return f"{scheme}://{login}{self.redis_host}:{self.redis_port}/0"
