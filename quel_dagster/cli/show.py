"""`quel show`: everything about one job."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from quel_dagster.cli import connection
from quel_dagster.cli.advice import advice
from quel_dagster.cli.inspection import JobInspection, inspect
from quel_dagster.cli.output import AsJson, at, plural, print_facts, print_json, print_table, say, seconds_between

_PROMPT_CHARACTERS = 120


def show(
    job_id: Annotated[UUID, typer.Argument(metavar="JOB_ID", help="The id of a row in quel_production_jobs.")],
    as_json: AsJson = False,
) -> None:
    """Show everything about one job, and what to do next.

    Rows, units as planned with camera and references, repairs to the input, pictures with key, size and charge,
    what is missing and why, who pays, queue, lease, cancel, and runs with their links. --json has the whole rows.
    """
    job = inspect(connection.connect(), job_id)
    if as_json:
        print_json({**job.model_dump(mode="json"), "next": advice(job)})
        return
    print_facts(_facts(job))
    _print_units(job)
    _print_pictures(job)
    _print_runs(job)
    say("\nWhat to do next")
    for sentence in advice(job):
        say(f"  {sentence}")


def _facts(job: JobInspection) -> Iterator[tuple[str, Any]]:
    row, production = job.job, job.production
    yield "job", row["job_id"]
    yield "status", job.status.value
    yield "reason", row["error_message"]
    yield "type", f"{job.plan.job_type if job.plan else row['job_type']}, {_category(job)}"
    yield "pictures", f"{row['completed_images']} of {row['total_images']}, {row['failed_images']} failed"
    yield "production", _production(production)
    yield "credits", f"{job.credits:,} charged, {row['estimated_credits'] or 0:,} estimated, {job.price} a picture"
    yield "payer", _payer(job)
    yield "times", _times(row)
    yield "retries", row["retry_count"] or None
    yield "queue", _queue(job)
    yield "lease", _lease(job)
    yield "cancel", _cancel(job)
    if job.recovered_at:
        yield "recoveries", f"{len(job.recovered_at)} within 72 h, last {job.recovered_at[-1]}"
    if job.redis is not None:
        for letter in job.redis.letters:
            yield "dead letter", f"{letter.name}: {letter.reason}"
    yield "input", job.plan_error
    for repair in job.plan.repairs if job.plan else ():
        yield "repair", str(repair)


def _category(job: JobInspection) -> str:
    return job.plan.category.value if job.plan else job.job["quel_production_path"] or "fashion"


def _production(production: dict[str, Any]) -> str:
    name = f"{production['production_name']}, " if production["production_name"] else ""
    return (
        f"{production['production_id']} ({name}{production['production_status']}, "
        f"{plural(len(production['attach_ids'] or ()), 'picture')})"
    )


def _payer(job: JobInspection) -> str:
    if job.payer is None:
        return "nobody: neither an active organization nor an existing member"
    name = f" ({job.payer.name})" if job.payer.name else ""
    return f"{job.payer.kind} {job.payer.id}{name}, {job.payer.credit:,} credits left"


def _times(row: dict[str, Any]) -> str:
    moments = {
        name: datetime.fromisoformat(row[column]) if row[column] else None
        for name, column in (("created", "created_at"), ("started", "started_at"), ("completed", "completed_at"))
    }
    shown = ", ".join(f"{name} {at(moment)}" for name, moment in moments.items() if moment)
    waited = seconds_between(moments["created"], moments["started"])
    worked = seconds_between(moments["started"], moments["completed"])
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
    left = job.lease["seconds_left"]
    state = f"{left:.0f} s left" if left > 0 else f"ran out {-left:.0f} s ago"
    return f"run {job.lease['run_id']} on {job.lease['worker']}, {state}"


def _cancel(job: JobInspection) -> str | None:
    kept = f"kept since {job.cancel_kept_at}" if job.cancel_kept_at else None
    flag = "flag set in Redis" if job.redis is not None and job.redis.cancel_flag else None
    return ", ".join(part for part in (flag, kept) if part) or None


def _print_units(job: JobInspection) -> None:
    if job.plan is None:
        return
    say("")
    print_table(
        ("UNIT", ">PICTURES", "CAMERA", "RATIO", "~REFERENCES", "~PROMPT"),
        (
            (
                unit.key,
                unit.quantity,
                " · ".join(part for part in (unit.angle, unit.shot, unit.fx) if part and part != "none") or "default",
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
            for unit in job.plan.units
        ),
    )
    for attach_id, why in job.unusable_references.items():
        say(f"✗ reference {attach_id}: {why}")


def _print_pictures(job: JobInspection) -> None:
    if job.pictures:
        say("")
        print_table(
            (">ATTACH", "SLOT", "UNIT", ">BYTES", ">CREDITS", ">BALANCE AFTER", "PAID BY", "~KEY"),
            (
                (
                    picture["attach_id"],
                    picture["slot"] or "another worker's",
                    picture["unit"],
                    picture["size"],
                    "not charged" if picture["amount"] is None else -picture["amount"],
                    picture["balance_after"],
                    None if picture["amount"] is None else "organization" if picture["org_id"] else "member",
                    picture["key"] or "no quel_attach row",
                )
                for picture in job.pictures
            ),
        )
    if job.missing:
        say("")
        print_table(
            ("MISSING", "UNIT", "~REASON"),
            ((missing.slot, missing.unit, missing.reason) for missing in job.missing),
        )


def _print_runs(job: JobInspection) -> None:
    say("")
    if job.runs_unknown:
        say(f"Runs are not known: {job.runs_unknown}")
    elif not job.runs:
        say("No run yet.")
    for run in job.runs:
        waited, worked = seconds_between(run.created_at, run.started_at), seconds_between(run.started_at, run.ended_at)
        lengths = [f"{what} {length} s" for what, length in (("waited", waited), ("ran", worked)) if length is not None]
        again = [f"again after {run.retry_of[:8]}"] if run.retry_of else []
        outcome = [run.outcome] if run.outcome else []
        say(f"run {run.status}: {', '.join([*outcome, *lengths, *again]) or 'not started'}  {run.link}")
