"""Ask Google's server about a model: the key or the credentials, and what the model can do. Costs nothing.

Not here: what the model table says (`gemini`).

Google's model resource has no field for the kind of output. What it has is `supportedGenerationMethods`: models without
`generateContent` make nothing here, and of the models with it only text models have `createCachedContent` (a recorded
list of 2026-06-12: 18 text models have it, 6 image models do not; speech, music and agents are like image models).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from quel_dagster.adapters.gemini.access import access_of
from quel_dagster.adapters.gemini.endpoint import Endpoint
from quel_dagster.adapters.gemini.excerpts import excerpt
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.errors import GeminiError, GeminiModelError, SettingsError
from quel_dagster.jobs.models import ImageModel
from quel_dagster.settings import Settings

GOOGLE = "https://generativelanguage.googleapis.com"
TIMEOUT_SECONDS = 10.0
CHOOSE_ANOTHER = "set GEMINI_MODEL to one of docs/models.md"

#: what to do, by the `reason` of Google's ErrorInfo; {project} is where the key belongs
_REMEDIES = {
    "API_KEY_INVALID": "copy GEMINI_API_KEY again: Google does not know it",
    "API_KEY_EXPIRED": "make a new key: this one has expired",
    "SERVICE_DISABLED": "the key belongs to {project}, where the Gemini API is not enabled: enable it there, or use a "
    "key of the right project",
    "API_KEY_SERVICE_BLOCKED": "allow the Gemini API in the restrictions of the key ({project})",
    "API_KEY_IP_ADDRESS_BLOCKED": "allow this machine's address in the restrictions of the key ({project})",
    "API_KEY_HTTP_REFERRER_BLOCKED": "the key is restricted to web pages ({project}): use one for servers",
    "BILLING_DISABLED": "the key belongs to {project}, which has no billing: enable it there, or use a key of "
    "the right project",
    "CONSUMER_SUSPENDED": "Google has suspended {project}: look at its console, or use a key of another project",
}

_part = Part("Gemini")


def ask_gemini_api(settings: Settings, models: Sequence[ImageModel]) -> Iterator[Finding]:
    """Yield the server's answer about each model; one that applies to all ends the questions."""
    for model in models:
        finding, goes_for_all = _asked(settings, model)
        yield finding
        if goes_for_all:
            return


def ask_vertex_ai(settings: Settings, models: Sequence[ImageModel]) -> Iterator[Finding]:
    """Yield the server's answer about each model; one that applies to all ends the questions."""
    try:
        endpoint = Endpoint(
            access=access_of(settings),
            base_url=settings.gemini_base_url,
            size=settings.gemini_image_size,
            thinking=settings.gemini_thinking,
            timeout_seconds=TIMEOUT_SECONDS,
        )
    except SettingsError as error:
        yield _part.failed(str(error).rstrip("."), "correct the setting")
        return
    yield from asyncio.run(_looked_up(endpoint, settings, models))


async def _looked_up(endpoint: Endpoint, settings: Settings, models: Sequence[ImageModel]) -> list[Finding]:
    where = f"project {settings.vertex_project}, {settings.vertex_location}"
    found = []
    try:
        for model in models:
            try:
                await endpoint.look_up(model)
            except GeminiModelError as error:
                found.append(_part.failed(f"{where}: {str(error).rstrip('.')}", CHOOSE_ANOTHER))
            except GeminiError as error:
                said, _, remedy = str(error).rstrip(".").partition("; ")
                remedy = remedy or "try again in a minute; runs do so by themselves"
                return [*found, _part.failed(f"{where}: {said}", remedy)]
            else:
                found.append(
                    _part.ok(
                        f"the credentials are accepted, and {model.id} answers in {where}. Not checked, since Vertex "
                        "AI does not tell: whether it makes pictures (`quel doctor --picture` does)"
                    )
                )
    finally:
        await endpoint.aclose()
    return found


