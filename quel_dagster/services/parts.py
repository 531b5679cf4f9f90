"""Which systems `quel up` starts itself: those without a setting.

The stand-in for Gemini is the only one that could do harm beside real systems: members would be charged for its
drawings. It is started only beside the embedded database, and only without any access to Gemini (domain.md §6).
"""

from __future__ import annotations

from typing import Literal

from quel_dagster.errors import SettingsError
from quel_dagster.settings import Settings

EmbeddedPart = Literal["postgres", "redis", "gemini"]


def embedded_parts(settings: Settings) -> frozenset[EmbeddedPart]:
    """Return the systems that `quel up` starts itself."""
    parts: set[EmbeddedPart] = set()
    if settings.database_url is None:
        parts.add("postgres")
    if settings.redis() is None:
        parts.add("redis")
    if "postgres" in parts and not names_gemini(settings):
        parts.add("gemini")
    return frozenset(parts)


def names_gemini(settings: Settings) -> bool:
    """Return whether a setting selects a Gemini server."""
    return settings.gemini_api_key is not None or settings.gemini_base_url is not None or settings.use_vertex_ai


def require_gemini(settings: Settings) -> None:
    """Check that workers have a Gemini server to call.

    Raises:
        SettingsError: none is set, and the stand-in is not started beside this database.
    """
    if "gemini" not in embedded_parts(settings) and settings.gemini_api_key is None and not settings.use_vertex_ai:
        raise SettingsError(
            "GEMINI_API_KEY: not set. Beside an external DATABASE_URL the stand-in for Gemini is not started, since "
            "members would pay for its drawings; set the key in the environment or in .env."
        )
