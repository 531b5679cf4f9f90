"""Answers as Google and its users report them, one row a shape: what becomes of the picture, after how many calls.

The bodies are written by hand after the documentation and the public reports named in each row.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PIL import Image

from quel_dagster.errors import (
    GeminiBadAnswerError,
    GeminiError,
    GeminiModelError,
    GeminiNoPictureError,
    GeminiQuotaSpentError,
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiRejectedError,
)
from quel_dagster.jobs.models import DEFAULT_MODEL, Usage, model_of
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.integration.gemini.conftest import Ask, client_for, observing

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCS = "https://ai.google.dev/gemini-api/docs/image-generation"
API = "https://ai.google.dev/api/generate-content"
QUOTA = "https://github.com/google-gemini/gemini-cli/issues/8437"
LIMIT_0 = "https://github.com/googleapis/js-genai/issues/1322"
WORDS = "https://github.com/lobehub/lobe-chat/issues/9018"
THOUGHT = "Lixpi issue 136"
UNKNOWN_NAME = "https://github.com/router-for-me/CLIProxyAPI/issues/1089"
UNABLE = "https://github.com/google-gemini/gemini-cli/issues/5064"


def png(width: int = 40, height: int = 30) -> str:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def image(width: int = 40, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": png(width)}, **more}


def answer(*parts: dict[str, Any], reason: str = "STOP", **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": reason, **more}]}


def error(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def violations(*ids: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [
            {"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests", "quotaId": quota}
            for quota in ids
        ],
    }


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36s"}
LONG_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/usage?tab=rate-limit. * Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0, model: gemini-nano-banana-2.1"
)


@dataclass(frozen=True)
class Made:
    """A shape that gives a picture at once, and the width of the right one."""

    name: str
    source: str
    body: dict[str, Any]
    width: int
    usage: Usage | None = None


@dataclass(frozen=True)
class Failed:
    """A shape that gives no picture: the error, the words in it, and the calls before it is given up."""

    name: str
    source: str
    body: Any
    kind: type[GeminiError]
    calls: int
    words: tuple[str, ...] = ()
    status: int = 200
    not_words: tuple[str, ...] = field(default=())


MADE = [
    Made("one_picture", DOCS, answer(image(40)), 40),
    Made("words_before", DOCS, answer({"text": "Here it is:"}, image(40)), 40),
    Made("drafts_before", DOCS, answer({"text": "…", "thought": True}, image(20, thought=True), image(40)), 40),
    Made("drafts_after", DOCS, answer(image(40), image(20, thought=True)), 40),
    Made("two_pictures_the_last", DOCS, answer(image(20), image(40)), 40),
    Made("thoughts_alone_the_last", THOUGHT, answer(image(20, thought=True), image(40, thought=True)), 40),
    Made("signature", DOCS, answer(image(40, thoughtSignature="c2ln")), 40),
    Made(
        "usage_by_modality",
        API,
        {
            **answer(image(40)),
            "usageMetadata": {
                "promptTokenCount": 1300,
                "candidatesTokenCount": 1130,
                "totalTokenCount": 2630,
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
                "thoughtsTokenCount": 200,
            },
        },
        40,
        Usage(input=1300, image=1120, text=210),
    ),
    Made(
        "usage_without_modality",
        API,
        {**answer(image(40)), "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 1290}},
        40,
        Usage(input=20, image=1290),
    ),
    Made("usage_of_nonsense", API, {**answer(image(40)), "usageMetadata": {"promptTokenCount": "many"}}, 40, Usage()),
]

FAILED = [
    Failed("words", WORDS, answer({"text": "Sure! Here is the image:"}), GeminiNoPictureError, 3, ("“Sure!", "STOP")),
    Failed(
        "no_image_with_words",
        WORDS,
        answer({"text": "I can draw it if you say more."}, reason="NO_IMAGE"),
        GeminiNoPictureError,
        3,
        ("NO_IMAGE", "if you say more"),
    ),
    Failed(
        "no_image",
        API,
        {"candidates": [{"finishReason": "NO_IMAGE", "finishMessage": "Unable to generate the image."}]},
        GeminiNoPictureError,
        3,
        ("NO_IMAGE", "Unable to generate the image."),
    ),
    Failed("other", API, {"candidates": [{"finishReason": "IMAGE_OTHER"}]}, GeminiNoPictureError, 3, ("IMAGE_OTHER",)),
    Failed(
        "image_safety",
        API,
        {"candidates": [{"finishReason": "IMAGE_SAFETY", "finishMessage": "It was filtered out."}]},
        GeminiRefusedError,
        1,
        ("IMAGE_SAFETY", "It was filtered out."),
    ),
    Failed(
        "prohibited_with_words",
        API,
        answer({"text": "I cannot."}, reason="PROHIBITED_CONTENT"),
        GeminiRefusedError,
        1,
        ("PROHIBITED_CONTENT", "I cannot."),
    ),
    Failed("recitation", API, {"candidates": [{"finishReason": "IMAGE_RECITATION"}]}, GeminiRefusedError, 1),
    Failed(
        "prompt_blocked",
        API,
        {"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "The prompt was blocked."}},
        GeminiRefusedError,
        1,
        ("OTHER", "The prompt was blocked."),
    ),
    Failed(
        "picture_of_text",
        DOCS,
        answer({"inlineData": {"mimeType": "text/plain", "data": "eA=="}}),
        GeminiBadAnswerError,
        4,
        ("text/plain",),
    ),
    Failed("no_base64", API, answer({"inlineData": {"mimeType": "image/png", "data": "*"}}), GeminiBadAnswerError, 4),
    Failed("list", API, [], GeminiBadAnswerError, 4),
    Failed("null", API, None, GeminiBadAnswerError, 4),
    Failed("parts_of_nonsense", API, {"candidates": [None, {"content": "x"}]}, GeminiNoPictureError, 3),
    # --- quota
    Failed(
        "quota_of_the_minute",
        QUOTA,
        error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", violations("GenerateRequestsPerMinutePerProjectPerModel")),
        GeminiRateLimitedError,
        4,
        ("Raise the quota",),
        429,
    ),
    Failed(
        "limit_0",
        LIMIT_0,
        error(429, "RESOURCE_EXHAUSTED", LONG_QUOTA, RETRY),
        GeminiQuotaSpentError,
        1,
        ("limit: 0", "billing"),
        429,
    ),
    Failed(
        "quota_of_the_day",
        QUOTA,
        error(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota.",
            violations("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
            RETRY,
        ),
        GeminiQuotaSpentError,
        1,
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "next day"),
        429,
    ),
    Failed(
        "prepayment",
        "https://ai.google.dev/gemini-api/docs/billing",
        error(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted. Please top up.", RETRY),
        GeminiQuotaSpentError,
        1,
        ("prepayment credits are depleted", "billing"),
        429,
    ),
    Failed(
        "spending_cap",
        "https://ai.google.dev/gemini-api/docs/billing",
        error(429, "RESOURCE_EXHAUSTED", "Your project has exceeded its monthly spending cap.", RETRY),
        GeminiQuotaSpentError,
        1,
        ("monthly spending cap",),
        429,
    ),
    # --- the model and its fields
    Failed(
        "modalities",
        API,
        error(400, "INVALID_ARGUMENT", "Model does not support the requested response modalities: image"),
        GeminiModelError,
        1,
        ("GEMINI_MODEL", DEFAULT_MODEL),
        400,
        ("change the prompt",),
    ),
    Failed(
        "unknown_name",
        UNKNOWN_NAME,
        error(
            400,
            "INVALID_ARGUMENT",
            "Invalid JSON payload received. Unknown name \"imageConfig\" at 'generation_config': Cannot find field.",
        ),
        GeminiModelError,
        1,
        ("GEMINI_MODEL",),
        400,
        ("change the prompt",),
    ),
    Failed(
        "no_such_model",
        API,
        error(
            404,
            "NOT_FOUND",
            "models/x is not found for API version v1beta, or is not supported for "
            "generateContent. Call ListModels to see the list of available models.",
        ),
        GeminiModelError,
        1,
        ("GEMINI_MODEL", "docs/models.md"),
        404,
    ),
    # --- the request
    Failed(
        "unable_to_process",
        UNABLE,
        error(400, "INVALID_ARGUMENT", "Unable to process input image. Please retry or report in the forum."),
        GeminiRefusedError,
        2,
        ("Unable to process input image", "reference pictures"),
        400,
    ),
    Failed(
        "too_many_tokens",
        API,
        error(400, "INVALID_ARGUMENT", "The input token count exceeds the maximum number of tokens allowed 65536."),
        GeminiRefusedError,
        1,
        ("change the prompt",),
        400,
    ),
    # --- access
    Failed(
        "suspended",
        API,
        error(403, "PERMISSION_DENIED", "Consumer 'api_key:AIzaSyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' has been suspended."),
        GeminiRejectedError,
        1,
        ("GEMINI_API_KEY",),
        403,
        ("AIzaSy",),
    ),
    Failed(
        "region",
        API,
        error(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
        GeminiRejectedError,
        1,
        ("User location",),
        400,
    ),
]


async def width_of(picture: bytes) -> int:
    with Image.open(io.BytesIO(picture)) as opened:
        return opened.width


@pytest.mark.parametrize("shape", MADE, ids=lambda shape: shape.name)
async def test_shape_with_a_picture_gives_the_right_one(shape: Made, server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.RAW, body=shape.body))
    made = await ask(accept=width_of)
    assert (made.result, made.spent.calls) == (shape.width, 1)
    if shape.usage is not None:
        assert made.spent.usage == shape.usage
        assert made.spent.cost == pytest.approx(model_of(DEFAULT_MODEL).cost(shape.usage))


@pytest.mark.parametrize("shape", FAILED, ids=lambda shape: shape.name)
async def test_shape_without_a_picture_is_named_after_the_right_calls(shape: Failed, server: GeminiStandIn) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.RAW, status=shape.status, body=shape.body))
    client = client_for(server.url, attempts=4)
    with pytest.raises(GeminiError) as caught:
        await client.generate(text="x", parts=[], aspect_ratio="4:3", accept=width_of)
    await client.aclose()
    message = str(caught.value)
    assert type(caught.value) is shape.kind, message
    assert len(server.state.requests) == shape.calls, message
    for words in shape.words:
        assert words in message
    for words in shape.not_words:
        assert words not in message
    assert message.count("(tried") == (1 if shape.calls > 1 else 0)


@pytest.mark.parametrize(
    "shape", [shape for shape in FAILED if shape.kind is GeminiNoPictureError], ids=lambda shape: shape.name
)
async def test_shape_without_a_picture_twice_then_a_picture_is_made(
    shape: Failed, server: GeminiStandIn, ask: Ask
) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.RAW, body=shape.body, times=2))
    made = await ask()
    assert (made.result, made.spent.calls) == ((1152, 896), 3)


async def test_unable_to_process_once_then_a_picture_is_made(server: GeminiStandIn, ask: Ask) -> None:
    body = error(400, "INVALID_ARGUMENT", "Unable to process input image. Please retry or report.")
    server.state.add_rules(Rule(behaviour=Behaviour.RAW, status=400, body=body, times=1))
    assert (await ask()).spent.calls == 2


async def test_decisive_words_behind_a_long_message_are_kept(server: GeminiStandIn, ask: Ask) -> None:
    body = error(429, "RESOURCE_EXHAUSTED", "x " * 300 + "limit: 0")
    server.state.add_rules(Rule(behaviour=Behaviour.RAW, status=429, body=body))
    with pytest.raises(GeminiQuotaSpentError, match="limit: 0"):
        await ask()


# --- another shape than asked for ----------------------------------------------------------------------


async def pixels(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture)) as opened:
        return opened.size


async def test_square_for_a_wide_order_is_asked_again_once(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.SQUARE, times=1))
    notes: list[str] = []
    made = await ask(
        aspect_ratio="16:9", accept=pixels, size_of=lambda size: size, observer=observing(noted=notes.append)
    )
    assert made.result[0] > made.result[1]
    assert made.spent.calls == 2
    assert notes == ["Gemini made 1024×1024 pixels, not 16:9; asked again once."]
    assert made.spent.usage.image == 2 * 1120, "both pictures are paid for"


async def test_square_twice_is_kept_with_a_word(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.SQUARE))
    notes: list[str] = []
    made = await ask(
        aspect_ratio="16:9", accept=pixels, size_of=lambda size: size, observer=observing(noted=notes.append)
    )
    assert (made.result, made.spent.calls, len(notes)) == ((1024, 1024), 2, 2)


async def test_square_then_an_error_the_square_is_kept(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.SQUARE, times=1), Rule(behaviour=Behaviour.SAFETY_BLOCK))
    made = await ask(aspect_ratio="16:9", accept=pixels, size_of=lambda size: size)
    assert (made.result, made.spent.calls) == ((1024, 1024), 2)


@pytest.mark.parametrize(("days", "notes"), [(30, 1), (400, 0), (None, 0)])
async def test_model_that_google_retires_soon_is_noted(
    days: int | None, notes: int, server: GeminiStandIn, ask: Ask
) -> None:
    """`modelStatus` of the answer (ModelStatus of google-genai): the date may be nearer than that of the table."""
    day = datetime.now(UTC) + timedelta(days=days or 0)
    status = {"modelStage": "LEGACY" if days else "STABLE"}
    if days:
        status["retirementTime"] = f"{day:%Y-%m-%dT%H:%M:%SZ}"
    server.state.add_rules(Rule(behaviour=Behaviour.RAW, status=200, body={**answer(image()), "modelStatus": status}))
    said: list[str] = []
    await ask(observer=observing(noted=said.append))
    assert len(said) == notes
    assert all(f"Google retires {DEFAULT_MODEL} on {day:%Y-%m-%d}" in note for note in said)


# --- fallback models -------------------------------------------------------------------------------------


async def test_retired_model_the_next_one_is_asked_and_named(server: GeminiStandIn, ask: Ask) -> None:
    notes: list[str] = []
    models = [model_of("gemini-2.5-flash-image"), model_of("gemini-3-pro-image")]
    made = await ask(models=models, observer=observing(noted=notes.append))
    assert made.spent.model == "gemini-3-pro-image"
    assert notes[0].startswith("gemini-3-pro-image is asked in place of gemini-2.5-flash-image: Gemini does not know")


async def test_overloaded_model_the_next_one_is_asked(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE, times=3))
    made = await ask(models=[model_of(DEFAULT_MODEL), model_of("gemini-3-pro-image")])
    assert (made.spent.model, made.spent.calls) == ("gemini-3-pro-image", 4)
    assert [request.model for request in server.state.requests] == [DEFAULT_MODEL] * 3 + ["gemini-3-pro-image"]


@pytest.mark.parametrize(
    ("model", "size", "thinking", "config"),
    [
        (DEFAULT_MODEL, "2K", "high", {"imageSize": "2K", "level": "HIGH"}),
        (DEFAULT_MODEL, "512", None, {"imageSize": "1K"}),
        ("gemini-3-pro-image", "4K", "high", {"imageSize": "4K"}),
        ("gemini-3.1-flash-lite-image", "4K", "medium", {"imageSize": "1K"}),
    ],
)
async def test_request_holds_only_what_the_model_takes(
    model: str, size: str, thinking: str | None, config: dict[str, str], server: GeminiStandIn
) -> None:
    client = client_for(server.url, models=[model_of(model)], size=size, thinking=thinking)
    made = await client.generate(text="x", parts=[], aspect_ratio="16:9", accept=pixels)
    await client.aclose()
    (request,) = server.state.requests
    assert request.outcome == "ok", "the server is as strict as Google's"
    assert request.config["imageConfig"] == {"aspectRatio": "16:9", "imageSize": config["imageSize"]}
    assert (request.config.get("thinkingConfig") or {}).get("thinkingLevel") == config.get("level")
    assert "temperature" not in request.config
    assert made == {"1K": (1344, 768), "2K": (2688, 1536), "4K": (5376, 3072)}[config["imageSize"]]
