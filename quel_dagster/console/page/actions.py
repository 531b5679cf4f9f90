"""Actions from the page: a confirmation form with a dry run, and the result.

A form is signed for exactly its action and jobs, so that a page of another site cannot send one (`tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from quel_dagster.adapters.database import actions
from quel_dagster.adapters.database.actions import Actor
from quel_dagster.adapters.database.job_list import Filter, matching_jobs
from quel_dagster.adapters.intake import pause_intake, resume_intake
from quel_dagster.console import acting
from quel_dagster.console.acting import ActionResult
from quel_dagster.console.page.query import filter_of, in_words
from quel_dagster.console.page.site import Site
from quel_dagster.console.words import plural
from quel_dagster.errors import QuelError

#: maximum of jobs per form
_MOST = 500
#: maximum bytes of a form
_LARGEST_FORM = 100_000
_ON_JOBS = ("retry", "cancel", "refund")
_ON_INTAKE = ("pause", "resume")
_WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class Action:
    """The action of a form."""

    verb: str
    job_ids: tuple[UUID, ...]

    @property
    def signed(self) -> tuple[str, ...]:
        return (self.verb, *map(str, self.job_ids))


async def confirm(site: Site, request: Request) -> Response:
    """Show what the action would do to each job, and the form that executes it."""
    params = request.query_params
    verb = params.get("verb", "")
    if verb not in (*_ON_JOBS, *_ON_INTAKE):
        raise QuelError("There is no such action; go back and choose one.")
    job_ids = await _chosen(site, params) if verb in _ON_JOBS else []
    preview = Actor(name="", via="page")
    would = [await _act_on(site, verb, job_id, preview, dry_run=True) for job_id in job_ids]
    action = Action(verb, tuple(result.job_id for result in would if result.result == "done" and result.job_id))
    return site.page(
        request,
        "confirm.html",
        verb=verb,
        would=would,
        names=await _names(site, job_ids),
        title=in_words(params) if "job" not in params else "",
        job_ids=action.job_ids,
        token=site.tokens.sign(*action.signed),
        needs_reason=verb in {"pause", "refund"},
        operator=site.user_of(request),
        remembered=request.cookies.get("quel_operator", ""),
    )


async def _chosen(site: Site, params: QueryParams) -> list[UUID]:
    if words := params.getlist("job"):
        try:
            return [UUID(word) for word in words[:_MOST]]
        except ValueError:
            raise QuelError("A job id is not a UUID; go back and choose the job again.") from None
    rows = await matching_jobs(site.connections.database, await filter_of(site.connections, params), most=_MOST)
    return [row.job_id for row in rows]


async def _names(site: Site, job_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return what people call these jobs."""
    rows = await matching_jobs(site.connections.database, Filter(job_ids=tuple(job_ids)), most=_MOST)
    return {row.job_id: row.production_name or row.category for row in rows}


async def act(site: Site, request: Request) -> Response:
    """Execute the action of a signed form, and show the result."""
    _refuse_other_sites(site, request)
    form = await _form(request)
    try:
        action = Action(_one(form, "verb"), tuple(UUID(word) for word in form.get("job", ())))
    except ValueError:
        raise QuelError("A job id is not a UUID; go back and choose the job again.") from None
    if not site.tokens.fits(_one(form, "token"), *action.signed):
        raise QuelError("This form is not valid any more (the web server was restarted); go back and confirm again.")
    operator = site.user_of(request) or " ".join(_one(form, "operator").split())[:100]
    if not operator:
        raise QuelError("Your name is missing: it is written into the action log. Go back and fill it in.")
    reason = " ".join(_one(form, "reason").split())[:400]
    actor = Actor(name=operator, via="page", reason=reason or None)
    results: list[ActionResult] = []
    said = ""
    if action.verb == "refund" and not reason:
        raise QuelError("The reason is missing: the ledger keeps it. Go back and fill it in.")
    if action.verb == "refund":
        results = [result for job_id in action.job_ids for result in await _refund(site, job_id, actor)]
    elif action.verb in _ON_JOBS:
        results = [await _act_on(site, action.verb, job_id, actor) for job_id in action.job_ids]
    else:
        said = _act_on_intake(site, action.verb, operator, reason)
        await actions.record(site.connections.database, actor, action.verb, said=said)
    names = await _names(site, action.job_ids)
    page = site.page(request, "done.html", verb=action.verb, results=results, said=said, names=names)
    page.set_cookie("quel_operator", operator, max_age=31_536_000, httponly=True, samesite="strict")
    return page


async def _act_on(site: Site, verb: str, job_id: UUID, actor: Actor, *, dry_run: bool = False) -> ActionResult:
    if verb == "retry":
        return await acting.retry(site.connections, job_id, actor, force=False, dry_run=dry_run)
    if verb == "refund":
        prices = await acting.refundable(site.connections, job_id)
        said = f"{plural(len(prices), 'charged picture')} would be refunded: {sum(prices.values()):,} credits"
        return ActionResult(
            job_id=job_id, result="done" if prices else "nothing", said=said if prices else "nothing is left to refund"
        )
    return await acting.cancel(site.connections, job_id, actor, wait_seconds=_WAIT_SECONDS, dry_run=dry_run)


async def _refund(site: Site, job_id: UUID, actor: Actor) -> list[ActionResult]:
    return [
        await acting.refund(site.connections, attach_id, actor)
        for attach_id in await acting.refundable(site.connections, job_id)
    ]


def _act_on_intake(site: Site, verb: str, operator: str, reason: str) -> str:
    client = site.connections.queue.client
    if verb == "resume":
        ended = resume_intake(client)
        return "The intake is open again." if ended else "The intake was not paused by an operator."
    if not reason:
        raise QuelError("The reason is missing: doctor, the sensor and this page show it. Go back and fill it in.")
    return f"{pause_intake(client, reason, by=operator)}."


def _refuse_other_sites(site: Site, request: Request) -> None:
    """Check the origin, in addition to the check of the whole web server, which accepts programs without an Origin."""
    own = {request.headers.get("host"), urlsplit(site.settings.webserver_url or "").netloc or None} - {None}
    if urlsplit(request.headers.get("origin", "")).netloc not in own:
        raise QuelError("This form was not sent by this page; nothing was done.")


async def _form(request: Request) -> dict[str, list[str]]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_FORM:
            raise QuelError("This form is too large; nothing was done.")
    return parse_qs(body.decode(errors="replace"))


def _one(form: dict[str, list[str]], name: str) -> str:
    values: Sequence[str] = form.get(name, ("",))
    return values[0]
