"""Every kind of answer gets its class of error, its retry or none, and a sentence that says what to do."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from PIL import Image

from quel_dagster.adapters.gemini import client as gemini
from quel_dagster.adapters.gemini.client import GeminiClient
from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.errors import (
    GeminiBadAnswerError,
    GeminiError,
    GeminiModelError,
    GeminiNoPictureError,
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiRejectedError,
    GeminiUnavailableError,
    PictureError,
    SettingsError,
)
from quel_dagster.jobs.models import DEFAULT_MODEL
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.settings import Settings
from tests.integration.gemini.conftest import API_KEY, Ask, client_for, observing, reference, size_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

RETRIED = {
    Behaviour.RATE_LIMITED: (GeminiRateLimitedError, "quota is used up"),
    Behaviour.SERVER_ERROR: (GeminiUnavailableError, "HTTP 500 INTERNAL"),
    Behaviour.UNAVAILABLE: (GeminiUnavailableError, "overloaded"),
    Behaviour.RESET: (GeminiUnavailableError, "connection to Gemini"),
    Behaviour.CUT: (GeminiUnavailableError, "broke before its answer was complete"),
    Behaviour.TRUNCATED_JSON: (GeminiBadAnswerError, "not the JSON"),
    Behaviour.NOT_JSON: (GeminiBadAnswerError, "not the JSON"),
    Behaviour.WRONG_SHAPE: (GeminiBadAnswerError, "no candidate"),
    Behaviour.EMPTY: (GeminiBadAnswerError, "no candidate"),
    Behaviour.WRONG_MIME: (GeminiBadAnswerError, "text/plain instead of a picture"),
    Behaviour.NO_PICTURE: (GeminiBadAnswerError, "These bytes do not decode"),
    Behaviour.ZERO_BYTES: (GeminiBadAnswerError, "zero bytes"),
    Behaviour.NO_IMAGE: (GeminiNoPictureError, "NO_IMAGE"),
    Behaviour.TEXT_ONLY: (GeminiNoPictureError, "“I cannot draw this"),
}
NOT_RETRIED = {
    Behaviour.SAFETY_BLOCK: (GeminiRefusedError, "PROHIBITED_CONTENT"),
    Behaviour.IMAGE_SAFETY: (GeminiRefusedError, "IMAGE_SAFETY"),
    Behaviour.INVALID_ARGUMENT: (GeminiRefusedError, "token count exceeds"),
    Behaviour.BAD_KEY: (GeminiRejectedError, "GEMINI_API_KEY"),
    Behaviour.FORBIDDEN: (GeminiRejectedError, "GEMINI_API_KEY"),
    Behaviour.NOT_FOUND: (GeminiModelError, "GEMINI_MODEL"),
    Behaviour.REDIRECT: (GeminiRejectedError, "redirects"),
}


class StoppedError(Exception):
    """Raised by a test's own callback to end a generation early."""


# --- the request -----------------------------------------------------------------------------------------


async def test_the_request_is_what_the_contract_says(server: GeminiStandIn, ask: Ask) -> None:
    calls: list[int] = []
    made = await ask(
        text="At dusk.",
        parts=[reference(), reference("blue")],
        aspect_ratio="9:16",
        observer=observing(calling=calls.append),
    )

    assert made.result[0] < made.result[1]
    assert (made.spent.calls, calls) == (1, [1])
    assert 0 < made.spent.calling < 10
    assert made.spent.waiting < made.spent.calling
    [request] = server.state.requests
    assert (request.version, request.model) == ("v1beta", DEFAULT_MODEL)
    assert (request.kinds, request.excerpt) == ("image image text", "At dusk.")
    assert request.config == {
        "imageConfig": {"aspectRatio": "9:16", "imageSize": "1K"},
        "responseModalities": ["IMAGE"],
    }
    assert request.more == {"store": False}


async def test_the_bytes_of_the_references_arrive_unchanged(server: GeminiStandIn, ask: Ask) -> None:
    colours = [(await ask(parts=[reference(c)], accept=_middle_colour)).result for c in ("red", "blue")]
    assert colours == [(255, 0, 0), (0, 0, 255)]


async def _middle_colour(picture: bytes) -> Any:
    with Image.open(io.BytesIO(picture)) as image:
        return image.convert("RGB").getpixel((image.width // 2, image.height // 2))


async def test_words_and_drafts_before_the_picture_are_passed_over(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.THINKING))
    made = await ask()
    assert (made.result, made.spent.calls) == ((1152, 896), 1)


# --- kinds of answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", RETRIED)
async def test_a_passing_fault_is_retried(behaviour: Behaviour, server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=behaviour, times=2))
    retries: list[tuple[int, type[GeminiError], float]] = []
    made = await ask(
        observer=observing(retrying=lambda number, error, pause: retries.append((number, type(error), pause)))
    )

    assert (made.result, made.spent.calls) == ((1152, 896), 3)
    assert [(number, kind) for number, kind, _ in retries] == [(1, RETRIED[behaviour][0]), (2, RETRIED[behaviour][0])]
    assert made.spent.waiting >= sum(pause for *_, pause in retries) > 0
    assert [request.outcome for request in server.state.requests] == [behaviour, behaviour, "ok"]


