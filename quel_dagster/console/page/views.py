"""Read-only pages: overview, lists of jobs, a job, a member, search, dead letters."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from quel_dagster.adapters.database import actions
from quel_dagster.adapters.database.job_list import (
    Filter,
    JobRow,
    is_beginning_of_uuid,
    job_rows,
    jobs_by_id,
    matching_jobs,
    search_productions,
)
from quel_dagster.adapters.database.ledger import credits_since, ledger_of_job
from quel_dagster.adapters.database.members import member_account, search_members
from quel_dagster.console import overview as model
from quel_dagster.console.acting import refundable
from quel_dagster.console.advice import advice
from quel_dagster.console.inspection import InspectedPicture, JobInspection, Missing, inspect
from quel_dagster.console.lookup import find_job, find_member
from quel_dagster.console.page.query import filter_of, in_words
from quel_dagster.console.page.site import Site
from quel_dagster.errors import JobNotFoundError, QuelError
from quel_dagster.jobs.model import JobStatus, Unit

#: maximum of jobs per list
_MOST = 200
#: maximum of characters of job_input_data shown
_INPUT = 20_000


async def overview(site: Site, request: Request) -> Response:
    """Show the state of the installation."""
    connections, now = site.connections, datetime.now(UTC)
    today, hour = now.replace(hour=0, minute=0, second=0, microsecond=0), now - timedelta(hours=1)
    # the ledger has no index on time: cache its sum for a minute, the rest for two seconds
    money = await site.kept("credits", 60.0, lambda: credits_since(connections.database, today))
    stats = await site.kept("today", 2.0, lambda: model.stats(connections, today, with_credits=False))
    last_hour = await site.kept("hour", 2.0, lambda: model.stats(connections, hour, with_credits=False))
    open_jobs = await site.kept("open", 2.0, lambda: model.open_jobs(connections, Filter()))
    recent = await site.kept(
        "recent",
        2.0,
        lambda: matching_jobs(connections.database, Filter(ended_since=now - timedelta(days=1)), most=12),
    )
    return site.page(
        request,
        "overview.html",
        stats=stats,
        last_hour=last_hour,
        money=money,
        at_work=[job for job in open_jobs if job.row.worker is not None],
        in_line=[job for job in open_jobs if job.row.worker is None],
        recent=recent,
        health=await site.health(),
        now=now,
    )


async def jobs(site: Site, request: Request) -> Response:
    """List the matching jobs, newest first, with the actions on all of them."""
    wanted = await filter_of(site.connections, request.query_params)
    found = await matching_jobs(site.connections.database, wanted, most=_MOST + 1)
    return site.page(
        request,
        "jobs.html",
        rows=found[:_MOST],
        more=len(found) > _MOST,
        title=in_words(request.query_params),
        query=request.url.query,
        params=request.query_params,
        statuses=[*map(str, JobStatus), "partial"],
    )


async def job(site: Site, request: Request) -> Response:
    """Show everything about one job."""
    connections = site.connections
    job_id = await find_job(connections, request.path_params["job"])
    found = await inspect(connections, job_id)
    rows = await job_rows(connections.database, [job_id])
    if not rows:
        raise JobNotFoundError.of(job_id)
    return site.page(
        request,
        "job.html",
        job=found,
        row=rows[0],
        advice=advice(found),
        ledger=await ledger_of_job(connections.database, job_id),
        refundable=await refundable(connections, job_id),
        timeline=_timeline(found, rows[0]),
        units=_units(found),
        others=[picture for picture in found.pictures if picture.unit is None],
        asked=json.dumps(found.job.job_input_data, indent=2, ensure_ascii=False)[:_INPUT],
    )


@dataclass(frozen=True)
class _UnitShown:
    """A planned unit with its pictures and its missing pictures."""

    unit: Unit
    pictures: list[InspectedPicture]
    missing: list[Missing]


def _units(job: JobInspection) -> list[_UnitShown]:
    return [
        _UnitShown(
            unit=unit,
            pictures=[picture for picture in job.pictures if picture.unit == unit.key],
            missing=[missing for missing in job.missing if missing.unit == unit.key],
        )
        for unit in (job.plan.units if job.plan else ())
    ]


def _timeline(job: JobInspection, row: JobRow) -> list[tuple[datetime, str]]:
    """Return the history of the job, oldest first."""
    moments: list[tuple[datetime | None, str]] = [
        (row.created_at, "created by the web app"),
        (row.started_at, "begun"),
        (row.completed_at, f"ended {row.outcome}"),
        (job.cancel_kept_at, "cancel kept"),
        *((moment, "pushed again by the sweep") for moment in job.recovered_at),
    ]
    for run in job.runs:
        short = run.run_id[:8]
        moments += [
            (run.created_at, f"run {short} requested ({run.launch or 'launched'})"),
            (run.started_at, f"run {short} began"),
            (run.ended_at, f"run {short} ended: {run.outcome or run.status}"),
        ]
    moments += [
        (
            done.at,
            f"{done.action} by {done.actor} ({done.via}): {done.said}{f' ({done.reason})' if done.reason else ''}",
        )
        for done in job.actions
    ]
    return sorted((moment, what) for moment, what in moments if moment is not None)


async def member(site: Site, request: Request) -> Response:
    """Show what a member received and paid, and the balance."""
    found = await find_member(site.connections, request.path_params["member"])
    return site.page(
        request,
        "member.html",
        account=await member_account(site.connections.database, found, rows=50),
        rows=await matching_jobs(site.connections.database, Filter(member_id=found.member_id), most=50),
    )


async def search(site: Site, request: Request) -> Response:
    """Search by id prefix, run, name or e-mail address; a single match is shown at once."""
    word = request.query_params.get("q", "").strip()[:200]
    here = request.scope.get("root_path", "")
    if not word:
        return RedirectResponse(f"{here}/", status_code=303)
    try:
        job_id = await find_job(site.connections, word)
        await site.connections.database.jobs.find_job(job_id)
        return RedirectResponse(f"{here}/jobs/{job_id}", status_code=303)
    except QuelError:
        pass  # several matches, or none: both are shown as lists below
    database = site.connections.database
    ids: list[UUID] = await search_productions(database, word)
    if is_beginning_of_uuid(word):
        ids = [*await jobs_by_id(database, word, most=50), *ids]
    members = await search_members(database, word, most=20)
    rows = await job_rows(database, list(dict.fromkeys(ids)))
    if len(members) == 1 and not rows:
        return RedirectResponse(f"{here}/members/{members[0].member_id}", status_code=303)
    return site.page(request, "search.html", word=word, rows=rows, members=members)


async def dead(site: Site, request: Request) -> Response:
    """List the dead letters, newest first."""
    letters = await asyncio.to_thread(site.connections.queue.letters)
    return site.page(
        request,
        "dead.html",
        letters=[(letter, datetime.fromtimestamp(letter.at, UTC) if letter.at else None) for letter in letters[:_MOST]],
        count=len(letters),
    )


async def log(site: Site, request: Request) -> Response:
    """List the latest actions of operators."""
    return site.page(request, "actions.html", actions=await actions.newest(site.connections.database, most=_MOST))


async def run(site: Site, request: Request) -> Response:
    """Redirect from a run to its job."""
    job_id = await find_job(site.connections, request.path_params["run"])
    return RedirectResponse(f"{request.scope.get('root_path', '')}/jobs/{job_id}", status_code=303)


async def not_found(site: Site, request: Request) -> Response:
    """Answer an unknown URL."""
    return site.page(request, "error.html", status=404, title="Not found", said="There is no such page below /quel.")