def _asked(settings: Settings, model: ImageModel) -> tuple[Finding, bool]:
    """Return the server's answer, and whether it applies to every model."""
    given = settings.gemini_base_url
    key = settings.gemini_api_key.get_secret_value() if settings.gemini_api_key else ""
    address = f"{(given or GOOGLE).rstrip('/')}/v1beta/models/{quote(model.id, safe='')}"
    try:
        with httpx.Client(headers={"x-goog-api-key": key}, timeout=TIMEOUT_SECONDS) as client:
            answer = client.get(address)
            methods = _methods(answer)
            if methods is not None and "countTokens" in methods:
                # A model that is shut down may still be described, but takes no requests.
                counted = client.post(f"{address}:countTokens", json={"contents": [{"parts": [{"text": "x"}]}]})
                answer = counted if counted.status_code == 404 else answer
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        return _part.failed("GEMINI_BASE_URL is not a URL", "use https://host, or leave it out for Google's own"), True
    except (httpx.HTTPError, UnicodeEncodeError) as error:
        remedy = (
            "check GEMINI_BASE_URL, and the network between"
            if given
            else f"check the network: {GOOGLE.partition('//')[2]} must be reachable"
        )
        return _part.failed(f"does not answer ({type(error).__name__})", remedy), True
    if methods is not None and answer.status_code == 404:
        said = f"{model.id} is described but takes no requests (HTTP 404): it is shut down, or not for this key"
        return _part.failed(said, CHOOSE_ANOTHER), False
    refused = answer.status_code in {400, 401, 403}
    return _of_answer(answer, model, is_google=_is_google(given), key=key), refused


def _is_google(base_url: str | None) -> bool:
    return base_url is None or urlsplit(base_url).hostname == urlsplit(GOOGLE).hostname


def _of_answer(answer: httpx.Response, model: ImageModel, *, is_google: bool, key: str) -> Finding:
    status = answer.status_code
    if status == 200:
        return _of_resource(_methods(answer), model)
    if status == 404 and is_google:
        return _part.failed(f"there is no model {model.id}", CHOOSE_ANOTHER)
    if status in {404, 405}:
        return _part.ok(f"its host answers, but does not tell whether it has {model.id} (HTTP {status})")
    if status in {400, 401, 403}:
        said = excerpt(_mapping(_document(answer).get("error")).get("message"), secret=key)
        return _part.failed(f"the key is refused (HTTP {status}{f': {said}' if said else ''})", _remedy(answer))
    if status == 429:
        return _part.warning("the quota is used up for now (HTTP 429)", "wait, or raise the quota")
    return _part.warning(f"answers HTTP {status}", "try again in a minute; runs do so by themselves")


def _of_resource(methods: list[str] | None, model: ImageModel) -> Finding:
    """Return what the model resource says about pictures."""
    if methods is not None and "generateContent" not in methods:
        return _part.failed(f"{model.id} makes no pictures (it can {', '.join(methods) or 'nothing'})", CHOOSE_ANOTHER)
    if model.known:
        return _part.ok(f"the key is accepted, and {model.id} exists")
    if methods is not None and "createCachedContent" in methods:
        return _part.failed(
            f"{model.id} is a text model (it can {', '.join(methods)}; image models cannot createCachedContent)",
            f"{CHOOSE_ANOTHER}; should it make pictures after all, `quel doctor --picture` shows that",
        )
    return _part.ok(
        f"the key is accepted, and {model.id} exists. Not checked, since Google does not tell: whether it makes "
        "pictures (`quel doctor --picture` does)"
    )


def _remedy(answer: httpx.Response) -> str:
    """Return what to do about a refused key, by the reason that Google names."""
    details = _mapping(_document(answer).get("error")).get("details")
    for item in details if isinstance(details, list) else []:
        info = _mapping(item)
        if remedy := _REMEDIES.get(str(info.get("reason"))):
            consumer = excerpt(_mapping(info.get("metadata")).get("consumer")).removeprefix("projects/")
            return remedy.format(project=f"project {consumer}" if consumer else "a project")
    return "check that GEMINI_API_KEY is complete, that the Gemini API is enabled in its project, its restrictions"


def _methods(answer: httpx.Response) -> list[str] | None:
    """Return `supportedGenerationMethods`; None when the answer has none."""
    methods = _document(answer).get("supportedGenerationMethods") if answer.status_code == 200 else None
    return [excerpt(method) for method in methods] if isinstance(methods, list) else None


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        return _mapping(answer.json())
    except ValueError:
        return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
