"""A stand-in for the Gemini API: real HTTP, drawn pictures, and every way of failing on demand.

`POST /{v1,v1beta}/models/{model}:generateContent` answers as Google's server does (`drawing.py` makes the picture).
A control API scripts what the next requests meet and shows what was asked:

    GET  /healthz
    GET  /control/requests   `{"requests": [...], "in_flight": n, "max_in_flight": n, "total": n}`; `?since=id`
    POST /control/latency    `{"seconds": 1.5}` before every answer
    POST /control/rules      one `Rule` as JSON, or a list: the first that fits a request decides its fate
    POST /control/quota      `{"requests": 10, "seconds": 60}`, or `{}` for none; above it 429 with RetryInfo
    POST /control/reset      forget rules, quota and log; latency back to what the server was started with,
                             for requests under way as well

Run it with `python -m quel_dagster.sandbox.gemini_server --port 8099`, or in a thread with `GeminiStandIn`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quel_dagster.sandbox.drawing import CANVAS_SIZES, PictureRequest, draw

LOG_LENGTH = 20_000


class Behaviour(StrEnum):
    """What a request meets."""

    OK = "ok"
    RATE_LIMITED = "429"
    SERVER_ERROR = "500"
    UNAVAILABLE = "503"
    FORBIDDEN = "403"
    #: 400 INVALID_ARGUMENT about this request
    INVALID_ARGUMENT = "400"
    #: 400 with reason API_KEY_INVALID, as Google answers to a mistyped key
    BAD_KEY = "bad_key"
    NOT_FOUND = "404"
    REDIRECT = "302"
    #: never answers
    HANG = "hang"
    #: a good answer whose picture comes after a thinking model's drafts and some words
    THINKING = "thinking"
    #: sends its answer a few bytes at a time
    DRIP = "drip"
    #: answers `seconds` later than others
    SLOW = "slow"
    #: RST before any answer
    RESET = "reset"
    #: closes the connection in the middle of the answer's body
    CUT = "cut"
    TRUNCATED_JSON = "truncated_json"
    NOT_JSON = "not_json"
    #: JSON, but of another shape
    WRONG_SHAPE = "wrong_shape"
    EMPTY = "empty"
    WRONG_MIME = "wrong_mime"
    #: says image/png, holds bytes that are none
    NO_PICTURE = "no_picture"
    #: an inline image of zero bytes
    ZERO_BYTES = "zero_bytes"
    TEXT_ONLY = "text_only"
    #: the prompt is blocked
    SAFETY_BLOCK = "safety_block"
    #: the picture is blocked
    IMAGE_SAFETY = "image_safety"
    NO_IMAGE = "no_image"


class Rule(BaseModel):
    """A behaviour for some requests: the next `times`, those whose text holds `match`, a share of them, or all."""

    model_config = ConfigDict(extra="forbid")

    behaviour: Behaviour
    #: how often it applies; None: until reset
    times: int | None = Field(None, ge=1)
    #: applies only to requests whose text holds this (case ignored)
    match: str | None = None
    #: share of the fitting requests it applies to, drawn with `seed`
    probability: float = Field(1.0, ge=0, le=1)
    seed: int = 0
    #: seconds: the extra delay of `slow`, the pause between the drops of `drip`
    seconds: float = Field(0.05, ge=0)
    #: header Retry-After of 429 and 503, as is
    retry_after: str | None = None
    #: google.rpc.RetryInfo of 429, such as `3.5s`
    retry_info: str | None = None
    #: what a 400 or 403 says instead of its usual message
    message: str | None = None


@dataclass
class LoggedRequest:
    """One line of the request log."""

    #: 1, 2, 3 … in order of arrival
    id: int
    #: unix time of arrival, once the request was read
    time: float
    model: str
    #: `v1` or `v1beta`
    version: str
    #: sha256 of the text, first 16 digits
    digest: str
    excerpt: str
    #: image parts
    parts: int
    #: kinds of all parts in order, such as `image image text`
    kinds: str
    aspect_ratio: str
    #: `generationConfig` as it came
    config: dict[str, Any]
    #: requests in flight, this one included
    in_flight: int
    #: the behaviour met; `pending` while under way; `disconnected` when the client went away first
    outcome: str = "pending"
    #: seconds until its end
    seconds: float | None = None


@dataclass
class _ArmedRule:
    rule: Rule
    left: int | None
    rng: random.Random


@dataclass
class StandInState:
    """What the server has been told and what it has seen. Every method may be called from any thread."""

    latency: float = 0.0
    _rules: list[_ArmedRule] = field(default_factory=list)
    _quota: tuple[int, float] | None = None
    _admitted: deque[float] = field(default_factory=deque)
    _log: deque[LoggedRequest] = field(default_factory=lambda: deque(maxlen=LOG_LENGTH))
    _total: int = 0
    _in_flight: int = 0
    _max_in_flight: int = 0
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._first_latency = self.latency

    # --- told ----------------------------------------------------------------------------------------

    def add_rules(self, *rules: Rule) -> None:
        with self._lock:
            self._rules += [_ArmedRule(rule, rule.times, random.Random(rule.seed)) for rule in rules]  # noqa: S311

    def set_quota(self, requests: int | None, seconds: float = 60.0) -> None:
        """Admit at most `requests` in any `seconds`; None: any number."""
        with self._lock:
            self._quota = None if requests is None else (requests, seconds)
            self._admitted.clear()

    def reset(self) -> None:
        with self._lock:
            self._rules.clear()
            self._quota = None
            self._admitted.clear()
            self._log.clear()
            self._total = 0
            self._max_in_flight = self._in_flight
            self.latency = self._first_latency

    # --- seen ----------------------------------------------------------------------------------------

    def arrived(self, version: str, model: str, wanted: _Wanted) -> LoggedRequest:
        """Log a request."""
        with self._lock:
            self._total += 1
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            entry = LoggedRequest(
                id=self._total,
                time=time.time(),
                model=model,
                version=version,
                digest=hashlib.sha256(wanted.text.encode()).hexdigest()[:16],
                excerpt=" ".join(wanted.text[:400].split())[:200],
                parts=wanted.kinds.count("image"),
                kinds=" ".join(wanted.kinds),
                aspect_ratio=wanted.picture.aspect_ratio,
                config=wanted.config,
                in_flight=self._in_flight,
            )
            self._log.append(entry)
            self._lock.notify_all()
            return entry

    def ended(self, entry: LoggedRequest, outcome: str) -> None:
        """Log what became of a request."""
        with self._lock:
            self._in_flight -= 1
            entry.outcome = outcome
            entry.seconds = round(time.time() - entry.time, 4)
            self._lock.notify_all()

    def decide(self, text: str) -> Rule:
        """What the request with this text meets."""
        with self._lock:
            return self._fitting_rule(text.lower()) or self._within_quota()

    def delay(self, rule: Rule) -> float:
        """Seconds before an answer by this rule, as things stand now."""
        with self._lock:
            slow = rule.behaviour is Behaviour.SLOW and any(armed.rule is rule for armed in self._rules)
        return self.latency + (rule.seconds if slow else 0.0)

    def _fitting_rule(self, lowered: str) -> Rule | None:
        for armed in self._rules:
            if armed.left == 0 or (armed.rule.match and armed.rule.match.lower() not in lowered):
                continue
            if armed.rule.probability < 1 and armed.rng.random() >= armed.rule.probability:
                continue
            if armed.left is not None:
                armed.left -= 1
            return armed.rule
        return None

    def _within_quota(self) -> Rule:
        if self._quota is None:
            return Rule(behaviour=Behaviour.OK)
        most, window = self._quota
        now = time.monotonic()
        while self._admitted and self._admitted[0] <= now - window:
            self._admitted.popleft()
        if len(self._admitted) < most:
            self._admitted.append(now)
            return Rule(behaviour=Behaviour.OK)
        free_in = self._admitted[0] + window - now if self._admitted else window
        return Rule(behaviour=Behaviour.RATE_LIMITED, retry_info=f"{free_in:.3f}s")

    # --- shown ---------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[LoggedRequest]:
        with self._lock:
            return list(self._log)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def max_in_flight(self) -> int:
        return self._max_in_flight

    def wait_until(self, condition: Callable[[StandInState], bool], seconds: float = 10.0) -> None:
        """Block until the log fulfils a condition.

        Raises:
            TimeoutError: it does not in time.
        """
        with self._lock:
            if not self._lock.wait_for(lambda: condition(self), seconds):
                raise TimeoutError(f"Not seen within {seconds:g} s; last requests: {list(self._log)[-3:]}")

    def report(self, since: int = 0) -> dict[str, Any]:
        """The body of `GET /control/requests`."""
        with self._lock:
            return {
                "requests": [asdict(entry) for entry in self._log if entry.id > since],
                "in_flight": self._in_flight,
                "max_in_flight": self._max_in_flight,
                "total": self._total,
            }


# --- the API ---------------------------------------------------------------------------------------------


class _RefusedError(Exception):
    """The request is answered with an error of Google's form."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.response = _error(code, status, message)


