"""The request for one picture, as the model takes it (domain.md §6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.genai import types

from quel_dagster.jobs.model import ImagePart
from quel_dagster.jobs.models import ImageModel

#: `contents` of the request, in the names of the REST API
Contents = list[dict[str, Any]]


def contents_of(text: str, parts: Sequence[ImagePart]) -> Contents:
    """Return the references in order, then the text."""
    pictures = [{"inlineData": {"mimeType": part.mime_type, "data": part.base64}} for part in parts]
    return [{"role": "user", "parts": [*pictures, {"text": text}]}]


def config_of(
    model: ImageModel,
    *,
    contents: Contents,
    ratio: str,
    size: str,
    thinking: str | None,
    seconds: float,
    store: bool | None,
) -> types.GenerateContentConfig:
    """Return the configuration of a request: only fields that this model takes, with values that it can do.

    Args:
        contents: replace those of the call: the library would encode its own type for every call.
        seconds: the deadline, which is sent to Google too.
        store: False asks Google not to keep the request; None leaves the field out.
    """
    level = model.thinking_for(thinking)
    return types.GenerateContentConfig(
        temperature=model.temperature,
        response_modalities=["IMAGE"],
        image_config=types.ImageConfig(
            aspect_ratio=ratio, image_size=model.size_for(size) if model.takes_size else None
        ),
        thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel(level.upper())) if level else None,
        store=store,
        # One call is one request: nothing is sent on the library's own account.
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        automatic_continuation=False,
        # The body as it came: the library drops `finishMessage`.
        should_return_http_response=True,
        http_options=types.HttpOptions(timeout=max(1, round(seconds * 1000)), extra_body={"contents": contents}),
    )
