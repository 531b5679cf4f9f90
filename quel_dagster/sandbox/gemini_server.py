"""A stand-in for the Gemini API: real HTTP, drawn pictures, and scripted failures.

`POST /{v1,v1beta}/models/{model}:generateContent` answers as Google's server does (`drawing.py` makes the picture),
`:countTokens` counts, and `GET /{v1,v1beta}/models/{model}` describes a model. So do Vertex AI's paths with a bearer
token, which `POST /token` gives to a service account. A control API scripts the next answers and shows the request
log:

    GET  /healthz
    GET  /control/requests   `{"requests": [...], "in_flight": n, "max_in_flight": n, "total": n}`; `?since=id`
    POST /control/latency    `{"seconds": 1.5}` before every answer
    POST /control/rules      one `Rule` as JSON, or a list: the first that fits a request decides its answer
    POST /control/quota      `{"requests": 10, "seconds": 60}`, or `{}` for none; above it 429 with RetryInfo
    POST /control/reset      forget rules, quota and log; latency back to what the server was started with,
                             for requests under way as well

Run it with `python -m quel_dagster.sandbox.gemini_server --port 8099`, or in a thread with `GeminiStandIn`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import uvicorn
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quel_dagster.sandbox.gemini_exchange import Exchange
from quel_dagster.sandbox.gemini_requests import (
    Problem,
    Wanted,
    model_answer,
    not_found,
    publisher_model_answer,
    read_request,
    takes_requests,
)
from quel_dagster.sandbox.gemini_responses import FIXED_ANSWERS, drawn, error_answer, example, good_answer, refusal
from quel_dagster.sandbox.gemini_state import Behaviour, Rule, StandInState

_LOOPBACK = "127.0.0.1"
#: the token that `POST /token` gives and Vertex AI's path requires
ACCESS_TOKEN = "token-of-the-stand-in"  # noqa: S105  not a secret


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    #: the key that requests must carry; None: any
    api_key: str | None = None
    #: the only project of Vertex AI that may use the models; None: any
    project: str | None = None

    def problem(self, request: Request) -> Problem | None:
        """Return why this request is refused."""
        path = request.path_params
        if "version" not in path:
            return self._problem_of_vertex_ai(request, path.get("project"))
        if path["version"] not in {"v1", "v1beta"}:
            return Problem(404, "NOT_FOUND", "Unknown API version.")
        if self.api_key is not None and request.headers.get("x-goog-api-key") != self.api_key:
            return Problem(403, "PERMISSION_DENIED", "The caller does not have permission.")
        return None

    def _problem_of_vertex_ai(self, request: Request, project: str | None) -> Problem | None:
        if request.headers.get("authorization") != f"Bearer {ACCESS_TOKEN}":
            return Problem(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if project is not None and self.project not in {None, project}:
            return Problem(
                403,
                "PERMISSION_DENIED",
                "Permission 'aiplatform.endpoints.predict' denied on resource "
                f"'//aiplatform.googleapis.com/projects/{project}/locations/{request.path_params['location']}' "
                "(or it may not exist).",
            )
        return None


@dataclass(frozen=True)
class GenerateContent:
    """The ASGI endpoint of `models/{model}:generateContent`."""

    state: StandInState
    access: Access = Access()
    #: one picture per aspect ratio, drawn once: for benchmarks, which the server's own CPU would distort
    canned: bool = False
    _examples: dict[str, bytes] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return  # the request was incomplete
        model = request.path_params["model"]
        wanted = await asyncio.to_thread(read_request, body, model, decode=not self.canned)
        entry = self.state.arrived(request.path_params.get("version", "v1beta1"), model, wanted)
        outcome = "disconnected"
        async with Exchange.of(scope, receive, send) as exchange:
            try:
                problem = self.access.problem(request) or wanted.problem
                if problem is not None:
                    await exchange.respond(refusal(problem))
                    outcome = str(problem.code)
                    return
                rule = self.state.decide(wanted.text)
                if await self._behave(rule, wanted, exchange):
                    outcome = rule.behaviour.value
            finally:
                self.state.ended(entry, outcome)

    async def _takes_its_time(self, rule: Rule, exchange: Exchange) -> bool:
        """Wait for the latency; end the wait early when the latency is reduced meanwhile."""
        began = time.monotonic()
        while (left := began + self.state.delay(rule) - time.monotonic()) > 0:
            if not await exchange.stays(min(left, 0.1)):
                return False
        return await exchange.stays(0)

    async def _behave(self, rule: Rule, wanted: Wanted, exchange: Exchange) -> bool:
        """Answer as the rule says; return False when the client disconnected before the end."""
        behaviour = rule.behaviour
        if behaviour is Behaviour.HANG:
            await exchange.gone
            return False
        if not await self._takes_its_time(rule, exchange):
            return False
        if behaviour is Behaviour.RESET:
            return await exchange.reset()
        if behaviour in FIXED_ANSWERS:
            return await exchange.respond(FIXED_ANSWERS[behaviour](rule))
        if behaviour is Behaviour.SQUARE:
            wanted = replace(wanted, picture=replace(wanted.picture, aspect_ratio="1:1"))
        answer = good_answer(await self._picture(wanted), wanted, words=behaviour is Behaviour.THINKING)
        match behaviour:
            case Behaviour.DRIP:
                return await exchange.drip(answer, rule.seconds)
            case Behaviour.CUT:
                return await exchange.cut(answer)
            case Behaviour.TRUNCATED_JSON:
                answer = answer[: len(answer) // 2]
            case Behaviour.WRONG_MIME:
                answer = answer.replace(b'"image/png"', b'"text/plain"')
        return await exchange.respond(Response(answer, media_type="application/json"))

    async def _picture(self, wanted: Wanted) -> bytes:
        if not self.canned:
            return await asyncio.to_thread(drawn, wanted)
        ratio = wanted.picture.aspect_ratio
        if ratio not in self._examples:
            self._examples[ratio] = await asyncio.to_thread(example, ratio)
        return self._examples[ratio]


# --- the control API -------------------------------------------------------------------------------------


class _Latency(BaseModel):
    seconds: float = Field(ge=0)


class _Quota(BaseModel):
    requests: int | None = Field(None, ge=0)
    seconds: float = Field(60.0, gt=0)


_RULES: TypeAdapter[list[Rule]] = TypeAdapter(list[Rule])


def build_app(state: StandInState, access: Access, *, canned: bool = False) -> Starlette:
    """The ASGI application: Gemini's endpoint and the control API."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def requests(request: Request) -> Response:
        return JSONResponse(state.report(since=int(request.query_params.get("since", 0))))

    async def latency(request: Request) -> Response:
        state.latency = _Latency.model_validate_json(await request.body()).seconds
        return JSONResponse({"ok": True})

    async def rules(request: Request) -> Response:
        rules = json.loads(await request.body())
        state.add_rules(*_RULES.validate_python(rules if isinstance(rules, list) else [rules]))
        return JSONResponse({"ok": True})

    async def quota(request: Request) -> Response:
        quota = _Quota.model_validate_json(await request.body())
        state.set_quota(quota.requests, quota.seconds)
        return JSONResponse({"ok": True})

    async def reset(_request: Request) -> Response:
        state.reset()
        return JSONResponse({"ok": True})

    async def model(request: Request) -> Response:
        if access.api_key is not None and request.headers.get("x-goog-api-key") != access.api_key:
            return error_answer(
                400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID"
            )
        found = model_answer(request.path_params["model"])
        return JSONResponse(found) if found else error_answer(404, "NOT_FOUND", "Model is not found.")

    async def publisher_model(request: Request) -> Response:
        name = request.path_params["model"]
        if problem := access.problem(request):
            return refusal(problem)
        found = publisher_model_answer(name)
        return JSONResponse(found) if found else refusal(not_found(name))

    async def count_tokens(request: Request) -> Response:
        name = request.path_params["model"]
        problem = access.problem(request) or (None if takes_requests(name) else not_found(name))
        return refusal(problem) if problem else JSONResponse({"totalTokens": 1})

    async def token(_request: Request) -> Response:
        return JSONResponse({"access_token": ACCESS_TOKEN, "expires_in": 3600, "token_type": "Bearer"})

    async def invalid(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=400)

    generate = GenerateContent(state, access, canned=canned)
    vertex_model = "/v1beta1/projects/{project}/locations/{location}/publishers/google/models/{model}"
    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/control/requests", requests),
            Route("/control/latency", latency, methods=["POST"]),
            Route("/control/rules", rules, methods=["POST"]),
            Route("/control/quota", quota, methods=["POST"]),
            Route("/control/reset", reset, methods=["POST"]),
            Route("/token", token, methods=["POST"]),
            Route("/{version}/models/{model}:generateContent", generate, methods=["POST"]),
            Route(f"{vertex_model}:generateContent", generate, methods=["POST"]),
            Route("/{version}/models/{model}:countTokens", count_tokens, methods=["POST"]),
            Route(f"{vertex_model}:countTokens", count_tokens, methods=["POST"]),
            Route("/{version}/models/{model}", model),
            Route("/v1beta1/publishers/google/models/{model}", publisher_model),
        ],
        exception_handlers={ValidationError: invalid, ValueError: invalid},
    )


# --- running it ------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """A uvicorn server that stops at once: it cuts open requests, also hanging ones."""

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
        """End the server on SIGINT and SIGTERM, without raising them again afterwards."""
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
        latency: float = 0.0,
        api_key: str | None = None,
        project: str | None = None,
        canned: bool = False,
    ) -> None:
        """
        Args:
            latency: seconds before every answer.
            api_key: the key that requests must carry; None: any.
            project: the only project of Vertex AI that may use the models; None: any.
            canned: one picture per aspect ratio, drawn once.
        """
        self.state = StandInState(latency=latency)
        self._server = _server(build_app(self.state, Access(api_key, project), canned=canned))

    def __enter__(self) -> Self:
        self._socket = _listen(_LOOPBACK, 0)
        self.url = f"http://{_LOOPBACK}:{self._socket.getsockname()[1]}"
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
    parser.add_argument("--host", default=_LOOPBACK)
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
        _server(build_app(state, Access(options.api_key), canned=options.canned)).run([listener])


if __name__ == "__main__":
    main()
