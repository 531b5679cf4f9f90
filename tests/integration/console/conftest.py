"""The page at /quel over real parts, asked as a browser asks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.testclient import TestClient

from quel_dagster.cli.doctor.finding import Finding, Result
from quel_dagster.console.page.routes import routes
from quel_dagster.console.page.site import Site
from quel_dagster.platform.web_guard import OwnAddresses, WebGuard
from quel_dagster.settings import Settings
from tests.integration.cli.conftest import Runs, _dagster, queue, runs, variables

__all__ = ["_dagster", "queue", "runs", "variables"]

ORIGIN = "http://quel.example"
_HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


@dataclass
class Visitor:
    """A browser: follows redirects, and sends the forms that it was given."""

    client: TestClient
    site: Site
    findings: list[Finding]
    #: path prefix of the web server
    prefix: str = ""

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.client.get(f"{self.prefix}/quel{path}", params=params)

    def form(self, **params: Any) -> dict[str, list[str]]:
        """The hidden fields of the form on a page that confirms an action."""
        page = self.get("/confirm", **params)
        assert page.status_code == 200, page.text
        fields: dict[str, list[str]] = {}
        for name, value in _HIDDEN.findall(page.text):
            fields.setdefault(name, []).append(value)
        return fields

    def send(self, fields: dict[str, Any], *, origin: str | None = ORIGIN, **more: Any) -> httpx.Response:
        headers = {"origin": origin} if origin else {}
        return self.client.post(f"{self.prefix}/quel/act", data={**fields, **more}, headers=headers)


@contextmanager
def visiting(runs: Runs, prefix: str = "") -> Iterator[Visitor]:
    """The page at the root, without the guard of the web server; or below a path, behind it."""
    findings = [Finding(part="Redis", result=Result.OK, said="answers")]
    site = Site(Settings.read(_env_file=None), runs.instance, lambda: list(findings))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await site.aclose()

    own = OwnAddresses.of(bound_to="127.0.0.1", webserver_url=f"{ORIGIN}{prefix}", path=prefix)
    app = Starlette(
        routes=[Mount(prefix, routes=routes(site))],
        lifespan=lifespan,
        middleware=[Middleware(WebGuard, own=own)] if prefix else [],
    )
    with TestClient(app, base_url=ORIGIN) as client:
        yield Visitor(client, site, findings, prefix)


@pytest.fixture
def visitor(runs: Runs) -> Iterator[Visitor]:
    with visiting(runs) as visitor:
        yield visitor
