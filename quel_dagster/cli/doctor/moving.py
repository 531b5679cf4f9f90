"""Compare an installation of the older worker, by its env file, with this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.errors import SettingsError
from quel_dagster.settings import Settings

#: the older worker's defaults
OLDER_PRICE, OLDER_TLS, OLDER_MODEL, OLDER_REDIS_PORT = 5, True, "gemini-2.5-flash-image", "6379"
_COMPARED = frozenset(
    {
        "IMAGE_PER_PRICE",
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "REDIS_USE_TLS",
        "SUPABASE_URL",
        "SUPABASE_SERVICE_KEY",
        "SUPABASE_STORAGE_BASE_URL",
        "GEMINI_API_KEY",
        "GEMINI_MODEL",
    }
)

_part = Part("Moving")


def read_env_file(path: Path) -> dict[str, str]:
    """Read the older worker's variables.

    Raises:
        SettingsError: there is no such file.
    """
    if not path.is_file():
        raise SettingsError(f"--moving {path}: there is no such file; give the env file of the older worker.")
    return {name: value for name, value in dotenv_values(path).items() if value is not None}


def check_moving(settings: Settings, older: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what would change for users, prices and the web app."""
    yield _price(settings, older)
    yield _redis(settings, older)
    yield _store(settings, older)
    yield _gemini(settings, older)
    yield _web_api(settings)
    yield _other_kinds(settings)
    unread = sorted(older.keys() - _COMPARED - {str(field.alias) for field in Settings.model_fields.values()})
    if unread:
        yield _part.warning(
            f"the file sets variables that are not read here: {', '.join(unread)}",
            "docs/migration.md lists the replacements",
        )


def _price(settings: Settings, older: Mapping[str, str]) -> Finding:
    given = older.get("IMAGE_PER_PRICE", "")
    try:
        price = int(given) if given else OLDER_PRICE
    except ValueError:
        return _part.failed(f"IMAGE_PER_PRICE of the file is not a number: {given[:20]!r}", "find out what users paid")
    if price == settings.image_per_price:
        return _part.ok(f"{price} credits per picture, as before")
    why = "" if given else " (its default: the file does not set it)"
    return _part.failed(
        f"the older worker takes {price} credits per picture{why}, this installation {settings.image_per_price}",
        f"set IMAGE_PER_PRICE={price}, or tell the users",
    )


def _redis(settings: Settings, older: Mapping[str, str]) -> Finding:
    host = older.get("REDIS_HOST")
    here = settings.redis()
    if host is None or here is None:
        return _part.warning("REDIS_HOST or REDIS_URL is not set on one of both sides", "compare the two by hand")
    parts = urlsplit(here)
    port = older.get("REDIS_PORT") or OLDER_REDIS_PORT
    if (parts.hostname, str(parts.port or 6379)) != (host.lower(), port):
        return _part.failed(
            f"the older worker reads {host}:{port}, this installation {parts.hostname}:{parts.port or 6379}",
            "both must read the same list: set REDIS_HOST and REDIS_PORT, or REDIS_URL",
        )
    encrypted = older.get("REDIS_USE_TLS", str(OLDER_TLS)).strip().lower() not in {"false", "0", "no", "off", "f", "n"}
    if encrypted != (parts.scheme == "rediss"):
        spoken = "TLS" if encrypted else "no TLS"
        return _part.failed(
            f"the older worker speaks {spoken} to Redis, this installation the reverse",
            f"set REDIS_USE_TLS={str(encrypted).lower()} (its default there is true, here false)",
        )
    return _part.ok(f"the same Redis, {'with' if encrypted else 'without'} TLS")


def _store(settings: Settings, older: Mapping[str, str]) -> Finding:
    here = {
        "SUPABASE_URL": settings.supabase_url,
        "SUPABASE_STORAGE_BASE_URL": settings.storage_base_url,
        "SUPABASE_SERVICE_KEY": settings.supabase_service_key and settings.supabase_service_key.get_secret_value(),
    }
    different = [
        name
        for name, value in here.items()
        if (older.get(name) or "").rstrip("/") != (str(value) if value else "").rstrip("/")
    ]
    if settings.storage_url is not None:
        return _part.warning(
            "STORAGE_URL is set: pictures would be stored there", "unset it to use the older worker's bucket"
        )
    if different:
        return _part.failed(
            f"differs from the file: {', '.join(different)}", "copy the existing references and pictures"
        )
    return _part.ok("the same object store")


def _gemini(settings: Settings, older: Mapping[str, str]) -> Finding:
    key = settings.gemini_api_key.get_secret_value() if settings.gemini_api_key else None
    if key != older.get("GEMINI_API_KEY"):
        return _part.warning("GEMINI_API_KEY differs from the file", "quota and bill belong to another project")
    model = older.get("GEMINI_MODEL") or OLDER_MODEL
    if model != settings.gemini_model:
        return _part.warning(
            f"the older worker uses {model}, this installation {settings.gemini_model}",
            "pictures look different; docs/models.md lists the models",
        )
    return _part.ok(f"the same key and model, {model}")


def _web_api(settings: Settings) -> Finding:
    if settings.web_api:
        return _part.ok("POST /enqueue and POST /api/jobs/{id}/cancel are answered here, with a token")
    return _part.warning(
        "POST /enqueue and POST /api/jobs/{id}/cancel end with the older worker",
        "if the web app calls them: QUEL_WEB_API=true with QUEL_WEB_API_TOKEN, and the token in its calls",
    )


def _other_kinds(settings: Settings) -> Finding:
    if settings.older_worker:
        return _part.ok("inpainting, multiview and landing jobs stay in the list for the older worker")
    return _part.warning(
        "inpainting, multiview and landing jobs would go to jobs:dead",
        "QUEL_OLDER_WORKER=true while the older worker runs on the same list",
    )
