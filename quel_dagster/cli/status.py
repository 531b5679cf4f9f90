"""`quel status`: how far jobs are, once or until their end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quel_dagster.adapters.database.store import Database
from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, JobIds, at, console, fail, print_facts, print_json, print_table, say
from quel_dagster.cli.runs import RunsFound, find_runs
from quel_dagster.errors import JobNotFoundError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.settings import Settings

POLL_SECONDS = 0.3

Report = dict[str, Any]


def status(
    job_ids: JobIds,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the jobs with live bars until they end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far jobs are: state, pictures, credits and runs.

    One id prints one report, several a table; with --json, one object or an array. Exit code 1: a job is not there,
    or, with --watch, one did not end completed.
    """
    settings = connection.connect()
    wanted = list(dict.fromkeys(job_ids))
    reports = asyncio.run(_watched(settings, wanted, quiet=as_json) if watch else _looked_up(settings, wanted))
    found = [reports[job_id] for job_id in wanted if job_id in reports]
    runs = find_runs(settings, list(reports))
    if as_json:
        shown = [_with_runs(report, runs) for report in found]
        if shown or len(wanted) > 1:
            print_json(shown[0] if len(wanted) == 1 else shown)
    elif len(wanted) == 1 and found:
        _print_one(found[0], runs)
    elif found:
        _print_several(found, runs)
    missing = [job_id for job_id in wanted if job_id not in reports]
    if missing:
        names = ", ".join(map(str, missing))
        fail(JobNotFoundError(f"Not in quel_production_jobs: {names}. Deleted, or from another database?"), 1)
    if watch and any(report["status"] != JobStatus.COMPLETED for report in found):
        raise typer.Exit(1)


async def _looked_up(settings: Settings, job_ids: Sequence[UUID]) -> dict[UUID, Report]:
    async with connection.database(settings) as database:
        reports = await database.report(job_ids)
        for job_id, report in reports.items():
            report["pictures"] = await database.pictures(job_id)
        return reports


async def _watched(settings: Settings, job_ids: Sequence[UUID], *, quiet: bool) -> dict[UUID, Report]:
    """Reports once every job has ended."""
    async with connection.database(settings) as database:
        reports = await database.report(job_ids)
        if not quiet and console.is_terminal:
            await _with_bars(database, reports)
        else:
            await _with_lines(database, reports, quiet=quiet)
    return await _looked_up(settings, job_ids)


def _open(reports: dict[UUID, Report]) -> list[UUID]:
    return [job_id for job_id, report in reports.items() if not JobStatus(report["status"]).ended]


async def _with_bars(database: Database, reports: dict[UUID, Report]) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = {
            job_id: progress.add_task(str(job_id), total=max(1, report["total_images"]), status=report["status"])
            for job_id, report in reports.items()
        }
        while True:
            for job_id, report in reports.items():
                progress.update(bars[job_id], completed=report["completed_images"] or 0, status=report["status"])
                if JobStatus(report["status"]).ended:
                    progress.stop_task(bars[job_id])
            if not (waiting := _open(reports)):
                return
            await asyncio.sleep(POLL_SECONDS)
            reports.update(await database.report(waiting))


async def _with_lines(database: Database, reports: dict[UUID, Report], *, quiet: bool) -> None:
    """For a file or a pipe: one line for each change."""
    said: dict[UUID, str] = {}
    while True:
        for job_id, report in reports.items():
            line = f"{job_id}  {report['status']}  {report['completed_images']}/{report['total_images']}"
            if said.get(job_id) != line and not quiet:
                say(line)
            said[job_id] = line
        if not (waiting := _open(reports)):
            return
        await asyncio.sleep(POLL_SECONDS)
        reports.update(await database.report(waiting))


def _with_runs(report: Report, runs: RunsFound) -> Report:
    known = [run.model_dump(mode="json") for run in runs.of(report["job_id"])]
    return {**report, "runs": None if runs.unknown else known}


def _print_one(report: Report, runs: RunsFound) -> None:
    print_facts(
        (
            ("job", report["job_id"]),
            ("type", f"{report['job_type']}, {report['production_path'] or 'fashion'}"),
            ("status", report["status"]),
            ("pictures", f"{report['completed_images']} of {report['total_images']}, {report['failed_images']} failed"),
            ("attach ids", ", ".join(str(picture["attach_id"]) for picture in report["pictures"]) or "none"),
            ("credits", f"{report['credits']}, paid by {_payer(report)}"),
            ("reason", report["error_message"]),
            ("production", f"{report['production_id']} ({report['production_status']})"),
            ("created", at(report["created_at"])),
            ("started", at(report["started_at"])),
            ("completed", at(report["completed_at"])),
            *(("run", f"{run.status:<9} {run.link}") for run in runs.of(report["job_id"])),
            ("runs", runs.unknown),
        )
    )


def _payer(report: Report) -> str:
    """Who was charged; before the first picture, who would be as the row stands."""
    charged = {picture["org_id"] for picture in report["pictures"] if picture["amount"] is not None}
    org_id = charged.pop() if len(charged) == 1 else report["org_id"]
    return f"organization {org_id}" if org_id else f"member {report['member_id']}"


def _print_several(reports: Sequence[Report], runs: RunsFound) -> None:
    print_table(
        ("JOB", "STATUS", ">PICTURES", ">CREDITS", "LAST RUN", "~REASON"),
        (
            (
                report["job_id"],
                report["status"],
                f"{report['completed_images']}/{report['total_images']}",
                report["credits"],
                next((run.link for run in runs.of(report["job_id"])), None),
                report["error_message"],
            )
            for report in reports
        ),
    )
    if runs.unknown:
        say(runs.unknown)
