"""Map an HTTP error of Gemini to the exception with the remedy.

    retried       429 of the moment, 5xx, 408, 409, 499, 504
    retried once  400 "Unable to process input image. Please retry"
    the picture   other 400s about this very request, 413, 415, 422
    the job       key, permission, model, fields that the model does not know, redirects, a 429 that is final

Messages hold an excerpt of what Gemini said, never the key, credentials of the URL, or picture bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from google.genai.errors import APIError

from quel_dagster.adapters.gemini.excerpts import DECISIVE, excerpt
from quel_dagster.errors import (
    GeminiBadAnswerError,
    GeminiError,
    GeminiModelError,
    GeminiQuotaSpentError,
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiRejectedError,
    GeminiTimeoutError,
    GeminiUnavailableError,
)

#: 400s about the model or the fields that it takes: every request of this installation meets them
_ABOUT_THE_MODEL = re.compile(
    r"unknown name|invalid value at|response modalit|generation_?config|image_?config|image.?size|thinking|temperature"
    r"|model does not support|not supported (?:by|for|in) (?:this |the )?model|does not support image"
    r"|developer instruction is not enabled|multimodal output",
    re.IGNORECASE,
)
_ASKS_TO_RETRY = re.compile(r"please retry|try again", re.IGNORECASE)
_CHANGE_THE_REQUEST = "change the prompt or the reference pictures."


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked, for the wording of an error."""

    model: str
    #: where, without credentials
    where: str
    #: how requests are allowed: the name of the setting
    access: str = "GEMINI_API_KEY"
    secret: str = ""


def failure(error: APIError, asked: Asked) -> GeminiError:
    """Return the exception with the remedy."""
    code = error.code
    said = excerpt(error.message, secret=asked.secret).rstrip(".")
    status = f" {excerpt(error.status, secret=asked.secret)}" if error.status else ""
    what = f"HTTP {code}{status}{f': {said}' if said else ''}"
    if code == 429:
        return _quota(error, what)
    if code in {408, 504}:
        return GeminiTimeoutError(f"Gemini did not finish within its own deadline ({what}).")
    if code >= 500 or code in {409, 499}:
        unavailable = GeminiUnavailableError(f"Gemini is not available ({what}).", everybody=code > 500)
        unavailable.retry_after = _retry_after(error)
        return unavailable
    if 200 <= code < 300:
        return GeminiBadAnswerError(f"Gemini's answer was broken: empty ({what}).")
    if code in {413, 415, 422} or (code == 400 and not _about_access(error)):
        return _bad_request(error, what, asked)
    if code == 404:
        return GeminiModelError(
            f"Gemini does not know the model {asked.model} ({what}); "
            "set GEMINI_MODEL to one of docs/models.md, and check GEMINI_BASE_URL."
        )
    remedy = (
        "GEMINI_BASE_URL points at a server that redirects; set the final address."
        if 300 <= code < 400
        else f"check {asked.access}, its permissions and billing."
    )
    return GeminiRejectedError(f"Gemini refuses every request of this installation ({what}); {remedy}")


def _quota(error: APIError, what: str) -> GeminiError:
    decisive = _decisive_words(error)
    if decisive:
        lost = [word for word in decisive if word.lower() not in what.lower()]
        words = f"{what}; {', '.join(lost)}" if lost else what
        return GeminiQuotaSpentError(
            f"Gemini's quota is spent, and waiting does not bring it back ({words}); "
            "look at billing, credits and the spending cap of the key's project, or wait for the next day."
        )
    asked = _retry_after(error)
    wait = f"; it asks to wait {asked:g} s" if asked else ""
    return GeminiRateLimitedError(
        f"Gemini's quota is used up for the moment ({what}){wait}. Raise the quota or run fewer jobs at a time.",
        retry_after=asked,
    )


def _decisive_words(error: APIError) -> list[str]:
    """Return the words that make a 429 final, from the message and from the ids of the quotas that were exceeded."""
    ids = [
        str(violation.get("quotaId", ""))
        for item in _details(error)
        if isinstance(item.get("violations"), list)
        for violation in item["violations"]
        if isinstance(violation, dict)
    ]
    return [*dict.fromkeys([*DECISIVE.findall(str(error.message)), *(i for i in ids if "PerDay" in i)])]


def _bad_request(error: APIError, what: str, asked: Asked) -> GeminiError:
    message = str(error.message)
    if error.code == 400 and _ABOUT_THE_MODEL.search(message):
        return GeminiModelError(
            f"The model {asked.model} does not take this kind of request ({what}); "
            "set GEMINI_MODEL to one of docs/models.md, and GEMINI_IMAGE_SIZE and GEMINI_THINKING to what it takes."
        )
    refused = GeminiRefusedError(f"Gemini cannot use this request ({what}); {_CHANGE_THE_REQUEST}")
    if error.code == 400 and _ASKS_TO_RETRY.search(message):
        refused.ask_again = 1
    return refused


def _about_access(error: APIError) -> bool:
    """Return whether a 400 is about key, billing or region, not about this request."""
    reasons = {str(item.get("reason")) for item in _details(error)}
    return (
        bool(reasons & {"API_KEY_INVALID", "API_KEY_EXPIRED"})
        or error.status == "FAILED_PRECONDITION"
        or "api key" in str(error.message).lower()
    )


def _details(error: APIError) -> list[Mapping[str, Any]]:
    """Return `error.details[]` of Google's error body; empty when the body has another form."""
    body = error.details
    inner = body.get("error") if isinstance(body, dict) else None
    details = inner.get("details") if isinstance(inner, dict) else None
    return [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []


def _retry_after(error: APIError) -> float | None:
    """Return the seconds that the server asked to wait: header Retry-After (seconds or a date), or RetryInfo."""
    asked = [_seconds(str(item.get("retryDelay", ""))) for item in _details(error)]
    asked.append(_seconds(str(getattr(error.response, "headers", {}).get("retry-after", ""))))
    given = [seconds for seconds in asked if seconds is not None]
    return max(given) if given else None


def _seconds(value: str) -> float | None:
    if match := re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*s?\s*", value):
        return float(match[1])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
