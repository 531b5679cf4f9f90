"""Where more routes go in Dagster's web server, at the root and below a path prefix."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from quel_dagster.platform import webserver
from quel_dagster.platform.web_guard import LOOPBACK_NAMES
from quel_dagster.platform.webserver import QuelWebserver, use_our_webserver, with_more_routes


async def dagsters(_request: Request) -> Response:
    return PlainTextResponse("dagster")


async def ours(request: Request) -> Response:
    return PlainTextResponse(f"ours {request.scope.get('root_path', '')}")


async def socket(_socket: WebSocket) -> None:
    """Never asked."""


def own(prefix: str) -> list[BaseRoute]:
    """As DagsterWebserver.build_routes makes them."""
    routes: list[BaseRoute] = [
        Route("/server_info", dagsters),
        WebSocketRoute("/graphql", socket),
        Route("/{path:path}", dagsters),
        Route("/", dagsters),
    ]
    return [Mount(prefix, routes=routes), Route("/", dagsters)] if prefix else routes


@pytest.mark.parametrize("prefix", ["", "/ops", "/a/b"])
def test_both_answer_below_the_prefix(prefix: str) -> None:
    more: list[BaseRoute] = [Mount("/quel", routes=[Route("/", ours)])]
    client = TestClient(Starlette(routes=with_more_routes(own(prefix), more)))
    assert client.get(f"{prefix}/quel/").text == f"ours {prefix}/quel"
    for path in ("/server_info", "/runs/1", "/quell"):
        assert client.get(f"{prefix}{path}").text == "dagster"


def test_the_guard_knows_the_address_and_the_path_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver.app, "DagsterWebserver", webserver.DagsterWebserver)
    monkeypatch.setattr(QuelWebserver, "own_addresses", QuelWebserver.own_addresses)
    use_our_webserver(["--host", "10.1.2.3", "--port", "3000", "--path-prefix", "/ops"])
    assert QuelWebserver.own_addresses.hosts == LOOPBACK_NAMES | {"10.1.2.3"}
    assert QuelWebserver.own_addresses.path == "/ops"
