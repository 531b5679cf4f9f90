"""The stand-in server: its control API, its quota, its process."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from quel_dagster.sandbox.gemini_server import GeminiStandIn, GenerateContent
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.integration.gemini.conftest import API_KEY, reference

MODEL = "/v1beta/models/gemini-nano-banana-2.1:generateContent"


@pytest.fixture(scope="module")
def plain_http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=20, headers={"x-goog-api-key": API_KEY}) as client:
        yield client


@pytest.fixture
def http(plain_http: httpx2.Client, server: GeminiStandIn) -> httpx2.Client:
    plain_http.base_url = server.url
    return plain_http


def body(text: str = "A picture.", **changes: Any) -> dict[str, Any]:
    data = reference().base64.replace("+", "-").replace("/", "_")  # both alphabets of base64 are accepted
    return {
        "contents": [{"parts": [{"inlineData": {"data": data, "mime_type": "image/png"}}, {"text": text}]}],
        "generationConfig": {"imageConfig": {"aspectRatio": "3:4"}},
        **changes,
    }


def test_it_answers_as_the_api_does(http: httpx2.Client) -> None:
    for version in ("v1", "v1beta"):
        answer = http.post(MODEL.replace("v1beta", version), json=body())
        assert answer.status_code == 200
        [candidate] = answer.json()["candidates"]
        inline = candidate["content"]["parts"][-1]["inlineData"]
        assert (candidate["finishReason"], inline["mimeType"]) == ("STOP", "image/png")
        with Image.open(io.BytesIO(base64.b64decode(inline["data"]))) as image:
            assert image.size == (896, 1152)
    assert http.get("/healthz").json() == {"ok": True}


async def test_half_a_request_is_none(server: GeminiStandIn) -> None:
    """A client was killed, or its call cancelled, while it sent its references."""
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pytest.fail(f"answered with {message}")

    await GenerateContent(server.state)({"type": "http", "method": "POST", "headers": []}, receive, send)
    assert server.state.requests == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "Invalid JSON"),
        (b'{"contents": [{"parts": [{"inlineData": {"data": "*", "mime_type": "image/png"}}]}]}', "Invalid JSON"),
        (b'{"contents": [{"parts": [{"inlineData": {"data": "", "mime_type": "text/html"}}]}]}', "MIME"),
        (b'{"contents": [], "generationConfig": {"imageConfig": {"aspectRatio": "7:1"}}}', "aspect_ratio"),
    ],
)
def test_it_refuses_what_the_api_would_refuse(content: bytes, words: str, http: httpx2.Client) -> None:
    answer = http.post(MODEL, content=content)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert words in answer.json()["error"]["message"]


def test_it_refuses_another_key_and_another_version(http: httpx2.Client) -> None:
    assert http.post(MODEL, json=body(), headers={"x-goog-api-key": "wrong"}).status_code == 403
    assert http.post(MODEL.replace("v1beta", "v2"), json=body()).status_code == 404
    assert [entry["outcome"] for entry in http.get("/control/requests").json()["requests"]] == ["403", "404"]


def test_rules_arrive_over_http(http: httpx2.Client) -> None:
    rules = [
        {"behaviour": "503", "match": "DUSK", "times": 1},
        {"behaviour": "429", "times": 1, "retry_after": "7", "retry_info": "6.5s"},
    ]
    assert http.post("/control/rules", json=rules).status_code == 200
    answers = [http.post(MODEL, json=body(text)) for text in ("at noon", "at dusk", "at dusk")]
    assert [answer.status_code for answer in answers] == [429, 503, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert answers[0].json()["error"]["details"][0]["retryDelay"] == "6.5s"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("rules", b'{"behaviour": "nonsense"}'),
        ("rules", b"{"),
        ("latency", b'{"seconds": -1}'),
        ("quota", b'{"requests": "x"}'),
    ],
)
def test_invalid_request_is_a_400_with_the_reason(path: str, content: bytes, http: httpx2.Client) -> None:
    assert http.post(f"/control/{path}", content=content).status_code == 400


def test_a_share_of_the_requests_is_drawn_with_a_seed(server: GeminiStandIn, http: httpx2.Client) -> None:
    def outcomes(seed: int) -> list[int]:
        server.state.reset()
        server.state.add_rules(Rule(behaviour=Behaviour.SERVER_ERROR, probability=0.5, seed=seed))
        return [http.post(MODEL, json=body()).status_code for _ in range(12)]

    first = outcomes(1)
    assert set(first) == {200, 500}
    assert outcomes(1) == first
    assert outcomes(2) != first


def test_above_the_quota_it_says_when_to_come_back(http: httpx2.Client) -> None:
    http.post("/control/quota", json={"requests": 2, "seconds": 0.6})
    answers = [http.post(MODEL, json=body()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    delay = float(answers[2].json()["error"]["details"][0]["retryDelay"].removesuffix("s"))
    assert 0 < delay <= 0.6
    threading.Event().wait(delay)
    assert http.post(MODEL, json=body()).status_code == 200


def test_the_log_tells_what_was_asked(http: httpx2.Client) -> None:
    http.post(MODEL, json=body("First\n  words"))
    http.post(MODEL, json=body("Others"))
    report = http.get("/control/requests").json()
    first, second = report["requests"]
    assert (report["total"], report["in_flight"]) == (2, 0)
    assert (first["id"], first["excerpt"], first["parts"], first["aspect_ratio"]) == (1, "First words", 1, "3:4")
    assert first["outcome"] == "ok" and first["seconds"] > 0
    assert first["digest"] != second["digest"]
    assert first["time"] <= second["time"]
    assert [entry["id"] for entry in http.get("/control/requests?since=1").json()["requests"]] == [2]


def test_latency_lets_requests_overlap(http: httpx2.Client) -> None:
    http.post("/control/latency", json={"seconds": 0.4})
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(http.post, MODEL, json=body()) for _ in range(3)]
    assert all(answer.result().elapsed.total_seconds() >= 0.4 for answer in answers)
    assert http.get("/control/requests").json()["max_in_flight"] == 3


def test_reset_forgets_everything(http: httpx2.Client) -> None:
    http.post("/control/rules", json={"behaviour": "500"})
    http.post("/control/quota", json={"requests": 0})
    http.post("/control/latency", json={"seconds": 30})
    http.post("/control/reset")
    assert http.post(MODEL, json=body()).status_code == 200
    assert http.get("/control/requests").json()["total"] == 1


@pytest.mark.parametrize("before", [("latency", {"seconds": 60}), ("rules", {"behaviour": "slow", "seconds": 60})])
def test_reset_lets_requests_go_that_are_under_way(http: httpx2.Client, before: tuple[str, object]) -> None:
    http.post(f"/control/{before[0]}", json=before[1])
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        answer = threads.submit(http.post, MODEL, json=body())
        while not http.get("/control/requests").json()["in_flight"]:
            assert not answer.done()
        http.post("/control/reset")
        assert answer.result().status_code == 200
        assert answer.result().elapsed.total_seconds() < 30


def test_canned_pictures_are_the_same_for_all(http: httpx2.Client) -> None:
    with GeminiStandIn(canned=True) as canned:
        answers = [http.post(canned.url + MODEL, json=body(text)).content for text in ("one", "two")]
        assert canned.state.requests[0].parts == 1
    assert answers[0] == answers[1]
    drawn = [http.post(MODEL, json=body(text)).content for text in ("one", "two")]
    assert drawn[0] != drawn[1]


def test_it_stops_while_requests_hang() -> None:
    with GeminiStandIn() as server:
        server.state.add_rules(Rule(behaviour=Behaviour.HANG))
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            hanging = threads.submit(httpx2.post, server.url + MODEL, json=body(), timeout=20)
            server.state.wait_until(lambda state: state.in_flight == 1)
            server.__exit__(None, None, None)
            assert isinstance(hanging.exception(timeout=10), httpx2.TransportError)
    assert server.state.in_flight == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_its_process_ends_cleanly_while_requests_hang(number: signal.Signals, http: httpx2.Client) -> None:
    command = [sys.executable, "-m", "quel_dagster.sandbox.gemini_server", "--port", "0", "--api-key", API_KEY]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            url = process.stdout.readline().split()[-1]
            http.post(url + "/control/rules", json={"behaviour": "hang"})
            with concurrent.futures.ThreadPoolExecutor(1) as threads:
                hanging = threads.submit(http.post, url + MODEL, json=body())
                while http.get(url + "/control/requests").json()["in_flight"] == 0:
                    threading.Event().wait(0.01)
                process.send_signal(number)
                assert process.wait(10) == 0
                assert isinstance(hanging.exception(timeout=10), httpx2.TransportError)
            assert process.stderr.read() == ""
        finally:
            process.kill()


# --- as strict as Google -----------------------------------------------------------------------------------


def config(**more: Any) -> dict[str, Any]:
    return {"generationConfig": {"responseModalities": ["IMAGE"], **more}}


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("gemini-nano-banana-2.1", {"colour": "red"}, 'Unknown name "colour": Cannot find field.'),
        ("gemini-nano-banana-2.1", config(aspectRatio="4:1"), "Unknown name \"aspectRatio\" at 'generation_config'"),
        (
            "gemini-nano-banana-2.1",
            config(imageConfig={"ratio": "4:1"}),
            "Unknown name \"ratio\" at 'generation_config.image_config'",
        ),
        ("gemini-nano-banana-2.1", config(imageConfig={"imageSize": "512"}), "image_size"),
        ("gemini-3-pro-image", config(imageConfig={"aspectRatio": "4:1"}), "aspect_ratio must be one of"),
        ("gemini-3-pro-image", config(thinkingConfig={"thinkingLevel": "HIGH"}), "Thinking level"),
        ("gemini-3.1-flash-lite-image", config(imageConfig={"imageSize": "2K"}), "image_size"),
        ("gemini-3.8-flash", config(), "requested response modalities"),
    ],
)
def test_what_the_model_does_not_take_is_refused(
    model: str, changes: dict[str, Any], words: str, http: httpx2.Client
) -> None:
    answer = http.post(MODEL.replace("gemini-nano-banana-2.1", model), json=body(**changes))
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert words in answer.json()["error"]["message"]


def test_fifteen_references_are_refused(http: httpx2.Client) -> None:
    content = body()
    content["contents"][0]["parts"] = [content["contents"][0]["parts"][0]] * 15
    assert "At most 14" in http.post(MODEL, json=content).json()["error"]["message"]


@pytest.mark.parametrize("model", ["gemini-2.5-flash-image", "gemini-3.1-flash-image", "no-such-model"])
def test_model_that_is_retired_or_unknown_is_404(model: str, http: httpx2.Client) -> None:
    answer = http.post(MODEL.replace("gemini-nano-banana-2.1", model), json=body())
    assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("model", "methods"),
    [
        ("gemini-nano-banana-2.1", ["generateContent", "countTokens", "batchGenerateContent"]),
        ("gemini-2.5-flash-image", ["generateContent", "countTokens", "batchGenerateContent"]),  # retired, described
        ("gemini-3.8-flash", ["generateContent", "countTokens", "createCachedContent", "batchGenerateContent"]),
        ("gemini-embedding-001", ["embedContent", "countTextTokens", "countTokens", "asyncBatchEmbedContent"]),
        ("no-such-model", None),
    ],
)
def test_model_is_described(model: str, methods: list[str] | None, http: httpx2.Client) -> None:
    answer = http.get(f"/v1beta/models/{model}")
    assert answer.status_code == (200 if methods else 404)
    assert answer.json().get("supportedGenerationMethods") == methods


@pytest.mark.parametrize(
    ("model", "status"), [("gemini-nano-banana-2.1", 200), ("gemini-2.5-flash-image", 404), ("no-such-model", 404)]
)
def test_tokens_are_counted_by_models_that_take_requests(model: str, status: int, http: httpx2.Client) -> None:
    answer = http.post(f"/v1beta/models/{model}:countTokens", json={"contents": [{"parts": [{"text": "x"}]}]})
    assert answer.status_code == status


def test_answer_of_a_thinking_model_holds_drafts_and_tokens(http: httpx2.Client) -> None:
    answer = http.post(MODEL, json=body()).json()
    parts = answer["candidates"][0]["content"]["parts"]
    assert [part.get("thought", False) for part in parts] == [True, True, False]
    usage = answer["usageMetadata"]
    assert usage["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": 1120}]
    assert usage["thoughtsTokenCount"] > 0
    assert usage["promptTokenCount"] > 1120


def test_minimal_thinking_holds_no_drafts(http: httpx2.Client) -> None:
    answer = http.post(MODEL, json=body(**config(thinkingConfig={"thinkingLevel": "MINIMAL"}))).json()
    assert len(answer["candidates"][0]["content"]["parts"]) == 1
