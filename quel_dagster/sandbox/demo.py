"""Run and check the sample jobs for `quel demo`, from an empty folder to pictures, charges and run pages.

The demo ignores the outside parts that the environment names: it starts its own PostgreSQL, Redis, object store and
stand-in for Gemini, in its own home.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from dagster import DagsterInstance
from rich.console import Console
from rich.table import Table

from quel_dagster.adapters.database.jobs import JobReport
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.console.job_bars import job_bars
from quel_dagster.errors import QuelError
from quel_dagster.pipeline.audit import Sources, audit
from quel_dagster.pipeline.gallery.contact_sheet import write_contact_sheet
from quel_dagster.pipeline.gallery.page import write_gallery
from quel_dagster.pipeline.gallery.reader import GalleryReader
from quel_dagster.platform.runs import runs_of
from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.sandbox.samples import SAMPLE_JOBS, SampleJob, reference_pictures
from quel_dagster.sandbox.web_app import FIRST_ATTACH_ID, WebApp
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.stack import Stack
from quel_dagster.settings import Settings

#: A demo that runs longer than this hangs.
TIMEOUT_SECONDS = 240
POLL_SECONDS = 0.1
MEMBER_CREDIT = 1_000
ORG_CREDIT = 2_000


@dataclass(frozen=True)
class DemoJob:
    """A sample job on its way."""

    sample: SampleJob
    job_id: UUID


@dataclass(frozen=True)
class DemoResult:
    """The result of the demo; `problems` is empty only if every job and every check succeeded."""

    #: one per job: its row as `quel status` shows it, with the run's page
    jobs: list[dict[str, Any]]
    problems: list[str]


def run_demo(settings: Settings, *, output: Path, console: Console) -> DemoResult:
    """Run the demo and print its progress; every process it started has stopped when this returns."""
    home = settings.home.expanduser().absolute() / "demo"
    started = time.monotonic()
    if home.exists() and not (home / "up.lock").exists():
        raise QuelError(f"{home} is not a home of the demo; set QUEL_HOME to a folder of its own.")
    embedded = settings.embedded(home)
    with Stack(
        embedded,
        embedded=EmbeddedServers(),
        echo=lambda line: console.print(f"  [dim]{line}[/dim]", highlight=False),
    ) as stack:
        console.print(f"Services are up after {time.monotonic() - started:.1f} s: {stack.endpoints.webserver_url}")
        os.environ.update(stack.endpoints.environment())
        result = asyncio.run(_Demo(embedded, stack, output, console).run())
    for problem in result.problems:
        console.print(f"[red]✗[/red] {problem}", highlight=False)
    seconds = time.monotonic() - started
    console.print(
        f"\nGallery        {output / 'gallery.html'}\nContact sheet  {output / 'contact-sheet.png'}\n"
        f"Run pages      QUEL_HOME={home} quel up --port {stack.endpoints.webserver_port}  and the links above open",
        highlight=False,
        soft_wrap=True,
    )
    if result.problems:
        console.print(f"[red]The demo failed[/red] after {seconds:.0f} s; the services' logs are in {home / 'logs'}.")
        return result
    console.print(f"[green]All is as it should be[/green], every process is stopped, {seconds:.0f} s in all.")
    return result


def forget_demo(settings: Settings) -> None:
    """Remove what an earlier demo left, so that this one starts from nothing."""
    home = settings.home.expanduser().absolute() / "demo"
    if (home / "up.lock").exists():
        shutil.rmtree(home)


class _Demo:
    def __init__(self, settings: Settings, stack: Stack, output: Path, console: Console) -> None:
        self._stack = stack
        self._endpoints: Endpoints = stack.endpoints
        self._settings = Settings.read()
        self._output = output
        self._console = console
        self._price = settings.image_per_price
        self._database = Database(self._endpoints.database_url)
        self._store = open_store(self._settings)
        self._queue = JobQueue(self._endpoints.redis_url)
        self._web_app = WebApp(self._database, self._store, self._price)

    async def run(self) -> DemoResult:
        """Run the jobs between start and stop of the services."""
        try:
            await self._database.web_app.start_attach_ids_at(FIRST_ATTACH_ID)
            accounts = await self._web_app.open_accounts(member_credit=MEMBER_CREDIT, org_credit=ORG_CREDIT)
            attach_ids = await self._web_app.upload(reference_pictures())
            jobs = [DemoJob(sample, await self._web_app.insert(sample, attach_ids, accounts)) for sample in SAMPLE_JOBS]
            self._console.print(f"{len(jobs)} jobs inserted, {len(attach_ids)} reference pictures uploaded; LPUSH")
            self._queue.push(*(job.job_id for job in jobs))
            reports = await self._watch(jobs)
            with DagsterInstance.get() as instance:
                runs = {job_id: found[0].run_id for job_id, found in runs_of(instance, reports).items()}
                self._print(jobs, reports, runs)
                await self._write(jobs, runs)
                problems = [*_problems(jobs, reports, runs), *await self._audit(instance)]
            urls = {job_id: self._endpoints.run_url(run_id) for job_id, run_id in runs.items()}
            return DemoResult(
                jobs=[
                    {"label": job.sample.label, **dict(reports[job.job_id]), "run": urls.get(job.job_id)}
                    for job in jobs
                ],
                problems=problems,
            )
        finally:
            self._queue.close()
            await self._store.aclose()
            await self._database.aclose()

    async def _audit(self, instance: DagsterInstance) -> list[str]:
        """Audit every row, key and object of the jobs."""
        sources = Sources(self._database, self._queue, self._store, instance)
        report = await audit(sources, price=self._price, grace_seconds=0)
        checked = sum(finding.checked for finding in report.findings)
        self._console.print(f"Audit: {len(report.findings)} invariants over {checked} things, {report.seconds:.1f} s")
        return [
            *(breach.line for breach in report.breaches),
            *(f"{finding.code} was not checked: {finding.not_done}" for finding in report.findings if finding.not_done),
        ]

    async def _watch(self, jobs: Sequence[DemoJob]) -> dict[UUID, JobReport]:
        """Show live progress until every job has ended."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        labels = {job.job_id: job.sample.label for job in jobs}
        with job_bars(labels, self._console) as show:
            while True:
                reports = await self._database.jobs.report(list(labels))
                show(reports)
                if all(report.status.ended for report in reports.values()):
                    return reports
                self._stack.check()
                if time.monotonic() > deadline:
                    return reports
                await asyncio.sleep(POLL_SECONDS)

    def _print(self, jobs: Sequence[DemoJob], reports: Mapping[UUID, JobReport], runs: Mapping[UUID, str]) -> None:
        table = Table(title="Jobs", title_justify="left")
        for name in ("job", "type", "status", ">pictures", ">credits", ">seconds", "run"):
            side: Literal["left", "right"] = "right" if name.startswith(">") else "left"
            table.add_column(name.lstrip(">"), justify=side, overflow="fold", no_wrap=name not in {"job", "run"})
        for job in jobs:
            report = reports[job.job_id]
            run_id = runs.get(job.job_id)
            table.add_row(
                f"{job.sample.label} [dim]({job.sample.production_path})[/dim]",
                report.job_type,
                f"[green]{report.status}[/green]" if report.status == "completed" else f"[red]{report.status}[/red]",
                f"{report.completed_images}/{report.total_images}",
                str(report.credits),
                "" if (seconds := report.seconds_at_work) is None else f"{seconds:.1f}",
                self._link(run_id) if run_id else "[red]no run[/red]",
            )
        self._console.print(table)

    def _link(self, run_id: str) -> str:
        """Return the link to the run page, in full if the terminal is wide enough."""
        url = self._endpoints.run_url(run_id)
        roomy = self._console.width >= 140 or not self._console.is_terminal
        return f"[link={url}]{url if roomy else run_id[:8]}[/link]"

    async def _write(self, jobs: Sequence[DemoJob], runs: Mapping[UUID, str]) -> None:
        """Write the gallery and the contact sheet."""
        reader = GalleryReader(self._database, self._store)
        shown = [
            await reader.job(
                job.job_id,
                label=job.sample.label,
                run_url=self._endpoints.run_url(runs[job.job_id]) if job.job_id in runs else None,
            )
            for job in jobs
        ]
        self._output.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(write_gallery, self._output / "gallery.html", shown, title="Quel demo")
        pictures = [picture for job in shown for picture in job.pictures]
        await asyncio.to_thread(write_contact_sheet, self._output / "contact-sheet.png", pictures)


def _problems(jobs: Sequence[DemoJob], reports: Mapping[UUID, JobReport], runs: Mapping[UUID, str]) -> list[str]:
    """Return the problems that a user of the demo would see. The audit checks charges and rows."""
    problems = []
    for job in jobs:
        report = reports[job.job_id]
        if report.status != "completed" or report.completed_images != job.sample.total_images:
            problems.append(
                f"{job.sample.label} ended {report.status} with {report.completed_images} of "
                f"{job.sample.total_images} pictures: {report.error_message or 'no reason given'}"
            )
        if job.job_id not in runs:
            problems.append(f"{job.sample.label} has no run in Dagster.")
    return problems
