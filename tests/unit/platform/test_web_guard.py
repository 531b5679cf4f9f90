"""Requests that reach Dagster's web server: of its own pages and of programs, not of other web pages."""

from __future__ import annotations

import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from quel_dagster.platform.web_guard import OwnAddresses, WebGuard

OWN = OwnAddresses.of(bound_to="127.0.0.1", webserver_url="https://quel.example.com", more_hosts=["quel.lan"])
MUTATION = {"query": "mutation {x}"}
BASE = "http://127.0.0.1:3000"
FORM = "application/x-www-form-urlencoded"


async def _answer(request: Request) -> JSONResponse:
    return JSONResponse(request.method, headers={"Content-Security-Policy": "base-uri 'none'"})


async def _websocket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")


def client(own: OwnAddresses = OWN) -> TestClient:
    routes = [
        WebSocketRoute("/graphql", _websocket),
        Route("/{path:path}", _answer, methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]),
    ]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(WebGuard, own=own)]), base_url=BASE)


def post(path: str = "/graphql", kind: str = "application/json", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client().post(path, content=json.dumps(MUTATION), headers={"Content-Type": kind, **named})


# --- what works --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},  # a program
        {"Origin": BASE, "Sec_Fetch_Site": "same-origin"},
        {"Host": "quel.example.com", "Origin": "https://quel.example.com"},
        {"Host": "127.0.0.1:3000", "Origin": "https://quel.example.com"},  # a proxy that rewrites Host
        {"Host": "quel.lan:8080", "Origin": "http://QUEL.lan:8080"},
        {"Host": "[::1]:3000", "Origin": "http://[::1]:3000"},
        {"Host": "LOCALHOST:3000"},
    ],
)
def test_own_pages_and_programs_are_answered(headers: dict[str, str]) -> None:
    assert post(**headers).status_code == 200
    assert post(kind="application/json; charset=utf-8", **headers).status_code == 200


def test_pages_are_read_from_links_of_other_sites() -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client().get("/runs/1", headers=headers).status_code == 200


def test_the_query_editor_is_shown() -> None:
    assert client().get("/graphql", headers={"Accept": "text/html,*/*"}).status_code == 200


@pytest.mark.parametrize("prefix", ["", "/ops", "/a/b"])
def test_forms_are_accepted_only_below_the_own_path(prefix: str) -> None:
    own = OwnAddresses.of(bound_to="127.0.0.1", webserver_url=None, path=prefix)

    def status(path: str) -> int:
        headers = {"Content-Type": FORM, "Origin": BASE}
        return client(own).post(path, content=b"verb=retry", headers=headers).status_code

    assert status(f"{prefix}/quel") == 200
    assert status(f"{prefix}/quel/act") == 200
    for other in ("/quelle", "/report_asset_check/x", "/other/quel/act"):
        assert status(f"{prefix}{other}") == 415
    if prefix:
        assert status("/quel/act") == 415
    assert post("/quel", FORM, Origin="https://evil.example").status_code == 403
    assert post("/quel", FORM, Sec_Fetch_Site="same-site").status_code == 403


def test_own_websockets_are_accepted() -> None:
    for headers in ({}, {"Origin": BASE}):
        with client().websocket_connect("/graphql", headers={"Host": "127.0.0.1:3000", **headers}) as websocket:
            assert websocket.receive_text() == "hello"


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("accept", ["*/*", "image/avif,image/webp,*/*;q=0.8", "application/json", ""])
def test_graphql_by_get_is_refused(method: str, accept: str) -> None:
    answer = client().request(method, "/graphql", params=MUTATION, headers={"Accept": accept})
    assert answer.status_code == 405


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(method: str) -> None:
    answer = client().request(method, "/graphql", headers={"Origin": BASE})
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain; application/json",  # Dagster looks for these words anywhere in the header
        "application/graphql",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
    ],
)
def test_a_post_that_a_page_may_make_unasked_is_refused(kind: str) -> None:
    assert post(kind=kind).status_code == 415


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8080"},  # another server of this machine
        {"Origin": "http://localhost:3000"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": BASE, "Sec_Fetch_Site": "cross-site"},
        {"Host": "quel.example.com", "Origin": "https://evil.example"},
    ],
)
def test_a_foreign_page_is_refused(headers: dict[str, str]) -> None:
    answer = post(**headers)
    assert answer.status_code == 403
    assert answer.text.count("\n") == 1
    named = {"Host": "127.0.0.1:3000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/graphql", headers=named):
        pass


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", "", "[", "10.0.0.1"])
def test_a_foreign_host_is_refused(host: str) -> None:
    """DNS rebinding: the page's own name leads to this machine, and its Origin agrees with its Host."""
    for path in ("/", "/runs/1"):
        assert client().get(path, headers={"Host": host}).status_code == 421
    assert post(Host=host, Origin=f"http://{host}").status_code == 421
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/graphql", headers={"Host": host}):
        pass


def test_a_server_on_all_addresses_is_reached_by_every_address_and_no_other_name() -> None:
    everywhere = client(OwnAddresses.of(bound_to="0.0.0.0", webserver_url=None))  # noqa: S104
    assert everywhere.get("/", headers={"Host": "10.0.0.1:3000"}).status_code == 200
    assert everywhere.get("/", headers={"Host": "[fd00::1]:3000"}).status_code == 200
    assert everywhere.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert (
        client(OwnAddresses.of(bound_to="10.0.0.1", webserver_url=None))
        .get("/", headers={"Host": "10.0.0.1"})
        .is_success
    )


@pytest.mark.parametrize(("path", "host"), [("/", "127.0.0.1"), ("/", "evil.example")])
def test_no_answer_can_be_framed(path: str, host: str) -> None:
    answer = client().get(path, headers={"Host": host})
    assert answer.headers["X-Frame-Options"] == "DENY"
    policies = answer.headers.get_list("Content-Security-Policy")
    assert any("frame-ancestors 'none'" in policy for policy in policies)


def test_dagsters_own_policy_stays() -> None:
    assert "base-uri 'none'" in client().get("/").headers.get_list("Content-Security-Policy")[0]
