"""A web page of another origin that an operator visits: it can neither control the installation nor frame it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
import uvicorn
from playwright.async_api import Browser, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from quel_dagster.pipeline.names import DAILY_SUMMARY
from quel_dagster.pipeline.summary import DAYS_NAME
from quel_dagster.services.dagster_home import LOCATION
from tests.browser.conftest import HANG, Installation

pytestmark = pytest.mark.asyncio(loop_scope="package")


def mutation(day: str) -> str:
    """A change that can be seen afterwards: the summary has one more day."""
    return (
        f'mutation{{addDynamicPartition(repositorySelector:{{repositoryLocationName:"{LOCATION}",'
        f'repositoryName:"__repository__"}},partitionsDefName:"{DAYS_NAME}",partitionKey:"{day}"){{__typename}}}}'
    )


async def days(installation: Installation) -> list[str]:
    key = json.dumps(DAILY_SUMMARY.path)
    found = await installation.graphql(
        f"{{assetNodeOrError(assetKey:{{path:{key}}}){{... on AssetNode{{partitionKeys}}}}}}"
    )
    return list(found["assetNodeOrError"]["partitionKeys"])


#: what a page may try; `{url}` is the installation's, `{query}` the mutation, percent-encoded or as JSON
ATTACKS = {
    "image": "<img src='{url}/graphql?query={query}'>",
    "form": "<form method=post action='{url}/graphql?query={query}'></form><script>document.forms[0].submit()</script>",
    "text": "<script>fetch('{url}/graphql', {{method: 'POST', mode: 'no-cors', credentials: 'include',"
    " headers: {{'Content-Type': 'text/plain; application/json'}}, body: {body}}})</script>",
    "json": "<script>fetch('{url}/graphql', {{method: 'POST',"
    " headers: {{'Content-Type': 'application/json'}}, body: {body}}}).catch(() => 0)</script>",
    "script": "<script src='{url}/graphql?query={query}'></script>",
}


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def elsewhere() -> AsyncIterator[tuple[str, dict[str, str]]]:
    """Another site of this machine, and its pages by name."""
    pages: dict[str, str] = {}

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(pages[request.path_params["name"]])

    config = uvicorn.Config(Starlette(routes=[Route("/{name}", page)]), port=0, log_level="error")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    serving = asyncio.create_task(server.serve([socket]))
    yield f"http://localhost:{socket.getsockname()[1]}", pages
    server.should_exit = True
    await serving


@pytest_asyncio.fixture(loop_scope="package")
async def visitor(browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context()
    yield await context.new_page()
    await context.close()


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_foreign_page_changes_nothing(
    attack: str, installation: Installation, visitor: Page, elsewhere: tuple[str, dict[str, str]]
) -> None:
    site, pages = elsewhere
    day = f"2001-01-{list(ATTACKS).index(attack) + 1:02}"
    query = mutation(day)
    pages[attack] = ATTACKS[attack].format(
        url=installation.url, query=quote(query, safe=""), body=json.dumps(json.dumps({"query": query}))
    )
    tried = asyncio.Event()
    for outcome in ("requestfinished", "requestfailed"):
        visitor.on(outcome, lambda request: tried.set() if "/graphql" in request.url else None)
    await visitor.goto(f"{site}/{attack}")
    async with asyncio.timeout(HANG):
        await tried.wait()
    assert day not in await days(installation)


async def test_a_foreign_page_opens_no_websocket(
    installation: Installation, visitor: Page, elsewhere: tuple[str, dict[str, str]]
) -> None:
    site, pages = elsewhere
    pages["empty"] = "<p>"
    opens = """url => new Promise(done => { const socket = new WebSocket(url, 'graphql-ws');
        socket.onopen = () => done('open'); socket.onerror = () => done('refused') })"""
    url = installation.url.replace("http://", "ws://") + "/graphql"
    await visitor.goto(f"{site}/empty")
    assert await visitor.evaluate(opens, url) == "refused"
    await visitor.goto(installation.url)
    assert await visitor.evaluate(opens, url) == "open"


async def test_a_foreign_page_frames_nothing(
    installation: Installation, visitor: Page, elsewhere: tuple[str, dict[str, str]]
) -> None:
    site, pages = elsewhere
    pages["frame"] = f"<iframe src='{installation.url}/runs'></iframe>"
    await visitor.goto(f"{site}/frame", wait_until="load")
    (frame,) = visitor.frames[1:]
    assert not frame.url.startswith(installation.url)


async def test_a_name_that_was_rebound_is_refused(installation: Installation) -> None:
    async with httpx.AsyncClient(base_url=installation.url) as client:
        headers = {"Host": "evil.example", "Origin": "http://evil.example"}
        answer = await client.post("/graphql", json={"query": mutation("2001-02-01")}, headers=headers)
    assert answer.status_code == 421
    assert "2001-02-01" not in await days(installation)


async def test_the_own_page_changes_what_it_asks(installation: Installation, visitor: Page) -> None:
    """The same mutation: what was refused above was refused for who asked, and the check above sees a change."""
    await visitor.goto(installation.url)
    asks = """body => fetch('/graphql', {method: 'POST', headers: {'Content-Type': 'application/json'}, body})
        .then(answer => answer.status)"""
    assert await visitor.evaluate(asks, json.dumps({"query": mutation("2001-03-01")})) == 200
    assert "2001-03-01" in await days(installation)
