"""`quel list`: which jobs there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from uuid import UUID

import typer

from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, ago, plural, print_json, print_table, say, seconds_between
from quel_dagster.cli.since import Since
from quel_dagster.jobs.model import Category, JobStatus

_OPEN = (JobStatus.PENDING, JobStatus.PROCESSING)


def list_jobs(
    *,
    status: Annotated[list[JobStatus] | None, typer.Option(help="Only jobs in this status; may be repeated.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only jobs that wait or are worked on.")] = False,
    category: Annotated[Category | None, typer.Option(help="Only jobs of this category.")] = None,
    member: Annotated[UUID | None, typer.Option(metavar="ID", help="Only jobs of this member.")] = None,
    org: Annotated[UUID | None, typer.Option(metavar="ID", help="Only jobs of this organization.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    settings = connection.connect()

    async def look() -> list[dict[str, Any]]:
        async with connection.database(settings) as database:
            return await database.list_jobs(
                statuses=[*(status or ()), *(_OPEN if only_open else ())],
                category=category,
                member_id=member,
                org_id=org,
                since=since,
                most=limit + 1,
            )

    found = asyncio.run(look())
    jobs = found[:limit]
    if as_json:
        print_json(jobs)
        return
    if not jobs:
        say("No such job.")
        return
    print_jobs(jobs)
    if len(found) > limit:
        say(f"\nThere are more than {plural(limit, 'job')}; see --limit and --since.")


def print_jobs(jobs: Iterable[Mapping[str, Any]]) -> None:
    """A line for each job."""
    print_table(
        ("JOB", ">AGE", "STATUS", ">PICTURES", ">SECONDS", "CATEGORY", "TYPE", "~REASON"),
        (
            (
                job["job_id"],
                ago(job["created_at"]),
                job["status"],
                f"{job['completed_images']}/{job['total_images']}",
                seconds_between(job["started_at"], job["completed_at"]),
                job["category"],
                job["job_type"],
                job["error_message"],
            )
            for job in jobs
        ),
    )