@dataclass(frozen=True)
class GenerateContent:
    """The ASGI endpoint of `models/{model}:generateContent`."""

    state: StandInState
    api_key: str | None = None
    #: one picture per aspect ratio, drawn once: for benchmarks, where the server's own CPU would be in the way
    canned: bool = False
    _canned_answers: dict[str, bytes] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return  # half a request is none
        wanted = await asyncio.to_thread(_read, body, decode=not self.canned)
        entry = self.state.arrived(request.path_params["version"], request.path_params["model"], wanted)
        outcome = "disconnected"
        async with _Exchange.of(scope, receive, send) as exchange:
            try:
                self._check(request, wanted)
                rule = self.state.decide(wanted.text)
                if await self._behave(rule, wanted, exchange):
                    outcome = rule.behaviour.value
            except _RefusedError as refused:
                await exchange.respond(refused.response)
                outcome = str(refused.code)
            finally:
                self.state.ended(entry, outcome)

    def _check(self, request: Request, wanted: _Wanted) -> None:
        if request.path_params["version"] not in {"v1", "v1beta"}:
            raise _RefusedError(404, "NOT_FOUND", "Unknown API version.")
        if self.api_key is not None and request.headers.get("x-goog-api-key") != self.api_key:
            raise _RefusedError(403, "PERMISSION_DENIED", "The caller does not have permission.")
        if wanted.problem:
            raise _RefusedError(400, "INVALID_ARGUMENT", wanted.problem)

    async def _takes_its_time(self, rule: Rule, exchange: _Exchange) -> bool:
        """Wait as long as answers take; a request under way is let go when that becomes less meanwhile."""
        began = time.monotonic()
        while (left := began + self.state.delay(rule) - time.monotonic()) > 0:
            if not await exchange.stays(min(left, 0.1)):
                return False
        return await exchange.stays(0)

    async def _behave(self, rule: Rule, wanted: _Wanted, exchange: _Exchange) -> bool:
        """Answer as the rule says; False when the client went away before the end."""
        behaviour = rule.behaviour
        if behaviour is Behaviour.HANG:
            await exchange.gone
            return False
        if not await self._takes_its_time(rule, exchange):
            return False
        if behaviour is Behaviour.RESET:
            return await exchange.reset()
        if behaviour in _FIXED_ANSWERS:
            return await exchange.respond(_FIXED_ANSWERS[behaviour](rule))
        answer = await self._picture(wanted)
        match behaviour:
            case Behaviour.DRIP:
                return await exchange.drip(answer, rule.seconds)
            case Behaviour.CUT:
                return await exchange.cut(answer)
            case Behaviour.THINKING:
                answer = answer.replace(b'"parts":[', b'"parts":[' + _THOUGHTS, 1)
            case Behaviour.TRUNCATED_JSON:
                answer = answer[: len(answer) // 2]
            case Behaviour.WRONG_MIME:
                answer = answer.replace(b'"image/png"', b'"text/plain"', 1)
        return await exchange.respond(Response(answer, media_type="application/json"))

    async def _picture(self, wanted: _Wanted) -> bytes:
        """The body of a good answer."""
        if not self.canned:
            return await asyncio.to_thread(_drawn, wanted.picture)
        ratio = wanted.picture.aspect_ratio
        if ratio not in self._canned_answers:
            example = PictureRequest(text="The same picture for all.", references=(), aspect_ratio=ratio)
            self._canned_answers[ratio] = await asyncio.to_thread(_drawn, example)
        return self._canned_answers[ratio]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A request once read."""

    picture: PictureRequest
    #: `image`, `text` or `other`, part by part
    kinds: tuple[str, ...]
    config: dict[str, Any]
    #: why Gemini would not accept it
    problem: str = ""

    @property
    def text(self) -> str:
        return self.picture.text


def _read(body: bytes, *, decode: bool) -> _Wanted:
    """The request's text, pictures (only if `decode`) and aspect ratio."""
    text, ratio, problem = "", "1:1", ""
    pictures: list[bytes] = []
    kinds: list[str] = []
    config: dict[str, Any] = {}
    try:
        data = json.loads(body)
        config = dict(data.get("generationConfig") or {})
        ratio = str((config.get("imageConfig") or {}).get("aspectRatio") or ratio)
        parts = [part for content in data["contents"] for part in content["parts"]]
        text = "\n".join(part["text"] for part in parts if "text" in part)
        kinds = ["image" if "inlineData" in part else "text" if "text" in part else "other" for part in parts]
        for inline in (part["inlineData"] for part in parts if "inlineData" in part):
            if not str(inline.get("mime_type") or inline.get("mimeType")).startswith("image/"):
                problem = "Unsupported MIME type of an inline part."
            if decode:
                pictures.append(_bytes(inline["data"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"Invalid JSON payload received ({type(error).__name__})."
    if ratio not in CANVAS_SIZES:
        problem = "aspect_ratio must be one of " + ", ".join(CANVAS_SIZES)
    return _Wanted(PictureRequest(text, tuple(pictures), ratio), kinds=tuple(kinds), config=config, problem=problem)


def _bytes(data: str) -> bytes:
    """Base64 of either alphabet: clients send the URL-safe one."""
    return base64.b64decode(data.replace("-", "+").replace("_", "/"), validate=True)


def _drawn(wanted: PictureRequest) -> bytes:
    return _candidate(b'{"inlineData":{"mimeType":"image/png","data":"' + base64.b64encode(draw(wanted)) + b'"}}')


def _candidate(part: bytes, finish_reason: bytes = b"STOP") -> bytes:
    return (
        b'{"candidates":[{"content":{"role":"model","parts":['
        + part
        + b']},"finishReason":"'
        + finish_reason
        + b'","index":0}],"usageMetadata":{"promptTokenCount":1290,"candidatesTokenCount":1290},'
        b'"modelVersion":"stand-in"}'
    )


_THOUGHTS = (
    b'{"text":"The user wants a picture.","thought":true},'
    b'{"inlineData":{"mimeType":"image/png","data":"ZHJhZnQ="},"thought":true},'
    b'{"text":"Here is your picture."},'
)


def _error(
    code: int,
    status: str,
    message: str,
    *,
    reason: str | None = None,
    retry_info: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error of Google's form."""
    details: list[dict[str, Any]] = []
    if reason:
        details.append(
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reason,
                "domain": "googleapis.com",
            }
        )
    if retry_info:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": retry_info})
    body: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        body["details"] = details
    return JSONResponse({"error": body}, status_code=code, headers=headers)


def _retry_header(rule: Rule) -> dict[str, str]:
    return {"retry-after": rule.retry_after} if rule.retry_after is not None else {}


def _json(body: bytes) -> Callable[[Rule], Response]:
    return lambda _rule: Response(body, media_type="application/json")


_FIXED_ANSWERS: Mapping[Behaviour, Callable[[Rule], Response]] = {
    Behaviour.RATE_LIMITED: lambda rule: _error(
        429,
        "RESOURCE_EXHAUSTED",
        "Resource has been exhausted (e.g. check quota).",
        retry_info=rule.retry_info,
        headers=_retry_header(rule),
    ),
    Behaviour.SERVER_ERROR: lambda _: _error(500, "INTERNAL", "An internal error has occurred."),
    Behaviour.UNAVAILABLE: lambda rule: _error(
        503, "UNAVAILABLE", "The model is overloaded. Please try again later.", headers=_retry_header(rule)
    ),
    Behaviour.FORBIDDEN: lambda rule: _error(
        403, "PERMISSION_DENIED", rule.message or "The caller does not have permission."
    ),
    Behaviour.INVALID_ARGUMENT: lambda rule: _error(
        400, "INVALID_ARGUMENT", rule.message or "Unable to process input image. Please retry or report."
    ),
    Behaviour.BAD_KEY: lambda _: _error(
        400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID"
    ),
    Behaviour.NOT_FOUND: lambda _: _error(404, "NOT_FOUND", "The model is not found for API version v1beta."),
    Behaviour.REDIRECT: lambda _: Response(status_code=302, headers={"location": "/elsewhere"}),
    Behaviour.NOT_JSON: lambda _: Response("<html><body>502 Bad Gateway</body></html>", media_type="text/html"),
    Behaviour.WRONG_SHAPE: _json(b'{"candidates":"none"}'),
    Behaviour.EMPTY: _json(b"{}"),
    Behaviour.NO_PICTURE: _json(
        _candidate(
            b'{"inlineData":{"mimeType":"image/png","data":"'
            + base64.b64encode(b"these bytes are no picture" * 40)
            + b'"}}'
        )
    ),
    Behaviour.ZERO_BYTES: _json(_candidate(b'{"inlineData":{"mimeType":"image/png","data":""}}')),
    Behaviour.TEXT_ONLY: _json(
        _candidate(json.dumps({"text": "I cannot draw this, but here is what it would look like: …"}).encode())
    ),
    Behaviour.SAFETY_BLOCK: _json(b'{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"}}'),
    Behaviour.IMAGE_SAFETY: _json(b'{"candidates":[{"finishReason":"IMAGE_SAFETY","index":0}]}'),
    Behaviour.NO_IMAGE: _json(b'{"candidates":[{"finishReason":"NO_IMAGE","index":0}]}'),
}


# --- connections -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request's connection: answering on it, and breaking it. The methods say whether the client stayed."""

    scope: Scope
    receive: Receive
    send: Send
    #: done when the client has gone away
    gone: asyncio.Task[None]

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, scope: Scope, receive: Receive, send: Send) -> AsyncIterator[Self]:
        async def disconnected() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        gone = asyncio.create_task(disconnected())
        try:
            yield cls(scope, receive, send, gone)
        finally:
            gone.cancel()

    async def stays(self, seconds: float) -> bool:
        """Wait; False at once when the client goes away meanwhile."""
        if seconds > 0:
            await asyncio.wait({self.gone}, timeout=seconds)
        return not self.gone.done()

    async def respond(self, response: Response) -> bool:
        stayed = not self.gone.done()
        await response(self.scope, self.receive, self.send)
        return stayed

    async def drip(self, answer: bytes, pause: float) -> bool:
        """Send the answer 16 bytes at a time."""
        await self._start(len(answer))
        for at in range(0, len(answer), 16):
            await self._body(answer[at : at + 16], more=True)
            if not await self.stays(pause):
                return False
        await self._body(b"", more=False)
        return True

    async def cut(self, answer: bytes) -> bool:
        """Close the connection halfway through the answer."""
        await self._start(len(answer))
        await self._body(answer[: len(answer) // 2], more=True)
        self._transport.close()
        await self.gone
        return True

    async def reset(self) -> bool:
        """Answer with RST."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        await self.gone
        return True

    async def _start(self, length: int) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _body(self, chunk: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": chunk, "more_body": more})

    @property
    def _transport(self) -> asyncio.Transport:
        """The connection; uvicorn's `receive` is a method of the object that holds it."""
        transport: asyncio.Transport = self.receive.__self__.transport  # type: ignore[attr-defined]
        return transport


# --- the control API -------------------------------------------------------------------------------------


class _Latency(BaseModel):
    seconds: float = Field(ge=0)


class _Quota(BaseModel):
    requests: int | None = Field(None, ge=0)
    seconds: float = Field(60.0, gt=0)


_RULES: TypeAdapter[list[Rule]] = TypeAdapter(list[Rule])


def build_app(state: StandInState, *, api_key: str | None = None, canned: bool = False) -> Starlette:
    """The ASGI application: Gemini's endpoint and the control API."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def requests(request: Request) -> Response:
        return JSONResponse(state.report(since=int(request.query_params.get("since", 0))))

    async def latency(request: Request) -> Response:
        state.latency = _Latency.model_validate_json(await request.body()).seconds
        return JSONResponse({"ok": True})

    async def rules(request: Request) -> Response:
        told = json.loads(await request.body())
        state.add_rules(*_RULES.validate_python(told if isinstance(told, list) else [told]))
        return JSONResponse({"ok": True})

    async def quota(request: Request) -> Response:
        told = _Quota.model_validate_json(await request.body())
        state.set_quota(told.requests, told.seconds)
        return JSONResponse({"ok": True})

    async def reset(_request: Request) -> Response:
        state.reset()
        return JSONResponse({"ok": True})

    async def invalid(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=400)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/control/requests", requests),
            Route("/control/latency", latency, methods=["POST"]),
            Route("/control/rules", rules, methods=["POST"]),
            Route("/control/quota", quota, methods=["POST"]),
            Route("/control/reset", reset, methods=["POST"]),
            Route(
                "/{version}/models/{model}:generateContent",
                GenerateContent(state, api_key=api_key, canned=canned),
                methods=["POST"],
            ),
        ],
        exception_handlers={ValidationError: invalid, ValueError: invalid},
    )


# --- running it ------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn that leaves at once: open requests, hanging ones above all, are cut."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server, and are not raised again afterwards."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
        yield


def _server(app: Starlette) -> _Server:
    return _Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=2)
    )


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=1024)
    listener.setblocking(False)
    return listener


class GeminiStandIn:
    """The server in a thread of this process: `with GeminiStandIn() as server: … server.url, server.state`."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: float = 0.0,
        api_key: str | None = None,
        canned: bool = False,
    ) -> None:
        """
        Args:
            port: 0 takes a free one.
            latency: seconds before every answer.
            api_key: the key that requests must carry; None: any.
            canned: one picture per aspect ratio, drawn once.
        """
        self.state = StandInState(latency=latency)
        self._server = _server(build_app(self.state, api_key=api_key, canned=canned))
        self._address = (host, port)

    def __enter__(self) -> Self:
        self._socket = _listen(*self._address)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{host}:{port}"
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="gemini-stand-in", daemon=True
        )
        self._thread.start()
        if not self._server.listening.wait(10):
            raise RuntimeError("The stand-in Gemini did not start.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A stand-in for the Gemini API that draws its pictures.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which the first line names")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="before every answer")
    parser.add_argument("--api-key", help="the key that requests must carry; default: any")
    parser.add_argument("--canned", action="store_true", help="one picture for all, drawn once: almost no CPU")
    options = parser.parse_args(arguments)
    state = StandInState(latency=options.latency)
    listener = _listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"Stand-in Gemini on http://{host}:{port}\n")
    sys.stdout.flush()
    with listener:
        _server(build_app(state, api_key=options.api_key, canned=options.canned)).run([listener])


if __name__ == "__main__":
    main()