@pytest.mark.parametrize("behaviour", RETRIED)
async def test_a_lasting_fault_ends_with_its_name(behaviour: Behaviour, server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=behaviour))
    kind, words = RETRIED[behaviour]
    with pytest.raises(GeminiError) as caught:
        await ask()
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "tried 3 times" in str(caught.value)
    assert len(server.state.requests) == 3


@pytest.mark.parametrize("behaviour", NOT_RETRIED)
async def test_a_refusal_is_final(behaviour: Behaviour, server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=behaviour, times=1))
    kind, words = NOT_RETRIED[behaviour]
    with pytest.raises(GeminiError) as caught:
        await ask()
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert [request.outcome for request in server.state.requests] == [behaviour]


async def test_a_wrong_key_is_refused_by_the_server(server: GeminiStandIn, ask: Ask) -> None:
    other = client_for(server.url, api_key="another-key")
    with pytest.raises(GeminiRejectedError, match="403 PERMISSION_DENIED"):
        await ask(other)
    await other.aclose()


async def test_an_aspect_ratio_that_gemini_does_not_know_is_refused(server: GeminiStandIn, ask: Ask) -> None:
    with pytest.raises(GeminiRefusedError, match="aspect_ratio"):
        await ask(aspect_ratio="7:1")


async def test_what_accept_refuses_is_a_broken_answer(server: GeminiStandIn, ask: Ask) -> None:
    seen: list[bytes] = []

    async def second_time(picture: bytes) -> int:
        seen.append(picture)
        if len(seen) == 1:
            raise PictureError("Larger than 40 Mpx.")
        return len(picture)

    errors: list[str] = []
    made = await ask(
        accept=second_time,
        observer=observing(retrying=lambda _n, error, _p: errors.append(f"{type(error).__name__} {error}")),
    )
    assert (made.result, made.spent.calls) == (len(seen[1]), 2)
    assert errors == ["GeminiBadAnswerError Gemini's answer was broken: Larger than 40 Mpx."]


async def test_an_error_of_our_own_in_accept_is_not_retried(server: GeminiStandIn, ask: Ask) -> None:
    async def fail(_picture: bytes) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        await ask(accept=fail)
    assert len(server.state.requests) == 1


# --- pauses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [{"retry_after": "0.3"}, {"retry_info": "0.3s"}])
async def test_the_wait_that_the_server_asks_for_is_kept(rule: dict[str, str], server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.RATE_LIMITED, times=1, **rule))  # type: ignore[arg-type]
    made = await ask()
    first, second = server.state.requests
    assert second.time - first.time >= 0.3
    assert made.spent.waiting >= 0.3


@pytest.mark.parametrize("behaviour", [Behaviour.RATE_LIMITED, Behaviour.UNAVAILABLE])
@pytest.mark.parametrize(("retry_after", "seconds"), [("12", 12), ("0", 0), ("a while", 0), ("-5", 0)])
async def test_how_a_retry_after_header_is_read(
    behaviour: Behaviour, retry_after: str, seconds: int, server: GeminiStandIn, ask: Ask
) -> None:
    server.state.add_rules(Rule(behaviour=behaviour, retry_after=retry_after))
    assert seconds <= await _first_pause(ask) <= seconds + 0.1


async def test_a_retry_after_header_may_be_a_date(server: GeminiStandIn, ask: Ask) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=200), usegmt=True)
    server.state.add_rules(Rule(behaviour=Behaviour.RATE_LIMITED, retry_after=moment))
    assert 150 <= await _first_pause(ask) <= 201


async def _first_pause(ask: Ask) -> float:
    pauses: list[float] = []

    def stop(_number: int, _error: GeminiError, pause: float) -> None:
        pauses.append(pause)
        raise StoppedError

    with pytest.raises(StoppedError):
        await ask(observer=observing(retrying=stop))
    return pauses[0]


async def test_a_wait_of_an_hour_is_not_sat_out(server: GeminiStandIn, ask: Ask) -> None:
    server.state.add_rules(Rule(behaviour=Behaviour.RATE_LIMITED, retry_after="3600"))
    async with asyncio.timeout(10):
        with pytest.raises(GeminiRateLimitedError, match="asks to wait 3600 s") as caught:
            await ask()
    assert caught.value.retry_after == 3600
    assert len(server.state.requests) == 1


async def test_pauses_double_up_to_a_limit(server: GeminiStandIn, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemini, "GEMINI", RetryPolicy(first_pause=1.0, longest_pause=0.04))
    patient = client_for(server.url, attempts=6, backoff_seconds=0.01)
    server.state.add_rules(Rule(behaviour=Behaviour.SERVER_ERROR))
    pauses: list[float] = []
    with pytest.raises(GeminiUnavailableError):
        await ask(patient, observer=observing(retrying=lambda _n, _e, pause: pauses.append(pause)))
    await patient.aclose()
    assert len(server.state.requests) == 6
    for pause, least in zip(pauses, (0.01, 0.02, 0.04, 0.04, 0.04), strict=True):
        assert least <= pause <= min(least + 0.01, 0.04) + 1e-9
    assert len(set(pauses[:2])) == 2


