"""`quel audit`: check that PostgreSQL, Redis, the object store and Dagster agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from quel_dagster.adapters.storage.store import open_store
from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, JobWords, print_json, print_table, print_text, printable
from quel_dagster.cli.since import Since
from quel_dagster.console.lookup import find_jobs
from quel_dagster.console.words import plural
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from quel_dagster.pipeline.audit import AuditReport, Finding

#: breaches printed per invariant; --json prints all
_SHOWN = 20


def audit(
    jobs: JobWords = None,
    *,
    since: Since = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Read only this many stored pictures, chosen at random.")
    ] = None,
    price: Annotated[
        int | None,
        typer.Option(min=0, metavar="CREDITS", help="Credits per picture, if it was the same for all of them."),
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects/--no-objects", help="Read the stored pictures; without, I12 is not checked.")
    ] = True,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long a job may be between two workers.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Check the invariants I1 to I14 over PostgreSQL, Redis, the object store and Dagster.

    With JOB, only these jobs, their payers and productions.

    Changes nothing, and can run while jobs do: a job in motion is not a breach. Exit code 1 on a breach, or when a
    system did not answer and an invariant could not be checked.
    """
    settings = connection.connect()
    report = asyncio.run(
        _audited(settings, words=jobs, since=since, sample=sample, price=price, objects=objects, grace=grace)
    )
    undone = [finding for finding in report.findings if finding.not_done and (objects or finding.code != "I12")]
    if as_json:
        print_json({"clean": report.clean, "complete": report.complete, **report.model_dump(mode="json")})
    else:
        _print(report, undone)
    if not report.clean or undone:
        raise typer.Exit(1)


async def _audited(
    settings: Settings,
    *,
    words: Sequence[str] | None,
    since: datetime | None,
    sample: int | None,
    price: int | None,
    objects: bool,
    grace: float,
) -> AuditReport:
    from quel_dagster.pipeline import audit as library  # noqa: PLC0415  brings Dagster, which takes a second

    database_url = settings.required_database_url()
    async with AsyncExitStack() as opened:
        job_ids = []
        if words:
            async with connection.open_connections(settings) as connections:
                job_ids = await find_jobs(connections, words)
        queue = opened.enter_context(connection.queue(settings))
        instance = opened.enter_context(connection.dagster())
        store = open_store(settings) if objects else None
        if store is not None:
            opened.push_async_callback(store.aclose)
        return await library.audit(
            library.Sources(database_url, queue=queue, store=store, instance=instance),
            job_ids=job_ids or None,
            since=since,
            price=price,
            pictures=sample,
            grace_seconds=grace,
        )


def _print(report: AuditReport, undone: Sequence[Finding]) -> None:
    print_table(
        ("", "", ">CHECKED", "RESULT", "~INVARIANT"),
        (
            (_mark(finding), finding.code, f"{finding.checked:,}", _result(finding), finding.sentence)
            for finding in report.findings
        ),
    )
    for finding in report.findings:
        if finding.not_done:
            print_text(f"\n{finding.code} was not checked, or not completely: {finding.not_done}.")
        if finding.breaches:
            print_text(f"\n{finding.code} {finding.sentence}")
            for breach in finding.breaches[:_SHOWN]:
                print_text(f"  ✗ {printable(breach.line)}")
            if finding.total > _SHOWN:
                print_text(f"  … and {finding.total - _SHOWN:,} more; --json lists them.")
    total = sum(finding.total for finding in report.findings)
    conclusion = "no breach" if report.clean else plural(total, "breach")
    unseen = f", {plural(len(undone), 'invariant')} not checked" if undone else ""
    print_text(f"\n{conclusion[0].upper()}{conclusion[1:]}{unseen}, {report.seconds:.1f} s.")


def _mark(finding: Finding) -> str:
    return "✗" if finding.breaches else "–" if finding.not_done else "✓"


def _result(finding: Finding) -> str:
    if finding.breaches:
        return f"{finding.total:,} found"
    return "not checked" if finding.not_done else "held"
