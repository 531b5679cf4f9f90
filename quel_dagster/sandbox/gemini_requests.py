"""Read requests to the stand-in Gemini as strictly as Google does.

Unknown fields, and values that the model does not take, are a 400; an unknown model, or one past its shutdown date, is
a 404. Not here: the abilities of a model (`jobs/models.py`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from quel_dagster.jobs.models import MODELS, ImageModel, State
from quel_dagster.sandbox.drawing import PictureRequest

#: models that answer with words alone
TEXT_MODELS = ("gemini-3.8-flash",)
#: a model without generateContent
EMBEDDING_MODEL = "gemini-embedding-001"

_FREE: Mapping[str, Any] = {}
#: every field that may stand in a request; below a field of `_FREE` anything may
_FIELDS: Mapping[str, Any] = {
    "contents": {
        "role": _FREE,
        "parts": {
            "text": _FREE,
            "inlineData": {"data": _FREE, "mimeType": _FREE, "displayName": _FREE},
            "fileData": _FREE,
            "thought": _FREE,
            "thoughtSignature": _FREE,
            "mediaResolution": _FREE,
        },
    },
    "systemInstruction": _FREE,
    "safetySettings": _FREE,
    "tools": _FREE,
    "toolConfig": _FREE,
    "cachedContent": _FREE,
    "store": _FREE,
    "serviceTier": _FREE,
    "labels": _FREE,
    "generationConfig": {
        "responseModalities": _FREE,
        "imageConfig": {"aspectRatio": _FREE, "imageSize": _FREE},
        "thinkingConfig": {"thinkingLevel": _FREE, "includeThoughts": _FREE, "thinkingBudget": _FREE},
        "temperature": _FREE,
        "topP": _FREE,
        "topK": _FREE,
        "seed": _FREE,
        "candidateCount": _FREE,
        "maxOutputTokens": _FREE,
        "stopSequences": _FREE,
        "responseMimeType": _FREE,
        "mediaResolution": _FREE,
    },
}


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason why Google would refuse a request."""

    code: int
    status: str
    message: str
    violations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A parsed request."""

    picture: PictureRequest
    #: `image`, `text` or `other`, part by part
    kinds: tuple[str, ...]
    config: dict[str, Any]
    #: the document without the parts
    more: dict[str, Any] = field(default_factory=dict)
    size: str = "1K"
    model: ImageModel | None = None
    #: bytes of the body
    length: int = 0
    problem: Problem | None = None

    @property
    def text(self) -> str:
        return self.picture.text

    @property
    def thinks(self) -> bool:
        """Return whether the answer holds thoughts."""
        if self.model is None:
            return False
        level = str((self.config.get("thinkingConfig") or {}).get("thinkingLevel") or self.model.default_thinking)
        return self.model.id == "gemini-3-pro-image" or level.lower() in {"medium", "high"}


def read_request(body: bytes, model: str, *, decode: bool) -> Wanted:
    """Read a request's text, pictures (only if `decode`) and configuration."""
    ratio, size = "1:1", "1K"
    text = ""
    pictures: list[bytes] = []
    kinds: list[str] = []
    document: dict[str, Any] = {}
    problem: Problem | None = None
    try:
        document = _camel(json.loads(body))
        config = document.get("generationConfig") or {}
        image = config.get("imageConfig") or {}
        ratio, size = str(image.get("aspectRatio") or ratio), str(image.get("imageSize") or size)
        parts = [part for content in document["contents"] for part in content["parts"]]
        text = "\n".join(part["text"] for part in parts if "text" in part)
        kinds = ["image" if "inlineData" in part else "text" if "text" in part else "other" for part in parts]
        for inline in (part["inlineData"] for part in parts if "inlineData" in part):
            if not str(inline.get("mimeType")).startswith("image/"):
                problem = _invalid("Unsupported MIME type of an inline part.")
            if decode:
                pictures.append(_bytes(inline["data"]))
        problem = problem or _unknown_fields(document) or _model_problem(model, config, kinds.count("image"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = _invalid(f"Invalid JSON payload received ({type(error).__name__}).")
        document = document if isinstance(document, dict) else {}
    return Wanted(
        PictureRequest(text, tuple(pictures), ratio),
        kinds=tuple(kinds),
        config=dict(document.get("generationConfig") or {}),
        more={name: value for name, value in document.items() if name not in {"contents", "generationConfig"}},
        size=size,
        model=MODELS.get(model),
        length=len(body),
        problem=problem,
    )


def model_answer(model: str) -> dict[str, Any] | None:
    """Return the body of `GET models/{model}`; None: there is no such model. A retired one still answers.

    The methods are those of a recorded list of 2026-06-12: `createCachedContent` tells text models from image models.
    """
    if model in MODELS:
        methods = ["generateContent", "countTokens", "batchGenerateContent"]
    elif model in TEXT_MODELS:
        methods = ["generateContent", "countTokens", "createCachedContent", "batchGenerateContent"]
    elif model == EMBEDDING_MODEL:
        methods = ["embedContent", "countTextTokens", "countTokens", "asyncBatchEmbedContent"]
    else:
        return None
    return {
        "name": f"models/{model}",
        "version": "001",
        "displayName": model,
        "inputTokenLimit": 65536,
        "outputTokenLimit": 32768,
        "supportedGenerationMethods": methods,
    }


def publisher_model_answer(model: str) -> dict[str, Any] | None:
    """Return the body of Vertex AI's `GET publishers/google/models/{model}`; None: there is no such model."""
    if model not in (*MODELS, *TEXT_MODELS, EMBEDDING_MODEL):
        return None
    return {"name": f"publishers/google/models/{model}", "versionId": "default", "launchStage": "GA"}


def takes_requests(model: str) -> bool:
    """Return whether the model exists and is not past its shutdown date."""
    return model in (*TEXT_MODELS, EMBEDDING_MODEL) or (
        model in MODELS and MODELS[model].state(datetime.now(UTC).date()) is not State.RETIRED
    )


def not_found(model: str) -> Problem:
    """Return Google's refusal of a request to a model that does not exist, or no longer."""
    return Problem(
        404,
        "NOT_FOUND",
        f"models/{model} is not found for API version v1beta, or is not supported for generateContent. "
        "Call ListModels to see the list of available models and their supported methods.",
    )


def _model_problem(name: str, config: Mapping[str, Any], images: int) -> Problem | None:
    model = MODELS.get(name)
    if name in TEXT_MODELS:
        return _invalid("Model does not support the requested response modalities: image")
    if model is None or not takes_requests(name):
        return not_found(name)
    image = config.get("imageConfig") or {}
    ratio, size = image.get("aspectRatio"), image.get("imageSize")
    level = (config.get("thinkingConfig") or {}).get("thinkingLevel")
    if ratio is not None and ratio not in model.ratios:
        return _invalid(f"aspect_ratio must be one of {', '.join(model.ratios)}")
    if size is not None and (size not in model.sizes or not model.takes_size):
        return _invalid(f"Invalid value at 'generation_config.image_config.image_size': {json.dumps(size)}")
    if level is not None and str(level).lower() not in model.thinking:
        return _invalid(f"Thinking level {level} is not supported for this model.")
    if images > model.references:
        return _invalid(f"At most {model.references} images are allowed; the request has {images}.")
    return None


def _unknown_fields(document: Any) -> Problem | None:
    found = tuple(_unknown(document, _FIELDS, ""))
    if not found:
        return None
    return Problem(400, "INVALID_ARGUMENT", "\n".join(found), violations=found)


def _unknown(value: Any, fields: Mapping[str, Any], where: str) -> Iterator[str]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unknown(item, fields, f"{where}[{number}]")
        return
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if name not in fields:
            at = f" at '{where}'" if where else ""
            yield f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
        elif fields[name]:
            yield from _unknown(inner, fields[name], f"{where}.{_snake(name)}".lstrip("."))


def _camel(value: Any) -> Any:
    """Return a document with its keys in camel case: Google's server takes `mime_type` too."""
    if isinstance(value, list):
        return [_camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {re.sub(r"_([a-z])", lambda m: m[1].upper(), name): _camel(inner) for name, inner in value.items()}


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda m: f"_{m[1].lower()}", name)


def _invalid(message: str) -> Problem:
    return Problem(400, "INVALID_ARGUMENT", message)


def _bytes(data: str) -> bytes:
    """Decode base64 of either alphabet: clients send the URL-safe one."""
    return base64.b64decode(data.replace("-", "+").replace("_", "/"), validate=True)
