"""Access to Gemini: an API key, or credentials of Google Cloud for Vertex AI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google.auth
from google.auth.exceptions import GoogleAuthError
from google.oauth2.service_account import Credentials

from quel_dagster.errors import SettingsError
from quel_dagster.settings import Settings

_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The Gemini API, with a key."""

    key: str
    #: where image settings are documented
    api_version: str = "v1beta"
    setting: str = "GEMINI_API_KEY"
    #: Google keeps requests for up to 55 days unless a request says no, and references are photographs of people
    store: bool | None = False

    def __post_init__(self) -> None:
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key or not self.key:
            raise SettingsError("GEMINI_API_KEY: empty, or holds characters that no key has; copy it again.")

    @property
    def secret(self) -> str:
        return self.key

    def client_arguments(self) -> dict[str, Any]:
        """Return what `genai.Client` is given."""
        return {"vertexai": False, "api_key": self.key}


@dataclass(frozen=True, slots=True)
class VertexAI:
    """Vertex AI, with credentials of Google Cloud."""

    project: str
    location: str = "global"
    #: file of a service account; None: what the machine has (Application Default Credentials)
    credentials: Path | None = None
    api_version: str = "v1beta1"
    setting: str = "GOOGLE_APPLICATION_CREDENTIALS"
    secret: str = ""
    #: Vertex AI knows no such field
    store: bool | None = None

    def client_arguments(self) -> dict[str, Any]:
        """Return what `genai.Client` is given.

        Raises:
            SettingsError: there are no credentials.
        """
        try:
            if self.credentials is None:
                credentials, _ = google.auth.default(scopes=_SCOPES)
            else:
                credentials = Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
                    str(self.credentials), scopes=_SCOPES
                )
        except (GoogleAuthError, OSError, ValueError) as error:
            raise SettingsError(
                f"GOOGLE_APPLICATION_CREDENTIALS: no usable credentials for Vertex AI ({type(error).__name__}); "
                "name the JSON file of a service account that may use Vertex AI."
            ) from None
        return {
            "vertexai": True,
            "project": self.project,
            "location": self.location,
            "credentials": credentials,
        }


Access = ApiKey | VertexAI


def access_of(settings: Settings) -> Access:
    """Return the access that the environment describes.

    Raises:
        SettingsError: it describes none.
    """
    if settings.use_vertex_ai:
        if not settings.vertex_project:
            raise SettingsError("GOOGLE_CLOUD_PROJECT: missing. Vertex AI needs the id of a project.")
        return VertexAI(settings.vertex_project, settings.vertex_location, settings.vertex_credentials)
    if settings.gemini_api_key is None:
        raise SettingsError("GEMINI_API_KEY: missing. Set it in the environment or in .env.")
    return ApiKey(settings.gemini_api_key.get_secret_value())
