"""`quel cancel`, `quel retry`, `quel refund`: act on named jobs, or on jobs that match a filter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated
from uuid import UUID

import typer

from quel_dagster.adapters.database.actions import Actor
from quel_dagster.adapters.database.job_list import matching_jobs
from quel_dagster.adapters.database.ledger import job_of_picture
from quel_dagster.cli import connection
from quel_dagster.cli.actor import As, Why, actor_of
from quel_dagster.cli.filters import Choice, Member, Org, Reason, Status, make_filter
from quel_dagster.cli.output import AsJson, JobWords, print_json, print_text, printable
from quel_dagster.cli.since import Since
from quel_dagster.console import acting
from quel_dagster.console.acting import ActionResult
from quel_dagster.console.connections import Connections
from quel_dagster.console.lookup import find_job, find_jobs
from quel_dagster.console.words import plural

#: maximum of jobs per command, unless --limit is given
_MOST = 500

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before acting on jobs found by a filter.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Act on at most this many jobs, newest first.")]


def cancel(
    job_ids: JobWords = None,
    *,
    status: Status = None,
    reason: Reason = None,
    member: Member = None,
    org: Org = None,
    since: Since = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a live run to end.")] = 5.0,
    who: As = None,
    why: Why = None,
    limit: Limit = _MOST,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs as an operator: they end cancelled, with your name and --why as their error message.

    A waiting job is ended at once; a run stops within 2 s, even during a call to Gemini. Pictures that were made
    stay, and stay charged; `quel retry` makes the rest. Name the jobs, or give a filter such as --status pending
    --since 1h.
    """
    actor = Actor(name=actor_of(who), via="cli", reason=why)

    async def act(connections: Connections, job_id: UUID) -> ActionResult:
        return await acting.cancel(connections, job_id, actor, wait_seconds=wait, dry_run=dry_run)

    chosen = Choice(words=job_ids, status=status, reason=reason, member=member, org=org, since=since, limit=limit)
    _act("cancel", chosen, act, dry_run=dry_run, yes=yes, as_json=as_json)


def retry(
    job_ids: JobWords = None,
    *,
    status: Status = None,
    reason: Reason = None,
    member: Member = None,
    org: Org = None,
    since: Since = None,
    force: Annotated[bool, typer.Option(help="Push a job even if a worker seems to have it.")] = False,
    who: As = None,
    why: Why = None,
    limit: Limit = _MOST,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Push ended or stranded jobs again.

    A run makes and charges only the missing pictures. Jobs that are queued, running or cancelled by their user are
    not touched. Name the jobs, or give a filter such as --status failed --status partial --reason overloaded --since
    1h.
    """
    actor = Actor(name=actor_of(who), via="cli", reason=why)

    async def act(connections: Connections, job_id: UUID) -> ActionResult:
        return await acting.retry(connections, job_id, actor, force=force, dry_run=dry_run)

    chosen = Choice(words=job_ids, status=status, reason=reason, member=member, org=org, since=since, limit=limit)
    _act("retry", chosen, act, dry_run=dry_run, yes=yes, as_json=as_json)


def refund(
    what: Annotated[str, typer.Argument(metavar="JOB|ATTACH", help="A job, or the attach id of one picture.")],
    reason: Annotated[str, typer.Option(help="The reason, for the ledger and the action log.")],
    who: As = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Refund credits: of one picture, or of every charged picture of a job.

    Writes a ledger row and the balance in one transaction, at most once per picture, to the payer; the pictures
    stay. A word of digits only is an attach id.
    """
    settings = connection.connect()
    actor = Actor(name=actor_of(who), via="cli", reason=reason)

    async def found() -> dict[int, int | None]:
        async with connection.open_connections(settings) as connections:
            if not what.strip().isdecimal():
                return {**await acting.refundable(connections, await find_job(connections, what))}
            job_id = await job_of_picture(connections.database, int(what))
            charged = await acting.refundable(connections, job_id) if job_id else {}
            return {int(what): charged.get(int(what))}

    async def acted(attach_ids: Sequence[int]) -> list[ActionResult]:
        async with connection.open_connections(settings) as connections:
            return [await acting.refund(connections, attach_id, actor) for attach_id in attach_ids]

    prices = asyncio.run(found())
    if not prices:
        print_text("This job has no picture that is charged and not refunded." if not as_json else "[]")
        return
    if not yes:
        credits_back = sum(price or 0 for price in prices.values())
        of_these = f", {credits_back:,} credits" if credits_back else ""
        typer.confirm(f"Refund {plural(len(prices), 'picture')}{of_these}?", abort=True, err=True)
    results = asyncio.run(acted([*prices]))
    _report(results, [result.said for result in results], as_json=as_json)


def _act(
    verb: str,
    chosen: Choice,
    act: Callable[[Connections, UUID], Awaitable[ActionResult]],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    if not chosen.words and not chosen.filters:
        raise typer.BadParameter(f"name the jobs to {verb}, or give a filter such as --status failed --since 1h.")
    if chosen.words and chosen.filters:
        raise typer.BadParameter("name jobs or give a filter, not both.")
    settings = connection.connect()

    async def found() -> list[UUID]:
        async with connection.open_connections(settings) as connections:
            if chosen.words:
                return await find_jobs(connections, chosen.words)
            rows = await matching_jobs(connections.database, await make_filter(connections, chosen), most=chosen.limit)
            return [row.job_id for row in rows]

    async def acted(job_ids: Sequence[UUID]) -> list[ActionResult]:
        async with connection.open_connections(settings) as connections:
            return [await act(connections, job_id) for job_id in job_ids]

    job_ids = asyncio.run(found())
    if not job_ids:
        print_text("No job matches." if not as_json else "[]")
        return
    if chosen.filters and not dry_run and not yes:
        typer.confirm(f"{verb.capitalize()} {plural(len(job_ids), 'job')}?", abort=True, err=True)
    results = asyncio.run(acted(job_ids))
    _report(results, [f"{result.job_id}: {printable(result.said)}" for result in results], as_json=as_json)


def _report(results: Sequence[ActionResult], lines: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json(list(results))
    else:
        for line in lines:
            print_text(line)
    if any(result.result == "refused" for result in results):
        raise typer.Exit(1)
