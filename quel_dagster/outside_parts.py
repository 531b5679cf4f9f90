"""The settings that name the outside parts: PostgreSQL, Redis, the object store, Gemini; with their credentials.

With all of them at their defaults `quel up` embeds every part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from quel_dagster.errors import SettingsError


class OutsideParts(BaseSettings):
    """Addresses and credentials; the larger half of `Settings` says how the program behaves."""

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
        None, alias="GEMINI_BASE_URL", description="Default: Google's own endpoint; without a key, the stand-in."
    )
    use_vertex_ai: bool = Field(
        False, alias="GOOGLE_GENAI_USE_VERTEXAI", description="Ask Vertex AI, with credentials in place of a key."
    )
    vertex_project: str | None = Field(None, alias="GOOGLE_CLOUD_PROJECT")
    vertex_location: str = Field("global", alias="GOOGLE_CLOUD_LOCATION")
    vertex_credentials: Path | None = Field(
        None, alias="GOOGLE_APPLICATION_CREDENTIALS", description="File of a service account; default: the machine's."
    )

    def required_database_url(self) -> str:
        """Return `DATABASE_URL`.

        Raises:
            SettingsError: it is not set.
        """
        if self.database_url is None:
            raise not_set("DATABASE_URL")
        return self.database_url.get_secret_value()

    def required_redis_url(self) -> str:
        """Return the URL of Redis, from `REDIS_URL` or `REDIS_*`.

        Raises:
            SettingsError: it is not set.
        """
        url = self.redis()
        if url is None:
            raise not_set("REDIS_URL")
        return url

    def redis(self) -> str | None:
        """Return the URL of Redis: `REDIS_URL`, else built from the `REDIS_*` set, else None (embedded)."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        if self.redis_host is None:
            return None
        scheme: Literal["redis", "rediss"] = "rediss" if self.redis_use_tls else "redis"
        # without a user in the URL redis-cli sends an empty one, which Redis refuses
        user = quote(self.redis_username or ("default" if self.redis_password else ""), safe="")
        password = quote(self.redis_password.get_secret_value(), safe="") if self.redis_password else ""
        login = f"{user}:{password}@" if user or password else ""
        return f"{scheme}://{login}{self.redis_host}:{self.redis_port}/0"


def not_set(variable: str) -> SettingsError:
    """Return the error for a URL that is needed and not set."""
    return SettingsError(f'{variable} is not set. Set it, or run eval "$(quel env)" beside a `quel up`.')
