"""How a run tells its story: the metadata of its outputs and materializations, and the tags of its run.

Belongs here: names and forms of what the Dagster UI shows. Does not belong here: deciding anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dagster import MetadataValue, TableColumn, TableRecord, TableSchema

from quel_dagster.adapters.database.store import JobDescription
from quel_dagster.jobs.model import Job, JobStatus, Unit
from quel_dagster.studio.outcomes import JobOutcome, PictureMade, Planned, Ticket, UnitOutcome

#: Thumbnails shown by one materialization: an event stays below some 200 kB.
THUMBNAILS = 24

Entries = dict[str, Any]


def run_tags(job: JobDescription | Job) -> dict[str, str]:
    """Tags by which a run is found."""
    tags = {
        "quel/job_id": job.job_id,
        "quel/production_id": job.production_id,
        "quel/job_type": job.job_type,
        "quel/category": job.production_path or "fashion",
        "quel/member_id": job.member_id,
        "quel/org_id": job.org_id,
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def outcome_tag(outcome: JobOutcome) -> str:
    """`completed`, `partial`, `failed`, `user_cancelled`, `cancelled`."""
    return "partial" if outcome.status is JobStatus.COMPLETED and outcome.failed else outcome.status.value


def of_ticket(ticket: Ticket) -> Entries:
    if ticket.job is None:
        return {"refused": ticket.refused or ""}
    job = ticket.job
    return _without_none(
        {
            "job_id": str(job.job_id),
            "production_id": str(job.production_id),
            "job_type": job.job_type,
            "status_before": job.job_status.value,
            "total_images": job.total_images,
            "member_id": str(job.member_id) if job.member_id else None,
            "org_id": str(job.org_id) if job.org_id else None,
            "went_on_after_run": ticket.took_over_from,
            "job_input_data": MetadataValue.json(job.input_data) if isinstance(job.input_data, dict | list) else None,
        }
    )


def of_plan(plan: Planned) -> Entries:
    return _without_none(
        {
            "category": plan.category.value if plan.category else None,
            "job_type": plan.job_type.value if plan.job_type else None,
            "pictures_planned": plan.total,
            "pictures_made_before": plan.made_before,
            "payer": plan.payer or None,
            "balance_before": plan.balance,
            "units": _table(
                ("unit", "pictures", "angle", "shot", "aspect_ratio", "references", "prompt"),
                (
                    {
                        "unit": unit.key,
                        "pictures": unit.quantity,
                        "angle": unit.angle,
                        "shot": unit.shot,
                        "aspect_ratio": unit.aspect_ratio,
                        "references": _references(unit),
                        "prompt": unit.prompt[:200],
                    }
                    for unit in plan.units
                ),
            ),
            "repairs": _table(
                ("path", "problem"), ({"path": repair.path, "problem": repair.problem} for repair in plan.repairs)
            )
            if plan.repairs
            else None,
        }
    )


def of_unit(unit: Unit) -> Entries:
    return {
        "pictures": unit.quantity,
        "camera": " · ".join(part for part in (unit.angle, unit.shot, unit.fx) if part and part != "none") or "default",
        "aspect_ratio": unit.aspect_ratio,
        "references": _references(unit) or "none",
        "prompt": unit.prompt,
    }


def of_outcome(outcome: UnitOutcome) -> Entries:
    new = [made for made in outcome.made if made.new]
    return _without_none(
        {
            "pictures": _thumbnails(outcome.made) if any(made.thumbnail for made in outcome.made) else None,
            "made": len(new),
            "made_before": len(outcome.made) - len(new),
            "failed": len(outcome.failed),
            "attach_ids": ", ".join(str(made.attach_id) for made in outcome.made) or None,
            "failures": _table(
                ("picture", "reason"),
                ({"picture": failure.slot.number, "reason": failure.reason} for failure in outcome.failed),
            )
            if outcome.failed
            else None,
            "warnings": "\n".join(outcome.warnings) or None,
            "calls": _calls(new) if new else None,
            "asked": MetadataValue.text(outcome.text) if outcome.text else None,
            "reference_parts": "; ".join(
                f"{number}. {part.role} ({part.arrangement.value}: {', '.join(map(str, part.attach_ids))})"
                for number, part in enumerate(outcome.parts, 1)
            )
            or None,
            "seconds": MetadataValue.float(round(outcome.seconds, 2)),
        }
    )


def of_images(outcome: JobOutcome, units: Sequence[UnitOutcome]) -> Entries:
    made = [picture for unit in units for picture in unit.made]
    return _without_none(
        {
            "pictures": _thumbnails(made) if any(picture.thumbnail for picture in made) else None,
            "job_id": str(outcome.job_id),
            "status": outcome.status.value,
            "completed_images": outcome.completed,
            "failed_images": outcome.failed,
            "made_by_this_run": outcome.made_now,
            "attach_ids": ", ".join(map(str, outcome.attach_ids)),
            "error_message": outcome.error,
            "by_unit": _table(
                ("unit", "made", "failed", "seconds"),
                (
                    {
                        "unit": unit.unit.key,
                        "made": len(unit.made),
                        "failed": len(unit.failed),
                        "seconds": round(unit.seconds, 2),
                    }
                    for unit in units
                ),
            ),
        }
    )


def of_production(outcome: JobOutcome, job: Job) -> Entries:
    return _without_none(
        {
            "production_id": str(job.production_id),
            "job_id": str(outcome.job_id),
            "job_status": outcome.status.value,
            "completed_images": outcome.completed,
            "failed_images": outcome.failed,
            "error_message": outcome.error,
        }
    )


def of_credits(outcome: JobOutcome, units: Sequence[UnitOutcome], plan: Planned) -> Entries:
    return _without_none(
        {
            "job_id": str(outcome.job_id),
            "payer": plan.payer or None,
            "credits_charged": outcome.charged_now,
            "pictures_charged": outcome.made_now,
            "balance_before": plan.balance,
            "balance_after": outcome.balance,
        }
    )


# --- forms -------------------------------------------------------------------------------------------


def _without_none(entries: Mapping[str, Any]) -> Entries:
    return {name: value for name, value in entries.items() if value is not None}


def _references(unit: Unit) -> str:
    return ", ".join(f"{reference.attach_id} ({reference.type})" for reference in unit.references)


def _thumbnails(pictures: Iterable[PictureMade]) -> MetadataValue:
    shown = [picture for picture in pictures if picture.thumbnail]
    images = " ".join(
        f"![{picture.attach_id}](data:image/webp;base64,{picture.thumbnail})" for picture in shown[:THUMBNAILS]
    )
    more = f"\n\nand {len(shown) - THUMBNAILS} more" if len(shown) > THUMBNAILS else ""
    return MetadataValue.md(images + more)


def _calls(pictures: Sequence[PictureMade]) -> MetadataValue:
    return _table(
        ("picture", "attach_id", "attempts", "gemini_s", "waited_s", "storage_s", "database_s", "kB", "pixels"),
        (
            {
                "picture": picture.slot.number,
                "attach_id": picture.attach_id,
                "attempts": picture.attempts,
                "gemini_s": picture.gemini_seconds,
                "waited_s": picture.waited_seconds,
                "storage_s": picture.storage_seconds,
                "database_s": picture.database_seconds,
                "kB": round(picture.size / 1000),
                "pixels": f"{picture.width}×{picture.height}",
            }
            for picture in pictures
        ),
    )


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, str | int | float]]) -> MetadataValue:
    return MetadataValue.table(
        records=[TableRecord(dict(row)) for row in rows],
        schema=TableSchema(columns=[TableColumn(name) for name in columns]),
    )
