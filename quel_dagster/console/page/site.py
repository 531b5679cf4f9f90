"""Shared state of the page: connections, opened once for the web server's event loop, and templates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.retry_policy import PERSON_SECONDS
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.console import words
from quel_dagster.console.connections import Connections
from quel_dagster.console.page.tokens import Tokens
from quel_dagster.redaction import redact
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

T = TypeVar("T")

#: The page runs only its own script, sends forms only to itself, and is shown in no frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class HealthLine(Protocol):
    """A finding of `quel doctor`."""

    @property
    def part(self) -> str: ...
    @property
    def said(self) -> str: ...
    @property
    def remedy(self) -> str: ...
    @property
    def result(self) -> str:
        """ok, warning or failed."""


@dataclass
class Site:
    """The page of one installation."""

    settings: Settings
    instance: DagsterInstance
    #: runs the checks of `quel doctor`; blocks for some seconds
    look_at_health: Callable[[], Iterable[HealthLine]]
    tokens: Tokens = field(default_factory=Tokens)
    _parts: Connections | None = None
    _store: ObjectStore | None = None
    _kept: dict[str, tuple[float, Any]] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("quel_dagster.console.page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(ago=words.ago, at=words.at, span=words.span, plural=words.plural)
        self._templates.globals["between"] = words.seconds_between

    @property
    def connections(self) -> Connections:
        """The connections, opened at the first use: a connection pool belongs to the event loop that uses it.

        Raises:
            SettingsError: DATABASE_URL or REDIS_URL is not set.
        """
        if self._parts is None:
            redis_url = self.settings.required_redis_url()
            database = Database(self.settings.required_database_url(), pool_size=2, retry_seconds=PERSON_SECONDS)
            self._parts = Connections(
                self.settings, database, JobQueue(redis_url), self._dagster, self.settings.webserver_url
            )
        return self._parts

    @property
    def store(self) -> ObjectStore:
        """The object store. Raises SettingsError when none is set."""
        if self._store is None:
            self._store = open_store(self.settings)
        return self._store

    async def aclose(self) -> None:
        """Close all open connections."""
        if self._parts is not None:
            await self._parts.database.aclose()
            self._parts.queue.close()
        if self._store is not None:
            await self._store.aclose()

    def _dagster(self) -> AbstractContextManager[DagsterInstance]:
        return nullcontext(self.instance)

    def user_of(self, request: Request) -> str:
        """Return the user that the proxy in front names (QUEL_USER_HEADER); empty when it names none."""
        header = self.settings.user_header
        return " ".join((request.headers.get(header, "") if header else "").split())[:100]

    async def kept(self, name: str, seconds: float, make: Callable[[], Awaitable[T]]) -> T:
        """Return a result of `make` that is at most this many seconds old, shared by all viewers."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            until, value = self._kept.get(name, (0.0, None))
            if until < time.monotonic():
                value = await make()
                self._kept[name] = (time.monotonic() + seconds, value)
            return cast(T, value)

    async def health(self) -> Sequence[HealthLine]:
        """Return the findings of doctor, at most a minute old."""

        async def check() -> Sequence[HealthLine]:
            return await asyncio.to_thread(lambda: list(self.look_at_health()))

        return await self.kept("health", 60.0, check)

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a template and redact secrets in the result, as in every other output."""
        here = request.scope.get("root_path", "")
        html = self._templates.get_template(template).render(
            here=here, dagster=here.removesuffix("/quel"), path=request.url.path, **values
        )
        return HTMLResponse(redact(html), status_code=status, headers=HEADERS)
