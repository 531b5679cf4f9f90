"""`quel member`: show a member's account."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

import typer

from quel_dagster.adapters.database.job_list import Filter, JobRow, matching_jobs
from quel_dagster.adapters.database.members import MemberAccount, member_account
from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, print_facts, print_json, print_table, print_text, printable
from quel_dagster.cli.since import Since
from quel_dagster.console.lookup import find_member
from quel_dagster.console.words import ago, at, plural
from quel_dagster.settings import Settings

_JOBS = 10


def member(
    who: Annotated[str, typer.Argument(metavar="WHO", help="E-mail address, name, or the beginning of a member id.")],
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """Show a member's balance, organizations, jobs, pictures, and ledger.

    With --since, only jobs, pictures and credits of that period.
    """
    account, jobs = asyncio.run(_account(connection.connect(), who, since))
    if as_json:
        print_json({**account.model_dump(), "latest_jobs": jobs})
        return
    found = account.member
    print_facts(
        [
            ("member", f"{found.email} ({found.name or 'no name'}), {found.status}"),
            ("id", found.member_id),
            ("has", f"{found.credit or 0:,} credits"),
            *(
                ("organization", f"{org.name}, {org.status}: {org.role}, {org.membership}, {org.credit or 0:,} credits")
                for org in account.organizations
            ),
            ("since", at(since)),
            ("jobs", ", ".join(f"{jobs} {status}" for status, jobs, _ in account.jobs) or "none"),
            ("pictures", f"{account.pictures:,} charged"),
            (
                "paid",
                f"{account.paid:,} credits, {account.paid_by_organizations:,} by organizations, "
                f"{account.refunded:,} refunded, {account.purchased:,} purchased",
            ),
        ]
    )
    if account.ledger:
        print_text("")
        print_table(
            (">AGE", "LEDGER", ">AMOUNT", ">BALANCE", ">ATTACH", "ORGANIZATION", "~DESCRIPTION"),
            (
                (
                    ago(row.created_at),
                    row.transaction_type,
                    row.amount,
                    row.balance_after,
                    row.attach_idx,
                    row.org_name,
                    row.description,
                )
                for row in account.ledger
            ),
        )
    if jobs:
        print_text("")
        print_table(
            ("JOB", ">AGE", "STATUS", ">PICTURES", "~NAME", "_REASON"),
            (
                (
                    job.job_id,
                    ago(job.created_at),
                    job.outcome,
                    f"{job.completed_images}/{job.total_images}",
                    job.production_name,
                    job.error_message,
                )
                for job in jobs
            ),
        )
        print_text(
            f"\nEvery job: quel list --member {printable(found.email)} --limit 1000 ({plural(len(jobs), 'job')} shown)"
        )


async def _account(settings: Settings, who: str, since: datetime | None) -> tuple[MemberAccount, list[JobRow]]:
    async with connection.open_connections(settings) as connections:
        found = await find_member(connections, who)
        jobs = await matching_jobs(connections.database, Filter(member_id=found.member_id, since=since), most=_JOBS)
        return await member_account(connections.database, found, since=since), jobs
