"""ASGI middleware in front of Dagster's web server: no other web page can use an operator's browser to control it.

Dagster's web server has no login and executes mutations from a GET, a form or a foreign page. A proxy with a login does
not help, because the browser of an operator who is logged in sends the login along. The guard checks what browsers
state about every request and pages cannot forge: `Host` (DNS rebinding), `Origin`, `Sec-Fetch-Site`, and the content
type, which a page of another origin cannot set to JSON without asking first.

Not here: authentication of operators, which is the proxy's duty (docs/operations.md, Security).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
#: Paths of this project's pages, with forms that post to themselves. Everything else accepts only JSON.
FORM_PATHS = ("/quel",)
FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
#: A second policy beside Dagster's own; browsers enforce both. Pictures come from this server or from the page itself:
#: an address in a user's text is never fetched.
POLICY = "frame-ancestors 'none'; form-action 'self'; img-src 'self' data: blob:; media-src 'self'; frame-src 'none'"
_READING = frozenset({"GET", "HEAD"})
_CLOSE_POLICY_VIOLATION = 1008
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused, as one line with the remedy."""

    status: int
    reason: str


@dataclass(frozen=True)
class OwnAddresses:
    """The addresses under which browsers reach this server.

    Attributes:
        hosts: host names and addresses, in lower case and without a port.
        origins: allowed origins regardless of the `Host`, for a proxy that rewrites it.
        any_address: also every IP address, because rebinding needs a name.
        path: path prefix of the server; empty: the root.
    """

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    any_address: bool = False
    path: str = ""

    @classmethod
    def of(
        cls, *, bound_to: str, webserver_url: str | None, more_hosts: Iterable[str] = (), path: str = ""
    ) -> OwnAddresses:
        """Return the addresses of a server that listens on `bound_to` and is announced as `webserver_url`."""
        url = urlsplit(webserver_url or "")
        wildcard = bound_to in {"0.0.0.0", "::", ""}  # noqa: S104 - compared, not bound
        named = [*more_hosts, *([url.hostname] if url.hostname else []), *([] if wildcard else [bound_to])]
        return cls(
            hosts=LOOPBACK_NAMES | {name.lower() for name in named},
            origins=frozenset({f"{url.scheme}://{url.netloc}".lower()}) if url.netloc else frozenset(),
            any_address=wildcard,
            path=path.rstrip("/"),
        )

    def has_host(self, host: str) -> bool:
        """Return whether this `Host` header names this server."""
        name = _host_name(host)
        return name in self.hosts or (self.any_address and _is_address(name))

    def has_origin(self, origin: str, host: str) -> bool:
        """Return whether this origin is one of this server, for a request to `host`."""
        return origin.lower() in self.origins or urlsplit(origin).netloc.lower() == host.lower()


class WebGuard:
    """Refuse requests of other web pages, and forbid them to frame this one."""

    def __init__(self, app: ASGIApp, *, own: OwnAddresses) -> None:
        self._app = app
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        refusal = refusal_of(scope, self._own)
        if refusal is None:
            await self._app(scope, receive, _unframed(send))
            return
        _log.warning("Refused %s %r: %s", scope.get("method", "WebSocket"), scope["path"][:200], refusal.reason)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _CLOSE_POLICY_VIOLATION, "reason": ""})
            return
        answer = PlainTextResponse(refusal.reason + "\n", refusal.status, {"X-Content-Type-Options": "nosniff"})
        await answer(scope, receive, _unframed(send))


def refusal_of(scope: Scope, own: OwnAddresses) -> Refusal | None:
    """Return why this request is refused; None when it is allowed."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not own.has_host(host):
        return Refusal(
            421,
            "The Host of this request is not an address of this server. Set QUEL_WEBSERVER_URL to the address that "
            "browsers use, or add the name to QUEL_WEBSERVER_HOSTS.",
        )
    if scope["type"] == "websocket":
        return _foreign(headers, host, own)
    method = scope["method"]
    if method in _READING:
        # with this Accept header Dagster answers with its query editor and executes nothing
        if scope["path"].endswith("/graphql") and "text/html" not in headers.get("accept", ""):
            return Refusal(405, "GraphQL is asked with POST and Content-Type: application/json.")
        return None
    if method != "POST":
        return Refusal(405, "Only GET, HEAD and POST are answered.")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind in FORM_TYPES and _takes_forms(scope["path"], own.path)):
        return Refusal(415, "POST needs Content-Type: application/json.")
    return _foreign(headers, host, own)


def _foreign(headers: Headers, host: str, own: OwnAddresses) -> Refusal | None:
    """Refuse a request by a page of another origin. Programs send neither header and are accepted."""
    if any(not own.has_origin(origin, host) for origin in headers.getlist("origin")):
        return Refusal(
            403,
            "A page of another origin made this request. Behind a proxy, set QUEL_WEBSERVER_URL to the address that "
            "browsers use.",
        )
    if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        return Refusal(403, "A page of another site made this request.")
    return None


def _takes_forms(path: str, below: str) -> bool:
    return any(path == f"{below}{own}" or path.startswith(f"{below}{own}/") for own in FORM_PATHS)


def _unframed(send: Send) -> Send:
    async def send_unframed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Frame-Options"] = "DENY"
            headers.append("Content-Security-Policy", POLICY)
        await send(message)

    return send_unframed


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
