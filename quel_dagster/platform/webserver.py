"""Dagster's web server, behind a guard against other web pages, with a list of runs that people can read.

    python -m quel_dagster.platform.webserver …      the same command line as dagster-webserver

The list of runs shows every tag that is not Dagster's own in a separate line, nine for a run of this project, so that a
screen holds three runs. People can hide tags there (*Hide tag*), per browser, in its local storage. This sets that
list for a browser that has none yet: ids that are not readable are hidden. They stay visible behind *View all tags*,
in the filter and on the run's page, and *Show tag in table* shows one again; a choice that a person made is kept.
The tag with a job's outcome is coloured.

It uses private modules of an exactly pinned Dagster. If an upgrade has moved them, the list of runs is as shipped,
and a server that would be without its guard does not start.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from typing_extensions import override

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.retry_policy import PERSON_SECONDS
from quel_dagster.platform.internals import WEB_SERVER, DagsterWebserver, check_internals
from quel_dagster.platform.internals import webserver_app as app
from quel_dagster.platform.internals import webserver_main as main
from quel_dagster.platform.tags import JOB_TYPE_TAG, MEMBER_TAG, ORG_TAG, OUTCOME_TAG, PRODUCTION_ID_TAG
from quel_dagster.platform.web_api import WebApi, WebApiAccess
from quel_dagster.platform.web_guard import LOOPBACK_NAMES, OwnAddresses, WebGuard
from quel_dagster.settings import Settings

#: the key in local storage, of Dagster's useTagPinning
HIDDEN_TAGS_KEY = "unpinned-tags"
HIDDEN_TAGS = (JOB_TYPE_TAG, MEMBER_TAG, ORG_TAG, PRODUCTION_ID_TAG)

_SCRIPT = (
    f"try {{ if (localStorage.getItem({json.dumps(HIDDEN_TAGS_KEY)}) === null) "
    f"localStorage.setItem({json.dumps(HIDDEN_TAGS_KEY)}, {json.dumps(json.dumps(HIDDEN_TAGS))}) }} catch {{}}"
)
#: colours of Dagster's palette for the tag with a job's outcome: beside a partial job its list says Success, in green
_OUTCOME_COLOURS = {
    "completed": "green",
    "partial": "yellow",
    "failed": "red",
    "cancelled": "yellow",
    "user_cancelled": "yellow",
}
_STYLE = "".join(
    f'.BaseTag:has([data-tooltip="{OUTCOME_TAG}: {outcome}"]){{'
    f"--tag-fill-color:var(--color-background-{colour})!important;"
    f"--tag-text-color:var(--color-text-{colour})!important}}"
    for outcome, colour in _OUTCOME_COLOURS.items()
)
_NONCE = re.compile(r'<script nonce="([^"]+)">')


MoreRoutes = Callable[[Any], list[BaseRoute]]
#: called with the request and, for each run that it asks to terminate, whether Dagster accepted it
OnTerminate = Callable[[Request, Mapping[str, bool]], Awaitable[None]]


class QuelWebserver(DagsterWebserver[Any, Any]):
    """Dagster's web server with a guard against other web pages, and a default for hidden tags."""

    #: set by the command line below, before Dagster builds the server
    own_addresses: ClassVar[OwnAddresses] = OwnAddresses(hosts=LOOPBACK_NAMES)
    #: before the guard: its calls carry a token, and may come from another site
    web_api: ClassVar[Middleware | None] = None

    @override
    def build_middleware(self) -> list[Middleware]:
        web_api = [self.web_api] if self.web_api is not None else []
        return [*web_api, Middleware(WebGuard, own=self.own_addresses), *super().build_middleware()]

    #: additional routes beside Dagster's own pages; called with Dagster's process context
    more_routes: ClassVar[MoreRoutes | None] = None

    @override
    def build_routes(self) -> list[BaseRoute]:
        own: list[BaseRoute] = super().build_routes()  # type: ignore[no-untyped-call]
        if QuelWebserver.more_routes is None:
            return own
        return with_more_routes(own, QuelWebserver.more_routes(self._process_context))

    #: told of every Terminate in Dagster's own pages
    on_terminate: ClassVar[OnTerminate | None] = None

    async def execute_graphql_request(
        self, request: Request, query: str, variables: dict[str, Any] | None, operation_name: str | None
    ) -> JSONResponse:
        answer: JSONResponse = await super().execute_graphql_request(request, query, variables, operation_name)
        if QuelWebserver.on_terminate and (accepted := terminations(query, variables, bytes(answer.body))):
            await QuelWebserver.on_terminate(request, accepted)
        return answer

    @override
    def index_html_endpoint(self, request: Request) -> HTMLResponse:
        page: HTMLResponse = super().index_html_endpoint(request)
        headers = {name: value for name, value in page.headers.items() if name != "content-length"}
        return HTMLResponse(with_hidden_tags(bytes(page.body).decode()), headers=headers)


