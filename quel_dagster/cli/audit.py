"""`quel audit`: whether everything still belongs together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from quel_dagster.adapters.storage.store import open_store
from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, plural, print_json, print_table, say
from quel_dagster.cli.since import Since
from quel_dagster.errors import QuelError
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from quel_dagster.pipeline.audit import AuditReport, Finding

#: breaches of one invariant that are printed; --json has all
_SHOWN = 20


def audit(
    job_ids: Annotated[
        list[UUID] | None, typer.Argument(metavar="JOB_ID…", help="Only these jobs, their payers and productions.")
    ] = None,
    *,
    since: Since = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Read only so many stored pictures, chosen at random.")
    ] = None,
    price: Annotated[
        int | None,
        typer.Option(min=0, metavar="CREDITS", help="Credits per picture, if it was the same for all of them."),
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects/--no-objects", help="Read the stored pictures; I12 is left out otherwise.")
    ] = True,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long a job may be on its way between workers.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Check the invariants I1 to I14 over PostgreSQL, Redis, the object store and Dagster.

    Changes nothing, and may run while jobs do: what is in motion is no breach. Exit code 1 on a breach, or when a part
    did not answer and something could not be looked at.
    """
    settings = connection.connect()
    report = asyncio.run(
        _audited(settings, job_ids=job_ids, since=since, sample=sample, price=price, objects=objects, grace=grace)
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
    job_ids: Sequence[UUID] | None,
    since: datetime | None,
    sample: int | None,
    price: int | None,
    objects: bool,
    grace: float,
) -> AuditReport:
    from quel_dagster.pipeline import audit as library  # noqa: PLC0415  brings Dagster, which takes a second

    if settings.database_url is None:
        raise QuelError("DATABASE_URL is not set.")
    async with AsyncExitStack() as parts:
        queue = parts.enter_context(connection.queue(settings))
        instance = parts.enter_context(connection.dagster())
        store = open_store(settings) if objects else None
        if store is not None:
            parts.push_async_callback(store.aclose)
        return await library.audit(
            library.Sources(settings.database_url.get_secret_value(), queue=queue, store=store, instance=instance),
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
            say(f"\n{finding.code} was not looked at, or not to the end: {finding.not_done}.")
        if finding.breaches:
            say(f"\n{finding.code} {finding.sentence}")
            for breach in finding.breaches[:_SHOWN]:
                say(f"  ✗ {breach.line}")
            if finding.total > _SHOWN:
                say(f"  … and {finding.total - _SHOWN:,} more; --json lists them.")
    total = sum(finding.total for finding in report.findings)
    conclusion = "no breach" if report.clean else plural(total, "breach").replace("breachs", "breaches")
    unseen = f", {plural(len(undone), 'invariant')} not looked at" if undone else ""
    say(f"\n{conclusion[0].upper()}{conclusion[1:]}{unseen}, {report.seconds:.1f} s.")


def _mark(finding: Finding) -> str:
    return "✗" if finding.breaches else "–" if finding.not_done else "✓"


def _result(finding: Finding) -> str:
    if finding.breaches:
        return f"{finding.total:,} found"
    return "not looked at" if finding.not_done else "held"
