"""The answers of the stand-in Gemini: pictures, thoughts, tokens, and errors in Google's format."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from starlette.responses import JSONResponse, Response

from quel_dagster.sandbox.drawing import PictureRequest, draw
from quel_dagster.sandbox.gemini_requests import Problem, Wanted
from quel_dagster.sandbox.gemini_state import Behaviour, Rule

#: size → side of a picture, relative to 1K
_SCALES = {"512": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}
#: tokens of a reference picture, and of the thoughts
_REFERENCE_TOKENS = 1120
_THOUGHT_TOKENS = 210
_DRAFT = b'{"inlineData":{"mimeType":"image/png","data":"ZHJhZnQ="},"thought":true},'
_THOUGHTS = b'{"text":"The user wants a picture.","thought":true},' + _DRAFT
_WORDS = b'{"text":"Here is your picture."},'


def drawn(wanted: Wanted) -> bytes:
    """Return the picture that was asked for, as base64 of a PNG."""
    picture = draw(wanted.picture)
    scale = _SCALES.get(wanted.size, 1.0)
    if scale != 1.0:
        with Image.open(io.BytesIO(picture)) as image:
            larger = image.resize((round(image.width * scale), round(image.height * scale)))
        out = io.BytesIO()
        larger.save(out, "PNG", compress_level=1)
        picture = out.getvalue()
    return base64.b64encode(picture)


def example(ratio: str) -> bytes:
    """Return one picture for all requests of this ratio, as base64 of a PNG."""
    return base64.b64encode(draw(PictureRequest(text="The same picture for all.", references=(), aspect_ratio=ratio)))


def good_answer(picture: bytes, wanted: Wanted, *, words: bool = False) -> bytes:
    """Return the body of a 200 with a picture; a thinking model's drafts come before it."""
    thoughts = _THOUGHTS if wanted.thinks or words else b""
    part = b'{"inlineData":{"mimeType":"image/png","data":"' + picture + b'"}}'
    return (
        b'{"candidates":[{"content":{"role":"model","parts":['
        + thoughts
        + (_WORDS if words else b"")
        + part
        + b']},"finishReason":"STOP","index":0}],"usageMetadata":'
        + json.dumps(usage_of(wanted)).encode()
        + b',"modelVersion":"stand-in","responseId":"stand-in"}'
    )


def usage_of(wanted: Wanted) -> dict[str, Any]:
    """Return `usageMetadata` of an answer with a picture."""
    images = wanted.kinds.count("image") * _REFERENCE_TOKENS
    words = len(wanted.text) // 4
    tokens = wanted.model.sizes.get(wanted.size, 1120) if wanted.model else 1120
    thoughts = _THOUGHT_TOKENS if wanted.thinks else 0
    usage: dict[str, Any] = {
        "promptTokenCount": images + words,
        "candidatesTokenCount": tokens,
        "totalTokenCount": images + words + tokens + thoughts,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": words},
            *([{"modality": "IMAGE", "tokenCount": images}] if images else []),
        ],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": tokens}],
    }
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    return usage


def error_answer(
    code: int,
    status: str,
    message: str,
    *,
    reason: str | None = None,
    retry_info: str | None = None,
    violations: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error in Google's format."""
    details: list[dict[str, Any]] = []
    if reason:
        details.append(
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}
        )
    if violations:
        details.append(
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{"description": violation} for violation in violations],
            }
        )
    if retry_info:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": retry_info})
    body: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        body["details"] = details
    return JSONResponse({"error": body}, status_code=code, headers=headers)


def refusal(problem: Problem) -> Response:
    """Return the answer to a request that Google would refuse."""
    return error_answer(problem.code, problem.status, problem.message, violations=problem.violations)


def _retry_header(rule: Rule) -> dict[str, str]:
    return {"retry-after": rule.retry_after} if rule.retry_after is not None else {}


def _json(document: Any) -> Callable[[Rule], Response]:
    return lambda _rule: JSONResponse(document)


def _candidate(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 20, "totalTokenCount": 30},
        "modelVersion": "stand-in",
    }


def _unfinished(reason: str, message: str) -> Callable[[Rule], Response]:
    return _json(
        {
            "candidates": [{"finishReason": reason, "finishMessage": message, "index": 0}],
            "usageMetadata": {"promptTokenCount": 10, "totalTokenCount": 10},
        }
    )


FIXED_ANSWERS: Mapping[Behaviour, Callable[[Rule], Response]] = {
    Behaviour.RAW: lambda rule: JSONResponse(rule.body, status_code=rule.status, headers=_retry_header(rule)),
    Behaviour.RATE_LIMITED: lambda rule: error_answer(
        429,
        "RESOURCE_EXHAUSTED",
        "Resource has been exhausted (e.g. check quota).",
        retry_info=rule.retry_info,
        headers=_retry_header(rule),
    ),
    Behaviour.SERVER_ERROR: lambda _: error_answer(500, "INTERNAL", "An internal error has occurred."),
    Behaviour.UNAVAILABLE: lambda rule: error_answer(
        503, "UNAVAILABLE", "The model is overloaded. Please try again later.", headers=_retry_header(rule)
    ),
    Behaviour.FORBIDDEN: lambda rule: error_answer(
        403, "PERMISSION_DENIED", rule.message or "The caller does not have permission."
    ),
    Behaviour.INVALID_ARGUMENT: lambda rule: error_answer(
        400,
        "INVALID_ARGUMENT",
        rule.message or "The input token count exceeds the maximum number of tokens allowed.",
    ),
    Behaviour.BAD_KEY: lambda _: error_answer(
        400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID"
    ),
    Behaviour.NOT_FOUND: lambda _: error_answer(404, "NOT_FOUND", "The model is not found for API version v1beta."),
    Behaviour.REDIRECT: lambda _: Response(status_code=302, headers={"location": "/elsewhere"}),
    Behaviour.NOT_JSON: lambda _: Response("<html><body>502 Bad Gateway</body></html>", media_type="text/html"),
    Behaviour.WRONG_SHAPE: _json({"candidates": "none"}),
    Behaviour.EMPTY: _json({}),
    Behaviour.NO_PICTURE: _json(
        _candidate(
            {
                "inlineData": {
                    "mimeType": "image/png",
                    "data": base64.b64encode(b"these bytes are no picture" * 40).decode(),
                }
            }
        )
    ),
    Behaviour.ZERO_BYTES: _json(_candidate({"inlineData": {"mimeType": "image/png", "data": ""}})),
    Behaviour.TEXT_ONLY: _json(_candidate({"text": "I cannot draw this, but here is what it would look like: …"})),
    Behaviour.SAFETY_BLOCK: _json(
        {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": {"promptTokenCount": 10, "totalTokenCount": 10},
        }
    ),
    Behaviour.IMAGE_SAFETY: _unfinished(
        "IMAGE_SAFETY", "Unable to show the generated image. The image was filtered out by a safety policy."
    ),
    Behaviour.NO_IMAGE: _unfinished("NO_IMAGE", "Unable to generate the image. Please try again."),
}
