"""Metadata of the outputs of the ops: the job as claimed, its plan, a unit, the result of a unit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from dagster import MetadataValue

from quel_dagster.engine.outcomes import ClaimedJob, PictureMade, Planned, Rehearsal, UnitOutcome, UnitRehearsal
from quel_dagster.jobs.model import Unit
from quel_dagster.pipeline.metadata.entries import (
    CELL,
    EVENT_BYTES,
    INPUT_BYTES,
    TEXT,
    Entries,
    cut,
    fitted,
    ids,
    literal,
    made_of,
    page_link,
    parts,
    references,
    repairs,
    runs_link,
    table,
    thumbnails,
)
from quel_dagster.platform.tags import JOB_ID_TAG


def of_claimed_job(claimed: ClaimedJob) -> Entries:
    if claimed.job is None:
        return {"refused": claimed.refused or ""}
    job = claimed.job
    return fitted(
        {
            "job_id": str(job.job_id),
            "dry_run": True if claimed.dry_run else None,
            "production_id": str(job.production_id),
            "job_type": job.job_type,
            "category": job.category.value,
            "status_before": job.job_status.value,
            "total_images": job.total_images,
            "member_id": str(job.member_id) if job.member_id else None,
            "org_id": str(job.org_id) if job.org_id else None,
            "written": MetadataValue.timestamp(job.created_at) if job.created_at else None,
            "only_units": ", ".join(claimed.units) or None,
            "went_on_after_run": MetadataValue.dagster_run(claimed.took_over_from) if claimed.took_over_from else None,
            "page_of_this_job": page_link(f"/jobs/{job.job_id}"),
            "all_runs_of_this_job": runs_link(JOB_ID_TAG, str(job.job_id)),
            "job_input_data": _input(job.input_data),
        }
    )


def _input(data: Any) -> MetadataValue | None:
    """Return `job_input_data` as received; if it is too large, the beginning of its text."""
    if not isinstance(data, dict | list):
        return None
    text = json.dumps(data, ensure_ascii=False)
    return MetadataValue.json(data) if len(text.encode()) <= INPUT_BYTES else MetadataValue.text(cut(text, TEXT))


def of_plan(plan: Planned) -> Entries:
    return fitted(
        {
            "verdict": plan.rehearsal.verdict if plan.rehearsal else None,
            "stopped": plan.stopped,
            "category": plan.category.value if plan.category else None,
            "job_type": plan.job_type.value if plan.job_type else None,
            "pictures_planned": plan.total,
            "pictures_made_before": plan.made_before,
            "left_out": cut(", ".join(plan.left_out), CELL) or None,
            "payer": plan.payer or None,
            "balance_before": plan.balance,
            **(_of_rehearsal(plan.rehearsal) if plan.rehearsal else {}),
            "units": table(
                ("unit", "pictures", "camera", "aspect_ratio", "references", "prompt"),
                (
                    {
                        "unit": unit.key,
                        "pictures": unit.quantity,
                        "camera": unit.camera,
                        "aspect_ratio": unit.aspect_ratio,
                        "references": references(unit),
                        "prompt": unit.prompt,
                    }
                    for unit in plan.units
                ),
            ),
            "repairs": repairs(plan.repairs),
        }
    )


def _of_rehearsal(rehearsal: Rehearsal) -> Entries:
    each = max(1000, (EVENT_BYTES // 3) // max(1, len(rehearsal.units)))
    texts = "\n\n".join(
        f"#### {unit.unit.key}: {unit.missing} of {unit.unit.quantity} to make\n\n"
        + literal(_of_unit_rehearsal(unit, each))
        for unit in rehearsal.units
    )
    return {
        "pictures_to_make": rehearsal.pictures,
        "credits_estimated": rehearsal.credits,
        "would_ask": MetadataValue.md(cut(texts, EVENT_BYTES // 3)),
    }


def _of_unit_rehearsal(unit: UnitRehearsal, most: int) -> str:
    lines = [f"- {cut(warning, CELL)}" for warning in unit.warnings[:10]]
    lines += [f"Image parts: {parts(unit.parts)}"] if unit.parts else []
    return "\n".join([*lines, *(["", cut(unit.text, most)] if unit.text else [])])


def of_unit(unit: Unit) -> Entries:
    return {
        "pictures": unit.quantity,
        "camera": unit.camera,
        "aspect_ratio": unit.aspect_ratio,
        "references": cut(references(unit), TEXT) or "none",
        "prompt": cut(unit.prompt, TEXT),
    }


def of_outcome(outcome: UnitOutcome) -> Entries:
    if outcome.refused is not None:
        return {"refused": outcome.refused}
    new = [made for made in outcome.made if made.new]
    return fitted(
        {
            "outcome": made_of(len(outcome.made), outcome.unit.quantity),
            "failures": table(
                ("picture", "reason"),
                ({"picture": failure.slot.number, "reason": failure.reason} for failure in outcome.failed),
            )
            if outcome.failed
            else None,
            "pictures": thumbnails(outcome.made),
            "warnings": cut("\n".join((*outcome.warnings, *_notes(outcome))), TEXT) or None,
            "camera": outcome.unit.camera,
            "references": cut(references(outcome.unit), TEXT) or "none",
            "image_parts": parts(outcome.parts) or None,
            "made": len(new),
            "made_before": len(outcome.made) - len(new) or None,
            "failed": len(outcome.failed) or None,
            "attach_ids": ids(made.attach_id for made in outcome.made) or None,
            "calls": _calls(new) if new else None,
            "request": MetadataValue.text(cut(outcome.text, TEXT)) if outcome.text else None,
            "seconds": MetadataValue.float(round(outcome.seconds, 2)),
            "waited_for_quota_seconds": round(outcome.quota_seconds, 2) or None,
        }
    )


def _notes(outcome: UnitOutcome) -> Iterator[str]:
    for picture in outcome.made:
        for note in picture.notes:
            yield f"Picture {picture.slot.number}: {note}"


def _calls(pictures: Sequence[PictureMade]) -> MetadataValue:
    return table(
        (
            "picture",
            "attach_id",
            "attempts",
            "model",
            "usd",
            "gemini_s",
            "waited_s",
            "quota_s",
            "storage_s",
            "database_s",
            "kB",
            "pixels",
        ),
        (
            {
                "picture": picture.slot.number,
                "attach_id": picture.attach_id,
                "attempts": picture.attempts,
                "model": picture.model,
                "usd": "unknown" if picture.usd is None else f"{picture.usd:.4f}",
                "gemini_s": picture.gemini_seconds,
                "waited_s": picture.waited_seconds,
                "quota_s": picture.quota_seconds,
                "storage_s": picture.storage_seconds,
                "database_s": picture.database_seconds,
                "kB": round(picture.size / 1000),
                "pixels": f"{picture.width}×{picture.height}",
            }
            for picture in pictures
        ),
    )