def terminations(query: str, variables: Mapping[str, Any] | None, answer: bytes) -> dict[str, bool]:
    """Return the runs that a request of Dagster's pages asks to terminate, and whether each was accepted.

    The pages send ids as variables; a program that writes them into its query is not recognized.
    """
    if "terminate" not in query or not variables:
        return {}
    run_ids = variables.get("runIds") or [variables.get("runId")]
    data = json.loads(answer).get("data") or {}
    of_many = (data.get("terminateRuns") or {}).get("terminateRunResults") or []
    of_one = data.get("terminateRun") or data.get("terminatePipelineExecution")
    results = of_many or ([of_one] if of_one else [])
    kinds = [str((result or {}).get("__typename", "")) for result in results]
    kinds += [""] * (len(run_ids) - len(kinds))
    return {run_id: "Success" in kind for run_id, kind in zip(run_ids, kinds, strict=False) if isinstance(run_id, str)}


def with_more_routes(own: list[BaseRoute], more: list[BaseRoute]) -> list[BaseRoute]:
    """Return Dagster's routes after `more`; with a path prefix, inside the one mount that takes every path below."""
    if own and isinstance(own[0], Mount) and not any(isinstance(route, WebSocketRoute) for route in own):
        return [Mount(own[0].path, routes=[*more, *own[0].routes]), *own[1:]]
    return [*more, *own]


def with_hidden_tags(page: str) -> str:
    """Return the page with the script and the style in its head; unchanged if the place for them is not found."""
    nonce = _NONCE.search(page)
    if nonce is None:
        return page
    return page.replace("<head>", f'<head><script nonce="{nonce[1]}">{_SCRIPT}</script><style>{_STYLE}</style>', 1)


def use_our_webserver(arguments: Sequence[str] = ()) -> None:
    """Let the command line of dagster-webserver start this web server.

    Args:
        arguments: of that command line; `--host` and `--path-prefix` are an address of this server.

    Raises:
        SettingsError: this Dagster builds its server differently, so it would start without the guard.
    """
    check_internals(WEB_SERVER)
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--host", "-h", default="127.0.0.1")
    options.add_argument("--path-prefix", "-l", default="")
    given = options.parse_known_args(list(arguments))[0]
    settings = Settings.of_process()
    QuelWebserver.own_addresses = OwnAddresses.of(
        bound_to=given.host,
        webserver_url=settings.webserver_url,
        more_hosts=settings.webserver_hosts.replace(",", " ").split(),
        path=given.path_prefix,
    )
    QuelWebserver.web_api = _web_api(settings)
    app.DagsterWebserver = QuelWebserver


def _web_api(settings: Settings) -> Middleware | None:
    """Return the middleware for the web app's calls; None unless QUEL_WEB_API is on.

    Raises:
        SettingsError: it is on, and a setting is missing.
    """
    access = WebApiAccess.of(settings)
    if access is None:
        return None
    database = Database(settings.required_database_url(), pool_size=1, retry_seconds=PERSON_SECONDS)
    queue = JobQueue(settings.required_redis_url())
    return Middleware(WebApi, access=access, queue=queue, report=database.jobs.report)


def run(*, more_routes: MoreRoutes | None = None, on_terminate: OnTerminate | None = None) -> None:
    """Serve until stopped, with the command line of dagster-webserver, from sys.argv.

    Args:
        more_routes: additional routes beside Dagster's own pages.
        on_terminate: called after every Terminate in those.
    """
    QuelWebserver.more_routes = staticmethod(more_routes) if more_routes else None
    QuelWebserver.on_terminate = staticmethod(on_terminate) if on_terminate else None
    use_our_webserver(sys.argv[1:])
    main()


if __name__ == "__main__":
    run()
