"""`quel show`: everything about one job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar

import typer

from quel_dagster.adapters.database.jobs import WholeJob, WholeProduction
from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, JobWord, print_facts, print_json, print_table, print_text, printable
from quel_dagster.console.advice import advice
from quel_dagster.console.inspection import JobInspection, inspect
from quel_dagster.console.lookup import find_job
from quel_dagster.console.words import at, plural, seconds_between
from quel_dagster.settings import Settings

_PROMPT_CHARACTERS = 120
#: maximum of rows per table without --all
_ROWS = 5

T = TypeVar("T")


def show(
    job: JobWord,
    every: Annotated[bool, typer.Option("--all", help="Show every unit, picture and missing picture.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show everything about one job, and what to do next.

    Rows, planned units with camera and references, repairs to the input, pictures with key, size and charge,
    missing pictures with reasons, payer, queue position, lease, cancel, and runs with links. --json prints all rows.
    """
    found = asyncio.run(_inspected(connection.connect(), job))
    if as_json:
        print_json({**found.model_dump(mode="json"), "next": advice(found)})
        return
    for sentence in advice(found):
        print_text(printable(sentence))
    print_text("")
    print_facts(_facts(found))
    _print_units(found, every=every)
    _print_pictures(found, every=every)
    _print_runs(found)
    _print_actions(found)


async def _inspected(settings: Settings, word: str) -> JobInspection:
    async with connection.open_connections(settings) as connections:
        return await inspect(connections, await find_job(connections, word))


def _facts(job: JobInspection) -> Iterator[tuple[str, Any]]:
    row, production = job.job, job.production
    yield "job", row.job_id
    yield "page", job.url
    yield "status", job.status.value
    yield "reason", row.error_message
    yield "type", f"{job.plan.job_type if job.plan else row.job_type}, {_category(job)}"
    yield "pictures", f"{row.completed_images} of {row.total_images}, {row.failed_images} failed"
    yield "production", _production(production)
    yield "credits", f"{job.credits:,} charged, {row.estimated_credits or 0:,} estimated, {job.price} a picture"
    yield "gemini", _gemini(job)
    for slot, note in job.usage.notes:
        yield "warning", f"{slot}: {note}"
    yield "payer", _payer(job)
    yield "times", _times(row)
    yield "retries", row.retry_count or None
    yield "queue", _queue(job)
    yield "lease", _lease(job)
    yield "cancel", _cancel(job)
    if job.recovered_at:
        yield "recoveries", f"{len(job.recovered_at)} within 72 h, last {at(job.recovered_at[-1])}"
    if job.redis is not None:
        for letter in job.redis.letters:
            yield "dead letter", f"{letter.name}: {letter.reason}"
    yield "input", job.plan_error
    for repair in job.plan.repairs if job.plan else ():
        yield "repair", str(repair)


def _category(job: JobInspection) -> str:
    return f"{job.category} (the older worker's)" if job.foreign_kind else job.category


def _production(production: WholeProduction) -> str:
    name = f"{production.production_name}, " if production.production_name else ""
    pictures = len(production.attach_ids) if isinstance(production.attach_ids, list) else 0
    return f"{production.production_id} ({name}{production.production_status}, {plural(pictures, 'picture')})"


def _gemini(job: JobInspection) -> str | None:
    usage = job.usage
    if not usage.calls:
        return None
    lost = f", {usage.usd_without_picture:.4f} of them without a picture" if usage.usd_without_picture else ""
    unknown = f", {plural(usage.unpriced, 'picture')} of unknown price" if usage.unpriced else ""
    return f"{usage.usd:.4f} USD{lost}{unknown}, {plural(usage.calls, 'call')} to {usage.models}"


def _payer(job: JobInspection) -> str:
    if job.payer.refusal:
        return f"none: {job.payer.refusal}"
    name = f" ({job.payer.name})" if job.payer.name else ""
    return f"{job.payer.kind} {job.payer.id}{name}, {job.payer.credit:,} credits left"


def _times(row: WholeJob) -> str:
    moments = {"created": row.created_at, "started": row.started_at, "completed": row.completed_at}
    shown = ", ".join(f"{name} {at(moment)}" for name, moment in moments.items() if moment)
    waited = seconds_between(row.created_at, row.started_at)
    worked = seconds_between(row.started_at, row.completed_at)
    lengths = [f"{what} {seconds} s" for what, seconds in (("waited", waited), ("worked", worked)) if seconds]
    return f"{shown} ({', '.join(lengths)})" if lengths else shown


