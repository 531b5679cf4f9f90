"""Metadata of the materializations: generated images, production, credits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagster import MetadataValue

from quel_dagster.engine.outcomes import JobOutcome, Moment, Planned, UnitOutcome
from quel_dagster.jobs.model import Job, JobStatus
from quel_dagster.pipeline.metadata.entries import (
    Entries,
    fitted,
    ids,
    made_of,
    references,
    repairs,
    runs_link,
    sum_of,
    table,
    thumbnails,
)
from quel_dagster.platform.tags import PRODUCTION_ID_TAG


@dataclass(frozen=True)
class RunTimes:
    """When the run was requested, and when a worker took it, in seconds since the epoch."""

    requested: float
    taken: float | None


def of_images(outcome: JobOutcome, units: Sequence[UnitOutcome], job: Job) -> Entries:
    made = [picture for unit in units for picture in unit.made]
    return fitted(
        {
            "outcome": made_of(outcome.completed, outcome.completed + outcome.failed),
            "error_message": outcome.error,
            "pictures": thumbnails(made),
            "completed_images": outcome.completed,
            "failed_images": outcome.failed,
            "made_by_this_run": outcome.made_now,
            "by_unit": table(
                ("unit", "made", "failed", "why", "camera", "references", "seconds"),
                (
                    {
                        "unit": unit.unit.key,
                        "camera": unit.unit.camera,
                        "references": references(unit.unit),
                        "made": len(unit.made),
                        "failed": len(unit.failed),
                        "why": "; ".join(dict.fromkeys(failure.reason for failure in unit.failed)),
                        "seconds": round(unit.seconds, 2),
                    }
                    for unit in units
                ),
            ),
            "attach_ids": ids(outcome.attach_ids),
            "gemini_seconds": sum_of(picture.gemini_seconds for picture in made) if outcome.made_now else None,
            **of_cost(units),
            "kilobytes": round(sum(picture.size for picture in made) / 1000) if outcome.made_now else None,
            **_who(outcome, job),
        }
    )


def of_production(
    outcome: JobOutcome, units: Sequence[UnitOutcome], plan: Planned, job: Job, times: RunTimes | None
) -> Entries:
    return fitted(
        {
            "outcome": made_of(outcome.completed, outcome.completed + outcome.failed),
            "error_message": outcome.error,
            **_durations(outcome, units, job, times),
            "all_runs_of_this_production": runs_link(PRODUCTION_ID_TAG, str(job.production_id)),
            "repairs": repairs(plan.repairs),
            "timeline": _timeline(outcome.timeline) if outcome.timeline else None,
            "completed_images": outcome.completed,
            "failed_images": outcome.failed,
            **_who(outcome, job),
        }
    )


def of_credits(outcome: JobOutcome, plan: Planned, job: Job, units: Sequence[UnitOutcome]) -> Entries:
    """The balances before and after are those that this run saw: other jobs of the payer may charge in between."""
    before = outcome.balance_before if outcome.balance_before is not None else plan.balance
    others = None
    if outcome.balance_before is not None and outcome.balance is not None:
        others = outcome.balance_before - outcome.charged_now - outcome.balance
    return fitted(
        {
            "payer": outcome.payer or plan.payer or None,
            "credits_charged": outcome.charged_now,
            "pictures_charged": outcome.made_now,
            "charged_attach_ids": ids(picture.attach_id for unit in units for picture in unit.made if picture.new)
            or None,
            "price": outcome.price or None,
            **of_cost(units),
            "balance_before": before,
            "balance_after": outcome.balance,
            "charged_by_other_jobs_meanwhile": others or None,
            **_who(outcome, job),
        }
    )


def of_cost(units: Sequence[UnitOutcome]) -> Entries:
    """Return the cost at Gemini in USD of this run's pictures, failed ones included, beside the credits charged."""
    new = [picture for unit in units for picture in unit.made if picture.new and picture.model]
    usd = sum(picture.usd or 0.0 for picture in new) + sum(failed.usd for unit in units for failed in unit.failed)
    if not new and not usd:
        return {}
    unpriced = sum(picture.usd is None for picture in new)
    return {
        "gemini_usd": round(usd, 4),
        "gemini_models": ", ".join(sorted({picture.model for picture in new})) or None,
        "pictures_of_unknown_price": unpriced or None,
    }


def _who(outcome: JobOutcome, job: Job) -> Entries:
    return {
        "job_id": str(outcome.job_id),
        "production_id": str(job.production_id),
        "job_status": outcome.status.value,
        "category": job.category.value,
        "job_type": job.job_type,
        "member_id": str(job.member_id) if job.member_id else None,
        "org_id": str(job.org_id) if job.org_id else None,
    }


def _durations(outcome: JobOutcome, units: Sequence[UnitOutcome], job: Job, times: RunTimes | None) -> Entries:
    """Return where the time went: consecutive phases first, then sums over what ran in parallel."""
    claimed = outcome.claimed_at.timestamp() if outcome.claimed_at else None
    rows: list[tuple[str, float | None]] = []
    in_queue = None
    # the row of a rerun job dates from before its first run
    if job.created_at and claimed and job.job_status is JobStatus.PENDING:
        in_queue = max(0.0, claimed - job.created_at.timestamp())
        if times:
            rows.append(("job written → run requested", times.requested - job.created_at.timestamp()))
    if times and times.taken:
        rows.append(("run requested → taken by a worker", times.taken - times.requested))
        if claimed:
            rows.append(("taken by a worker → job claimed", claimed - times.taken))
    rows.append(("job claimed → first picture stored", outcome.first_picture_seconds))
    rows.append(("job claimed → job ended", outcome.seconds))
    pictures = [picture for unit in units for picture in unit.made if picture.new]
    rows += [
        ("references and image parts, all units", sum_of(unit.prepare_seconds for unit in units)),
        ("Gemini, all calls", sum_of(picture.gemini_seconds for picture in pictures)),
        ("waiting for the next call", sum_of(picture.waited_seconds for picture in pictures)),
        ("of that, for Gemini's quota", sum_of(unit.quota_seconds for unit in units)),
        ("object store, all uploads", sum_of(picture.storage_seconds for picture in pictures)),
        ("database, all pictures", sum_of(picture.database_seconds for picture in pictures)),
    ]
    shown: list[dict[str, str | float]] = [
        {"what": what, "seconds": round(max(0.0, seconds), 2)} for what, seconds in rows if seconds is not None
    ]
    return {
        "seconds_in_queue": MetadataValue.float(round(in_queue, 2)) if in_queue is not None else None,
        "seconds_at_work": MetadataValue.float(round(outcome.seconds, 2)),
        "durations": table(("what", "seconds"), shown),
    }


def _timeline(moments: Sequence[Moment]) -> MetadataValue:
    return table(
        ("at", "step", "what"),
        (
            {"at": f"{moment.seconds:.2f}\N{NO-BREAK SPACE}s", "step": moment.step, "what": moment.what}
            for moment in moments
        ),
        most=len(moments),
    )
