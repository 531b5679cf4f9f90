"""Gemini: a key that is accepted, a host that answers. Asks about the model, which costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import httpx

from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.settings import Settings

GOOGLE = "https://generativelanguage.googleapis.com"
TIMEOUT_SECONDS = 10.0

_part = Part("Gemini")


def check_gemini(settings: Settings) -> Iterator[Finding]:
    """Every finding about Gemini."""
    if settings.gemini_api_key is None:
        yield _part.failed("GEMINI_API_KEY is not set", "set the key, or start `quel up`, which brings a stand-in")
        return
    given = settings.gemini_base_url
    model = settings.gemini_model
    try:
        answer = httpx.get(
            f"{(given or GOOGLE).rstrip('/')}/v1beta/models/{quote(model, safe='')}",
            headers={"x-goog-api-key": settings.gemini_api_key.get_secret_value()},
            timeout=TIMEOUT_SECONDS,
        )
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        yield _part.failed("GEMINI_BASE_URL is not a URL", "use https://host, or leave it out for Google's own")
    except (httpx.HTTPError, UnicodeEncodeError) as error:
        yield _part.failed(
            f"does not answer ({type(error).__name__})",
            "check GEMINI_BASE_URL, and the network between"
            if given
            else f"check the network: {GOOGLE.partition('//')[2]} must be reachable",
        )
    else:
        yield _of_status(answer.status_code, model, is_google=given is None)


def _of_status(status: int, model: str, *, is_google: bool) -> Finding:
    if status == 200:
        return _part.ok(f"the key is accepted, and {model} is there")
    if status == 404 and is_google:
        return _part.failed(f"there is no model {model}", "correct GEMINI_MODEL")
    if status in {404, 405}:
        return _part.ok(f"its host answers; it does not tell whether it has {model} (HTTP {status})")
    if status in {400, 401, 403}:
        return _part.failed(f"the key is refused (HTTP {status})", "check GEMINI_API_KEY, and what it is allowed to do")
    if status == 429:
        return _part.warning("the quota is used up for the moment (HTTP 429)", "wait, or raise the quota")
    return _part.warning(f"answers HTTP {status}", "try again in a minute; runs do so by themselves")