# --- what messages and logs hold -------------------------------------------------------------------------


async def test_no_secret_reaches_a_log_or_a_message(
    server: GeminiStandIn, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    address = server.url.replace("http://", "http://ops:canary-password@")
    other = client_for(address)
    login = base64.b64encode(b"ops:canary-password").decode()
    server.state.add_rules(
        Rule(behaviour=Behaviour.RESET, times=3),
        # Google's message to the owner of a suspended key quotes the key.
        Rule(behaviour=Behaviour.FORBIDDEN, times=1, message=f"Consumer 'api_key:{API_KEY}' has been suspended."),
        Rule(behaviour=Behaviour.INVALID_ARGUMENT, times=1, message=f"See AIzaSy{'A1b2-' * 7}."),
        Rule(behaviour=Behaviour.NOT_JSON, times=3),
    )
    messages = []
    for kind in (GeminiUnavailableError, GeminiRejectedError, GeminiRefusedError, GeminiBadAnswerError):
        with pytest.raises(kind) as caught:
            await ask(other)
        messages.append(str(caught.value))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    await ask(other)
    await other.aclose()

    assert "HTTP Request" in caplog.text, "the transport's own log lines were looked at"
    assert "api_key:***" in messages[1]
    for secret in (API_KEY, "canary-password", login, "AIzaSy"):
        assert secret not in caplog.text
        assert secret not in " ".join(messages)


async def test_a_login_in_the_address_is_sent_as_a_header(ask: Ask) -> None:
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        other = client_for(f"http://ops:s%40fe@127.0.0.1:{port}/proxy")
        with pytest.raises(GeminiRejectedError):
            await ask(other)
        await other.aclose()
    lines = heads[0].lower().splitlines()
    assert heads[0].startswith("POST /proxy/v1beta/models/gemini-nano-banana-2.1:generateContent ")
    assert "authorization: basic " + base64.b64encode(b"ops:s@fe").decode().lower() in lines
    assert f"x-goog-api-key: {API_KEY}" in lines


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
async def test_a_key_that_no_header_can_carry_is_named(key: str) -> None:
    with pytest.raises(SettingsError, match="GEMINI_API_KEY"):
        client_for(None, api_key=key)


@pytest.mark.parametrize("url", ["localhost:8099", "ftp://host", "http://", "http://host:port", ""])
async def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(SettingsError, match="GEMINI_BASE_URL"):
        client_for(url)


async def test_settings_become_a_client(server: GeminiStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(SettingsError, match="GEMINI_API_KEY"):
        GeminiClient.from_settings(Settings(_env_file=None))
    settings = Settings(
        _env_file=None,
        GEMINI_API_KEY=API_KEY,
        GEMINI_BASE_URL=server.url,
        GEMINI_MODEL="gemini-3-pro-image",
        GEMINI_TIMEOUT_SECONDS=9,
        GEMINI_ATTEMPTS=2,
        GEMINI_BACKOFF_SECONDS=0.001,
    )
    client = GeminiClient.from_settings(settings)
    server.state.add_rules(Rule(behaviour=Behaviour.SERVER_ERROR))
    with pytest.raises(GeminiUnavailableError):
        await client.generate(text="…", parts=[], aspect_ratio="1:1", accept=size_of)
    await client.aclose()
    assert [request.model for request in server.state.requests] == ["gemini-3-pro-image"] * 2


# --- the gate --------------------------------------------------------------------------------------------


async def test_the_gate_is_held_around_each_call_and_sees_its_error(server: GeminiStandIn, ask: Ask) -> None:
    story: list[str] = []

    @asynccontextmanager
    async def gate(_on_wait):  # type: ignore[no-untyped-def]
        story.append("enter")
        try:
            yield
        except GeminiRateLimitedError as error:
            story.append(f"429, {error.retry_after}")
            raise
        finally:
            story.append("leave")

    async def accept(picture: bytes) -> tuple[int, int]:
        story.append("accept")
        return await size_of(picture)

    limited = client_for(server.url, gate=gate)
    server.state.add_rules(Rule(behaviour=Behaviour.RATE_LIMITED, times=1, retry_after="0.01"))
    await ask(limited, accept=accept, observer=observing(calling=lambda number: story.append(f"call {number}")))
    await limited.aclose()
    assert story == ["enter", "call 1", "429, 0.01", "leave", "enter", "call 2", "leave", "accept"]


async def test_waiting_at_the_gate_is_counted_apart_from_calling(server: GeminiStandIn, ask: Ask) -> None:
    @asynccontextmanager
    async def slow_gate(_on_wait):  # type: ignore[no-untyped-def]
        await asyncio.sleep(0.2)
        yield

    limited = client_for(server.url, gate=slow_gate, timeout_seconds=5)
    made = await ask(limited)
    await limited.aclose()
    assert made.spent.waiting >= 0.2
