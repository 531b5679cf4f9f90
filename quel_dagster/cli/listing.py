"""`quel list`: list jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated

import typer

from quel_dagster.adapters.database.job_list import JobRow, matching_jobs
from quel_dagster.cli import connection
from quel_dagster.cli.filters import Choice, Member, OfCategory, Org, Reason, Status, StatusWord, make_filter
from quel_dagster.cli.output import AsJson, print_json, print_table, print_text
from quel_dagster.cli.since import Since
from quel_dagster.console.overview import OpenJob, open_jobs
from quel_dagster.console.words import ago, plural, seconds_between, span
from quel_dagster.settings import Settings


def list_jobs(
    *,
    status: Status = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only waiting and running jobs, in the order of service.")
    ] = False,
    reason: Reason = None,
    category: OfCategory = None,
    member: Member = None,
    org: Org = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum of jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    With --open the order is that of service: running jobs, then waiting ones with their queue position (runs queued
    in Dagster come before ids in jobs:queue) and, if it can be estimated, the time until they begin.
    """
    settings = connection.connect()
    in_service_order = only_open and not status
    if only_open and status:
        status = [*status, StatusWord.PENDING, StatusWord.PROCESSING]
    choice = Choice(
        status=status, reason=reason, member=member, org=org, category=category, since=since, limit=limit + 1
    )
    found = asyncio.run(_open(settings, choice) if in_service_order else _jobs(settings, choice))
    shown = found[:limit]
    if as_json:
        print_json([_as_data(job) for job in shown])
        return
    if not shown:
        print_text("No job matches.")
        return
    if in_service_order:
        _print_open([job for job in shown if isinstance(job, OpenJob)])
    else:
        _print_jobs([job for job in shown if isinstance(job, JobRow)])
    if len(found) > limit:
        print_text(f"\nThere are more than {plural(limit, 'job')}; see --limit and --since.")


async def _jobs(settings: Settings, choice: Choice) -> list[JobRow | OpenJob]:
    async with connection.open_connections(settings) as connections:
        return [*await matching_jobs(connections.database, await make_filter(connections, choice), most=choice.limit)]


async def _open(settings: Settings, choice: Choice) -> list[JobRow | OpenJob]:
    async with connection.open_connections(settings) as connections:
        return [*await open_jobs(connections, await make_filter(connections, choice))]


def _as_data(job: JobRow | OpenJob) -> dict[str, object]:
    if isinstance(job, OpenJob):
        return {**job.row.model_dump(), "place": job.place, "where": job.where, "eta_seconds": job.eta_seconds}
    return job.model_dump()


def _print_jobs(jobs: Iterable[JobRow]) -> None:
    print_table(
        ("JOB", ">AGE", "STATUS", ">PICTURES", ">SECONDS", "CATEGORY", "MEMBER", "~NAME", "_REASON"),
        (
            (
                job.job_id,
                ago(job.created_at),
                job.outcome,
                f"{job.completed_images}/{job.total_images}",
                seconds_between(job.started_at, job.completed_at),
                job.category,
                job.member,
                job.production_name,
                job.error_message,
            )
            for job in jobs
        ),
    )


def _print_open(jobs: Iterable[OpenJob]) -> None:
    print_table(
        (">PLACE", "JOB", ">AGE", "STATUS", ">PICTURES", "WHERE", ">ABOUT", "MEMBER", "~NAME"),
        (
            (
                job.place,
                job.row.job_id,
                ago(job.row.created_at),
                job.row.status,
                f"{job.row.completed_images}/{job.row.total_images}",
                job.where,
                _about(job),
                job.row.member,
                job.row.production_name,
            )
            for job in jobs
        ),
    )


def _about(job: OpenJob) -> str | None:
    if job.eta_seconds is None:
        return None
    return f"{span(job.eta_seconds)} {'left' if job.place is None else 'to begin'}"
