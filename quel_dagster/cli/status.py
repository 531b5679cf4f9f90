"""`quel status`: show the progress of jobs, once or until they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated
from uuid import UUID

import typer

from quel_dagster.adapters.database.jobs import JobPicture, JobReport
from quel_dagster.adapters.database.store import Database
from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, SomeJobs, console, fail, print_facts, print_json, print_table, print_text
from quel_dagster.console.job_bars import job_bars
from quel_dagster.console.lookup import find_jobs
from quel_dagster.console.runs import RunsFound, find_runs
from quel_dagster.console.words import at
from quel_dagster.errors import JobNotFoundError
from quel_dagster.jobs.model import JobStatus, Value
from quel_dagster.settings import Settings

POLL_SECONDS = 0.3


class Found(Value):
    """The jobs that match the words of the command."""

    job_ids: tuple[UUID, ...]
    #: of those that exist
    reports: dict[UUID, JobReport]
    pictures: dict[UUID, tuple[JobPicture, ...]]
    runs: RunsFound


def status(
    jobs: SomeJobs,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the jobs with live bars until they end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the progress of jobs: state, pictures, credits and runs.

    One id prints one report, several a table; with --json, one object or an array. Exit code 1: a job does not exist,
    or, with --watch, a job did not end completed.
    """
    found = asyncio.run(_find(connection.connect(), jobs, watch=watch, quiet=as_json))
    shown = [found.reports[job_id] for job_id in found.job_ids if job_id in found.reports]
    if as_json:
        documents = [_document(found, report) for report in shown]
        if documents or len(found.job_ids) > 1:
            print_json(documents[0] if len(found.job_ids) == 1 else documents)
    elif len(found.job_ids) == 1 and shown:
        _print_one(found, shown[0])
    elif shown:
        _print_several(found, shown)
    missing = [job_id for job_id in found.job_ids if job_id not in found.reports]
    if missing:
        names = ", ".join(map(str, missing))
        fail(JobNotFoundError(f"Not in quel_production_jobs: {names}. Deleted, or from another database?"), 1)
    if watch and any(report.status is not JobStatus.COMPLETED for report in shown):
        raise typer.Exit(1)


async def _find(settings: Settings, words: Sequence[str], *, watch: bool, quiet: bool) -> Found:
    """Return the jobs that match the words; with `watch` at their end."""
    async with connection.open_connections(settings) as connections:
        wanted = await find_jobs(connections, words)
        if watch:
            await _watch(connections.database, wanted, quiet=quiet)
        reports = await connections.database.jobs.report(wanted)
        return Found(
            job_ids=tuple(wanted),
            reports=reports,
            pictures={job_id: tuple(await connections.database.jobs.pictures(job_id)) for job_id in reports},
            runs=await asyncio.to_thread(find_runs, connections, list(reports)),
        )


async def _watch(database: Database, job_ids: Sequence[UUID], *, quiet: bool) -> None:
    """Follow these jobs until all have ended."""
    if not quiet and console.is_terminal:
        with job_bars({job_id: str(job_id) for job_id in job_ids}, console) as show:
            async for reports in _until_ended(database, job_ids):
                show(reports)
        return
    said: dict[UUID, str] = {}  # one line per change, for a file or a pipe
    async for reports in _until_ended(database, job_ids):
        for job_id, report in reports.items():
            line = f"{job_id}  {report.status}  {report.completed_images}/{report.total_images}"
            if said.get(job_id) != line and not quiet:
                print_text(line)
            said[job_id] = line


async def _until_ended(database: Database, job_ids: Sequence[UUID]) -> AsyncIterator[dict[UUID, JobReport]]:
    """Yield the reports of the jobs that exist, at once and then of the open ones, until all have ended."""
    while job_ids:
        reports = await database.jobs.report(job_ids)
        yield reports
        job_ids = [job_id for job_id, report in reports.items() if not report.status.ended]
        if job_ids:
            await asyncio.sleep(POLL_SECONDS)


def _document(found: Found, report: JobReport) -> dict[str, object]:
    """Return the report as JSON has it; `runs` is None while Dagster's storage does not answer."""
    return {
        **dict(report),
        "pictures": found.pictures[report.job_id],
        "runs": None if found.runs.unknown else found.runs.of(report.job_id),
    }


def _print_one(found: Found, report: JobReport) -> None:
    pictures, runs = found.pictures[report.job_id], found.runs
    print_facts(
        (
            ("job", report.job_id),
            ("type", f"{report.job_type}, {report.category}"),
            ("status", report.status),
            ("pictures", f"{report.completed_images} of {report.total_images}, {report.failed_images} failed"),
            ("attach ids", ", ".join(str(picture.attach_id) for picture in pictures) or "none"),
            ("credits", f"{report.credits}, paid by {_payer(report, pictures)}"),
            ("reason", report.error_message),
            ("production", f"{report.production_id} ({report.production_status})"),
            ("created", at(report.created_at)),
            ("started", at(report.started_at)),
            ("completed", at(report.completed_at)),
            *(("run", f"{run.status:<9} {run.link}") for run in runs.of(report.job_id)),
            ("runs", runs.unknown),
        )
    )


def _payer(report: JobReport, pictures: Sequence[JobPicture]) -> str:
    """Return who was charged; before the first picture, who would be, according to the row."""
    charged = {picture.org_id for picture in pictures if picture.amount is not None}
    org_id = charged.pop() if len(charged) == 1 else report.org_id
    return f"organization {org_id}" if org_id else f"member {report.member_id}"


def _print_several(found: Found, reports: Sequence[JobReport]) -> None:
    print_table(
        ("JOB", "STATUS", ">PICTURES", ">CREDITS", "LAST RUN", "~REASON"),
        (
            (
                report.job_id,
                report.status,
                f"{report.completed_images}/{report.total_images}",
                report.credits,
                next((run.link for run in found.runs.of(report.job_id)), None),
                report.error_message,
            )
            for report in reports
        ),
    )
    if found.runs.unknown:
        print_text(found.runs.unknown)
