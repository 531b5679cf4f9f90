"""The URLs below /quel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files

from redis import RedisError
from sqlalchemy.exc import DBAPIError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.console.page import actions, pictures, views
from quel_dagster.console.page.site import HEADERS, Site
from quel_dagster.errors import JobNotFoundError, QuelError

Handler = Callable[[Site, Request], Awaitable[Response]]

_STATIC = {"style.css": "text/css", "refresh.js": "text/javascript"}


def routes(site: Site) -> list[BaseRoute]:
    """Return the routes to mount on Dagster's web server, before its own."""

    def get(path: str, handler: Handler) -> Route:
        return Route(path, partial(_answer, site, handler), methods=["GET"])

    def post(path: str, handler: Handler) -> Route:
        return Route(path, partial(_answer, site, handler), methods=["POST"])

    below = [
        get("/", views.overview),
        get("/jobs", views.jobs),
        get("/jobs/{job}", views.job),
        get("/members/{member}", views.member),
        get("/search", views.search),
        get("/dead", views.dead),
        get("/actions", views.log),
        get("/runs/{run}", views.run),
        get("/pictures/{attach_id:int}", pictures.picture),
        get("/confirm", actions.confirm),
        post("/act", actions.act),
        get("/static/{name}", _static),
        get("/{path:path}", views.not_found),
    ]
    return [Route("/quel", _to_the_page), Mount("/quel", routes=below)]


async def _to_the_page(request: Request) -> Response:
    return RedirectResponse(request.scope.get("root_path", "") + "/quel/")


async def _answer(site: Site, handler: Handler, request: Request) -> Response:
    """Answer a request; show an error as one readable line with a remedy."""
    try:
        return await handler(site, request)
    except JobNotFoundError as error:
        return site.page(request, "error.html", status=404, title="Not found", said=str(error))
    except QuelError as error:
        return site.page(request, "error.html", status=400, title="That did not work", said=str(error))
    except RedisError as error:
        return site.page(request, "error.html", status=503, title="Redis", said=str(unreachable(error)))
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        said = f"PostgreSQL does not answer as it should ({type(error.orig).__name__}{f', {state}' if state else ''})."
        return site.page(request, "error.html", status=503, title="PostgreSQL", said=f"{said} `quel doctor` says why.")


async def _static(site: Site, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        return await views.not_found(site, request)
    body = (files("quel_dagster.console.page") / "static" / name).read_bytes()
    return Response(body, media_type=_STATIC[name], headers={**HEADERS, "Cache-Control": "max-age=60"})
