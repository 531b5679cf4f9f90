"""Gemini's answer, read from the body as it came: the client library drops `finishMessage`.

The picture is the last inline image that is no thought; with thoughts alone, the last of those (domain.md §6).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any

from quel_dagster.adapters.gemini.excerpts import excerpt
from quel_dagster.errors import GeminiBadAnswerError, GeminiNoPictureError, GeminiRefusedError
from quel_dagster.jobs.models import Usage

#: finish reasons that the same request meets again
_BLOCKED = frozenset(
    {
        "SAFETY",
        "IMAGE_SAFETY",
        "PROHIBITED_CONTENT",
        "IMAGE_PROHIBITED_CONTENT",
        "BLOCKLIST",
        "SPII",
        "RECITATION",
        "IMAGE_RECITATION",
        "LANGUAGE",
        "ESCALATION",
        "MODEL_ARMOR",
    }
)
_REMEDY = "change the prompt or the reference pictures."


class Answer:
    """The body of a 200."""

    def __init__(self, body: str | bytes | None, *, secret: str = "") -> None:
        """
        Raises:
            GeminiBadAnswerError: the body is no JSON object.
        """
        self._secret = secret
        try:
            document = json.loads(body) if body else {}
        except ValueError as error:
            raise GeminiBadAnswerError(
                f"Gemini's answer was broken: not the JSON that was expected ({type(error).__name__})."
            ) from None
        if not isinstance(document, dict):
            raise GeminiBadAnswerError("Gemini's answer was broken: not the JSON that was expected (no object).")
        self._document: Mapping[str, Any] = document

    @property
    def usage(self) -> Usage:
        """Return the tokens that Google bills for this answer; zeros where it names none."""
        usage = _mapping(self._document.get("usageMetadata"))
        out = _count(usage.get("candidatesTokenCount"))
        details = [_mapping(item) for item in _list(usage.get("candidatesTokensDetails"))]
        image = sum(_count(item.get("tokenCount")) for item in details if item.get("modality") == "IMAGE")
        if not details and any(True for _ in self._images()):
            image = out  # older models name no modalities: all that they say is the picture
        return Usage(
            input=_count(usage.get("promptTokenCount")),
            image=image,
            text=max(0, out - image) + _count(usage.get("thoughtsTokenCount")),
        )

    @property
    def retirement(self) -> date | None:
        """Return the day on which Google says that this model is retired; None where it names none."""
        status = _mapping(self._document.get("modelStatus"))
        try:
            return datetime.fromisoformat(str(status.get("retirementTime"))).date()
        except ValueError:
            return None

    def picture(self) -> bytes:
        """Return the picture's bytes.

        Raises:
            GeminiRefusedError: the prompt or the picture was blocked, with a named reason.
            GeminiNoPictureError: words, or nothing, in place of a picture.
            GeminiBadAnswerError: the answer is broken.
        """
        self._check_prompt()
        candidates = _list(self._document.get("candidates"))
        if not candidates:
            raise GeminiBadAnswerError("Gemini's answer was broken: it holds no candidate.")
        images = list(self._images())
        final = [data for data, is_thought in images if not is_thought]
        if images:
            return self._decoded(final[-1] if final else images[-1][0])
        self._check_other_parts()
        raise self._without_picture(_mapping(candidates[0]))

    def _check_prompt(self) -> None:
        feedback = _mapping(self._document.get("promptFeedback"))
        if feedback.get("blockReason"):
            reason = self._excerpt(feedback["blockReason"])
            said = self._excerpt(feedback.get("blockReasonMessage"))
            raise GeminiRefusedError(f"Gemini blocked the request ({reason}{f': {said}' if said else ''}); {_REMEDY}")

    def _check_other_parts(self) -> None:
        inline = [_mapping(part.get("inlineData")) for part in self._parts() if part.get("inlineData")]
        if not inline:
            return
        kinds = ", ".join(
            sorted({self._excerpt(blob.get("mimeType")) or "no type" for blob in inline if blob.get("data")})
        )
        raise GeminiBadAnswerError(
            f"Gemini's answer was broken: {kinds} instead of a picture."
            if kinds
            else "Gemini's answer was broken: a picture of zero bytes."
        )

    def _without_picture(self, candidate: Mapping[str, Any]) -> GeminiRefusedError | GeminiNoPictureError:
        reason = self._excerpt(candidate.get("finishReason")) or "none given"
        words = self._excerpt(
            " ".join(str(part["text"]) for part in self._parts() if part.get("text") and not part.get("thought"))
        )
        said = "; ".join(part for part in (self._excerpt(candidate.get("finishMessage")), words) if part)
        if reason in _BLOCKED:
            return GeminiRefusedError(
                f"Gemini declined to make this picture ({reason}{f': {said}' if said else ''}); {_REMEDY}"
            )
        if words:
            return GeminiNoPictureError(f"Gemini answered with words instead of a picture ({reason}): “{said}”")
        return GeminiNoPictureError(
            f"Gemini's answer holds no picture (finish reason {reason}{f': {said}' if said else ''})."
        )

    def _images(self) -> Iterator[tuple[str, bool]]:
        """Yield the base64 of each inline image, and whether it is a thought."""
        for part in self._parts():
            blob = _mapping(part.get("inlineData"))
            kind = str(blob.get("mimeType") or "image/").lower()
            if blob.get("data") and isinstance(blob["data"], str) and kind.startswith("image/"):
                yield blob["data"], bool(part.get("thought"))

    def _parts(self) -> Iterator[Mapping[str, Any]]:
        for candidate in _list(self._document.get("candidates")):
            content = _mapping(_mapping(candidate).get("content"))
            yield from (_mapping(part) for part in _list(content.get("parts")))

    @staticmethod
    def _decoded(data: str) -> bytes:
        try:
            return base64.b64decode(data.replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:
            raise GeminiBadAnswerError("Gemini's answer was broken: its picture is not base64.") from None

    def _excerpt(self, said: object) -> str:
        return excerpt(said, secret=self._secret)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