def _queue(job: JobInspection) -> str | None:
    if job.redis is None:
        return job.redis_unknown
    if job.redis.position is not None:
        return f"number {job.redis.position} of {job.redis.waiting:,} in jobs:queue"
    if job.redis.processing:
        looks = f", its row was not found {job.redis.misses} times" if job.redis.misses else ""
        return f"in jobs:processing, its run is about to be launched{looks}"
    return "in no queue"


def _lease(job: JobInspection) -> str:
    if job.lease is None:
        return "free"
    left = job.lease.seconds_left
    state = f"{left:.0f} s left" if left > 0 else f"expired {-left:.0f} s ago"
    return f"run {job.lease.run_id} on {job.lease.worker}, {state}"


def _cancel(job: JobInspection) -> str | None:
    kept = f"kept since {at(job.cancel_kept_at)}" if job.cancel_kept_at else None
    flag = "flag set in Redis" if job.redis is not None and job.redis.cancel_flag else None
    return ", ".join(part for part in (flag, kept) if part) or None


def _print_units(job: JobInspection, *, every: bool) -> None:
    if job.plan is None:
        return
    print_text("")
    print_table(
        ("UNIT", ">PICTURES", "CAMERA", "RATIO", "~REFERENCES", "~PROMPT"),
        (
            (
                unit.key,
                unit.quantity,
                unit.camera,
                unit.aspect_ratio,
                ", ".join(
                    f"{reference.attach_id} {reference.type}"
                    f"{' ✗' if reference.attach_id in job.unusable_references else ''}"
                    for reference in unit.references
                ),
                unit.prompt
                if len(unit.prompt) <= _PROMPT_CHARACTERS
                else unit.prompt[: _PROMPT_CHARACTERS - 1].rstrip() + "…",
            )
            for unit in _some(job.plan.units, every=every)
        ),
    )
    _print_rest(job.plan.units, "unit", every=every)
    for attach_id, why in job.unusable_references.items():
        print_text(f"✗ reference {attach_id}: {printable(why)}")


def _print_pictures(job: JobInspection, *, every: bool) -> None:
    if job.pictures:
        print_text("")
        print_table(
            (">ATTACH", "SLOT", "UNIT", ">BYTES", ">USD", ">CREDITS", ">BALANCE AFTER", "PAID BY", "_KEY"),
            (
                (
                    picture.attach_id,
                    picture.slot or "another worker's",
                    picture.unit,
                    picture.size,
                    None if picture.usd is None else f"{picture.usd:.4f}",
                    "not charged" if picture.amount is None else -picture.amount,
                    picture.balance_after,
                    None if picture.amount is None else "organization" if picture.org_id else "member",
                    picture.key or "no quel_attach row",
                )
                for picture in _some(job.pictures, every=every)
            ),
        )
        _print_rest(job.pictures, "picture", every=every)
    if job.missing:
        print_text("")
        print_table(
            ("MISSING", "UNIT", "~REASON"),
            ((missing.slot, missing.unit, missing.reason) for missing in _some(job.missing, every=every)),
        )
        _print_rest(job.missing, "missing picture", every=every)


def _some(rows: Sequence[T], *, every: bool) -> Sequence[T]:
    """Return the first rows of a long table, so that a job of 400 pictures fits a screen."""
    return rows if every or len(rows) <= _ROWS + 1 else rows[:_ROWS]


def _print_rest(rows: Sequence[object], noun: str, *, every: bool) -> None:
    if left := len(rows) - len(_some(rows, every=every)):
        print_text(f"… and {plural(left, f'{noun}')} more: --all")


def _print_runs(job: JobInspection) -> None:
    print_text("")
    if job.runs_unknown:
        print_text(f"Runs are unknown: {job.runs_unknown}")
    elif not job.runs:
        print_text("No run yet.")
    for run in job.runs:
        waited, worked = seconds_between(run.created_at, run.started_at), seconds_between(run.started_at, run.ended_at)
        lengths = [f"{what} {length} s" for what, length in (("waited", waited), ("ran", worked)) if length is not None]
        again = [f"again after {run.retry_of[:8]}"] if run.retry_of else []
        outcome = [run.outcome] if run.outcome else []
        print_text(f"run {run.status}: {', '.join([*outcome, *lengths, *again]) or 'not started'}  {run.link}")


def _print_actions(job: JobInspection) -> None:
    if job.actions:
        print_text("")
        print_table(
            ("DONE", "BY", "ACTION", "RESULT", "~REASON", "~SAID"),
            (
                (
                    at(action.at),
                    f"{action.actor} ({action.via})",
                    action.action,
                    action.result,
                    action.reason,
                    action.said,
                )
                for action in job.actions
            ),
        )
