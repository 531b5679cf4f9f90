"""HTTP connections to Gemini, and the address without its credentials."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx2

from quel_dagster.errors import SettingsError


class Connections(httpx2.AsyncClient):
    """A connection pool per event loop, since a connection cannot outlive its loop."""

    def __init__(self) -> None:
        self._options: dict[str, Any] = {
            "verify": httpx2.create_ssl_context(),  # slow to build, so all pools share it
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=50),
            "timeout": None,  # a call has a deadline of its own
            "follow_redirects": False,  # a redirect would carry the key to another server
        }
        super().__init__(**self._options)
        self._pools: dict[asyncio.AbstractEventLoop, httpx2.AsyncClient] = {}

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            for ended in [other for other in tuple(self._pools) if other.is_closed()]:
                self._pools.pop(ended, None)
            self._pools[loop] = httpx2.AsyncClient(**self._options)
        return await self._pools[loop].send(request, **options)

    async def aclose(self) -> None:
        """Close the pool of the running event loop; a later call, on any loop, opens a new one."""
        if pool := self._pools.pop(asyncio.get_running_loop(), None):
            await pool.aclose()


def address_and_headers(base_url: str | None) -> tuple[str | None, dict[str, str]]:
    """Return the base URL without its credentials, and the header that carries them instead.

    The transport logs the URL of every request, so a password must not be part of it.

    Raises:
        SettingsError: the URL is not one.
    """
    if base_url is None:
        return None, {}
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise SettingsError("GEMINI_BASE_URL: not a URL such as https://host/path.")
    if not url.userinfo:
        return str(url), {}
    login = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    return str(url.copy_with(username=None, password=None)), {"Authorization": f"Basic {login}"}
