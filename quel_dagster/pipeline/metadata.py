"""How a run tells its story: the metadata of its outputs and materializations, and the tags of its run.

Belongs here: names and forms of what the Dagster UI shows, and how much of it. Does not belong here: deciding anything.

The UI shows some six entries of an event and the rest on a click: the answer comes first.

An event is a row that Dagster writes while the run waits, and reads whole to show a page: every list here is cut, so
that an event stays below EVENT_BYTES whatever a job holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from dagster import (
    DagsterRun,
    JsonMetadataValue,
    MetadataValue,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
)
from dagster._core.storage.tags import RETRY_NUMBER_TAG, RUN_KEY_TAG

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.jobs.model import Job, JobStatus, PartLayout, Unit
from quel_dagster.pipeline.tags import (
    CATEGORY_TAG,
    DRY_RUN_TAG,
    JOB_ID_TAG,
    JOB_TYPE_TAG,
    LAUNCH_TAG,
    MEMBER_TAG,
    ORG_TAG,
    OUTCOME_TAG,
    PRODUCTION_ID_TAG,
)
from quel_dagster.studio.outcomes import (
    JobOutcome,
    Moment,
    PictureMade,
    Planned,
    Rehearsal,
    Ticket,
    UnitOutcome,
)

#: What an event may hold; the tests hold the largest of every kind to it.
EVENT_BYTES = 200_000
#: Thumbnails of one event, in bytes of their text and in number.
THUMBNAIL_BYTES = 90_000
THUMBNAILS = 24
#: Rows of one table, and characters of one cell.
ROWS, CELL = 120, 300
#: Characters of one text, such as what Gemini is asked, and bytes of `job_input_data`.
TEXT = 8_000
INPUT_BYTES = 60_000

Entries = dict[str, Any]


# --- tags --------------------------------------------------------------------------------------------


def run_tags(job: JobDescription | Job) -> dict[str, str]:
    """Tags by which a run is found."""
    tags = {
        JOB_ID_TAG: job.job_id,
        PRODUCTION_ID_TAG: job.production_id,
        JOB_TYPE_TAG: job.job_type,
        CATEGORY_TAG: job.production_path or "fashion",
        MEMBER_TAG: job.member_id,
        ORG_TAG: job.org_id,
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def dry_run_tags(job: Job) -> dict[str, str]:
    """The same for a run that changes nothing."""
    tags = {name: value for name, value in run_tags(job).items() if name != JOB_ID_TAG}
    return {**tags, DRY_RUN_TAG: str(job.job_id), LAUNCH_TAG: "dry run", OUTCOME_TAG: "dry run"}


def launch_tag(run: DagsterRun, took_over_from: str | None) -> str:
    """How this run came about: `queue`, `by hand`, `retry 1`, `rerun of …`, `takes over from …`, `closes …`."""
    if retry := run.tags.get(RETRY_NUMBER_TAG):
        return f"retry {retry}"
    if run.parent_run_id:
        return f"rerun of {run.parent_run_id[:8]}"
    if took_over_from and took_over_from != run.run_id:
        return f"takes over from {took_over_from[:8]}"
    return run.tags.get(LAUNCH_TAG, "queue") if RUN_KEY_TAG in run.tags else "by hand"


def outcome_tag(outcome: JobOutcome) -> str:
    """`completed`, `partial`, `failed`, `user_cancelled`, `cancelled`."""
    return "partial" if outcome.status is JobStatus.COMPLETED and outcome.failed else outcome.status.value


# --- steps -------------------------------------------------------------------------------------------


def of_ticket(ticket: Ticket) -> Entries:
    if ticket.job is None:
        return {"refused": ticket.refused or ""}
    job = ticket.job
    return _without_none(
        {
            "job_id": str(job.job_id),
            "dry_run": True if ticket.dry_run else None,
            "production_id": str(job.production_id),
            "job_type": job.job_type,
            "category": job.production_path or "fashion",
            "status_before": job.job_status.value,
            "total_images": job.total_images,
            "member_id": str(job.member_id) if job.member_id else None,
            "org_id": str(job.org_id) if job.org_id else None,
            "written": MetadataValue.timestamp(job.created_at) if job.created_at else None,
            "only_units": ", ".join(ticket.units) or None,
            "went_on_after_run": MetadataValue.dagster_run(ticket.took_over_from) if ticket.took_over_from else None,
            "all_runs_of_this_job": _runs_link(JOB_ID_TAG, str(job.job_id)),
            "job_input_data": _input(job.input_data),
        }
    )


def of_plan(plan: Planned) -> Entries:
    return _without_none(
        {
            "verdict": plan.rehearsal.verdict if plan.rehearsal else None,
            "stopped": plan.stopped,
            "category": plan.category.value if plan.category else None,
            "job_type": plan.job_type.value if plan.job_type else None,
            "pictures_planned": plan.total,
            "pictures_made_before": plan.made_before,
            "left_out": _cut(", ".join(plan.left_out), CELL) or None,
            "payer": plan.payer or None,
            "balance_before": plan.balance,
            **(_of_rehearsal(plan.rehearsal) if plan.rehearsal else {}),
            "units": _table(
                ("unit", "pictures", "camera", "aspect_ratio", "references", "prompt"),
                (
                    {
                        "unit": unit.key,
                        "pictures": unit.quantity,
                        "camera": camera(unit),
                        "aspect_ratio": unit.aspect_ratio,
                        "references": _references(unit),
                        "prompt": unit.prompt,
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


def _of_rehearsal(rehearsal: Rehearsal) -> Entries:
    each = max(1000, (EVENT_BYTES // 3) // max(1, len(rehearsal.units)))
    texts = "\n\n".join(
        f"#### {unit.unit.key}: {unit.missing} of {unit.unit.quantity} to make\n\n"
        + "".join(f"- {_cut(warning, CELL)}\n" for warning in unit.warnings[:10])
        + (f"\nImage parts: {_parts(unit.parts)}\n" if unit.parts else "")
        + (f"\n```\n{_cut(unit.text, each)}\n```" if unit.text else "")
        for unit in rehearsal.units
    )
    return {
        "pictures_to_make": rehearsal.pictures,
        "credits_estimated": rehearsal.credits,
        "would_ask": MetadataValue.md(_cut(texts, EVENT_BYTES // 3)),
    }


def of_unit(unit: Unit) -> Entries:
    return {
        "pictures": unit.quantity,
        "camera": camera(unit),
        "aspect_ratio": unit.aspect_ratio,
        "references": _cut(_references(unit), TEXT) or "none",
        "prompt": _cut(unit.prompt, TEXT),
    }


def of_outcome(outcome: UnitOutcome) -> Entries:
    if outcome.refused is not None:
        return {"refused": outcome.refused}
    new = [made for made in outcome.made if made.new]
    return _without_none(
        {
            "outcome": _made_of(len(outcome.made), outcome.unit.quantity),
            "failures": _table(
                ("picture", "reason"),
                ({"picture": failure.slot.number, "reason": failure.reason} for failure in outcome.failed),
            )
            if outcome.failed
            else None,
            "pictures": _thumbnails(outcome.made),
            "warnings": _cut("\n".join(outcome.warnings), TEXT) or None,
            "camera": camera(outcome.unit),
            "references": _cut(_references(outcome.unit), TEXT) or "none",
            "image_parts": _parts(outcome.parts) or None,
            "made": len(new),
            "made_before": len(outcome.made) - len(new) or None,
            "failed": len(outcome.failed) or None,
            "attach_ids": _ids(made.attach_id for made in outcome.made) or None,
            "calls": _calls(new) if new else None,
            "asked": MetadataValue.text(_cut(outcome.text, TEXT)) if outcome.text else None,
            "seconds": MetadataValue.float(round(outcome.seconds, 2)),
            "waited_for_quota_seconds": round(outcome.quota_seconds, 2) or None,
        }
    )


# --- results -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunTimes:
    """When Dagster was asked for the run, and when a worker took it; seconds since the epoch."""

    asked: float
    taken: float | None


def of_images(outcome: JobOutcome, units: Sequence[UnitOutcome], job: Job) -> Entries:
    made = [picture for unit in units for picture in unit.made]
    return _without_none(
        {
            "outcome": _made_of(outcome.completed, outcome.completed + outcome.failed),
            "error_message": outcome.error,
            "pictures": _thumbnails(made),
            "completed_images": outcome.completed,
            "failed_images": outcome.failed,
            "made_by_this_run": outcome.made_now,
            "by_unit": _table(
                ("unit", "made", "failed", "why", "camera", "references", "seconds"),
                (
                    {
                        "unit": unit.unit.key,
                        "camera": camera(unit.unit),
                        "references": _references(unit.unit),
                        "made": len(unit.made),
                        "failed": len(unit.failed),
                        "why": "; ".join(dict.fromkeys(failure.reason for failure in unit.failed)),
                        "seconds": round(unit.seconds, 2),
                    }
                    for unit in units
                ),
            ),
            "attach_ids": _ids(outcome.attach_ids),
            "gemini_seconds": _sum(picture.gemini_seconds for picture in made) if outcome.made_now else None,
            "kilobytes": round(sum(picture.size for picture in made) / 1000) if outcome.made_now else None,
            **_who(outcome, job),
        }
    )


def of_production(
    outcome: JobOutcome, units: Sequence[UnitOutcome], plan: Planned, job: Job, times: RunTimes | None
) -> Entries:
    return _without_none(
        {
            "outcome": _made_of(outcome.completed, outcome.completed + outcome.failed),
            "error_message": outcome.error,
            **_durations(outcome, units, job, times),
            "all_runs_of_this_production": _runs_link(PRODUCTION_ID_TAG, str(job.production_id)),
            "repairs": _table(
                ("path", "problem"), ({"path": repair.path, "problem": repair.problem} for repair in plan.repairs)
            )
            if plan.repairs
            else None,
            "timeline": _timeline(outcome.timeline) if outcome.timeline else None,
            "completed_images": outcome.completed,
            "failed_images": outcome.failed,
            **_who(outcome, job),
        }
    )


def of_credits(outcome: JobOutcome, plan: Planned, job: Job, units: Sequence[UnitOutcome]) -> Entries:
    """Balance before and after as this run saw them: other jobs of the payer may charge in between."""
    before = outcome.balance_before if outcome.balance_before is not None else plan.balance
    others = None
    if outcome.balance_before is not None and outcome.balance is not None:
        others = outcome.balance_before - outcome.charged_now - outcome.balance
    return _without_none(
        {
            "payer": outcome.payer or plan.payer or None,
            "credits_charged": outcome.charged_now,
            "pictures_charged": outcome.made_now,
            "charged_attach_ids": _ids(picture.attach_id for unit in units for picture in unit.made if picture.new)
            or None,
            "price": outcome.price or None,
            "balance_before": before,
            "balance_after": outcome.balance,
            "charged_by_other_jobs_meanwhile": others or None,
            **_who(outcome, job),
        }
    )


def _who(outcome: JobOutcome, job: Job) -> Entries:
    return {
        "job_id": str(outcome.job_id),
        "production_id": str(job.production_id),
        "job_status": outcome.status.value,
        "category": job.production_path or "fashion",
        "job_type": job.job_type,
        "member_id": str(job.member_id) if job.member_id else None,
        "org_id": str(job.org_id) if job.org_id else None,
    }


def _durations(outcome: JobOutcome, units: Sequence[UnitOutcome], job: Job, times: RunTimes | None) -> Entries:
    """Where the time went: the ways in one after the other, then sums over what went on side by side."""
    claimed = outcome.claimed_at.timestamp() if outcome.claimed_at else None
    rows: list[tuple[str, float | None]] = []
    in_queue = None
    # the row of a job that runs again is as old as its first run
    if job.created_at and claimed and job.job_status is JobStatus.PENDING:
        in_queue = max(0.0, claimed - job.created_at.timestamp())
        if times:
            rows.append(("job written → run asked for", times.asked - job.created_at.timestamp()))
    if times and times.taken:
        rows.append(("run asked for → taken by a worker", times.taken - times.asked))
        if claimed:
            rows.append(("taken by a worker → job claimed", claimed - times.taken))
    rows.append(("job claimed → first picture stored", outcome.first_picture_seconds))
    rows.append(("job claimed → job ended", outcome.seconds))
    pictures = [picture for unit in units for picture in unit.made if picture.new]
    rows += [
        ("references and image parts, all units", _sum(unit.prepare_seconds for unit in units)),
        ("Gemini, all calls", _sum(picture.gemini_seconds for picture in pictures)),
        ("waiting for the next call", _sum(picture.waited_seconds for picture in pictures)),
        ("of that, for Gemini's quota", _sum(unit.quota_seconds for unit in units)),
        ("object store, all uploads", _sum(picture.storage_seconds for picture in pictures)),
        ("database, all pictures", _sum(picture.database_seconds for picture in pictures)),
    ]
    shown: list[dict[str, str | float]] = [
        {"what": what, "seconds": round(max(0.0, seconds), 2)} for what, seconds in rows if seconds is not None
    ]
    return {
        "seconds_in_queue": MetadataValue.float(round(in_queue, 2)) if in_queue is not None else None,
        "seconds_at_work": MetadataValue.float(round(outcome.seconds, 2)),
        "durations": _table(("what", "seconds"), shown),
    }


def _timeline(moments: Sequence[Moment]) -> MetadataValue:
    return _table(
        ("at", "step", "what"),
        (
            {"at": f"{moment.seconds:.2f}\N{NO-BREAK SPACE}s", "step": moment.step, "what": moment.what}
            for moment in moments
        ),
        most=len(moments),
    )


# --- forms -------------------------------------------------------------------------------------------


def camera(unit: Unit) -> str:
    """Angle, shot and effect in one line."""
    return " · ".join(part for part in (unit.angle, unit.shot, unit.fx) if part and part != "none") or "default"


def table(columns: Sequence[str], rows: Iterable[Mapping[str, str | int | float]]) -> MetadataValue:
    """Rows as the UI shows them; long cells and the rest of many rows are cut."""
    return _table(columns, rows)


def _without_none(entries: Mapping[str, Any]) -> Entries:
    """The entries that say something; the heaviest are left out of an event that would be too large."""
    kept = {name: value for name, value in entries.items() if value is not None}
    weights = {name: _weight(value) for name, value in kept.items()}
    while sum(weights.values()) > EVENT_BYTES * 0.9:
        heaviest = max(weights, key=lambda name: weights[name])
        kept[heaviest] = (
            f"left out: {weights[heaviest] // 1000} kB are too much for this page; the rows and logs hold it"
        )
        weights[heaviest] = 200
    return kept


def _weight(value: Any) -> int:
    """About the bytes of an entry in an event, where what is not ASCII is written as escapes."""
    if isinstance(value, TableMetadataValue):
        return sum(100 + sum(_weight(cell) for cell in record.data.values()) for record in value.records)
    if isinstance(value, JsonMetadataValue):
        return len(json.dumps(value.data))
    text = value.value if isinstance(value, MetadataValue) else value
    return 60 + (len(json.dumps(text)) if isinstance(text, str) else 0)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more characters)"


def _sum(seconds: Iterable[float]) -> float:
    return round(sum(seconds), 2)


def _made_of(made: int, planned: int) -> str:
    return f"{made} of {planned} pictures"


def _ids(attach_ids: Iterable[int]) -> str:
    return _cut(", ".join(map(str, attach_ids)), TEXT)


def _references(unit: Unit) -> str:
    return ", ".join(f"{reference.attach_id} ({reference.type})" for reference in unit.references)


def _parts(parts: Iterable[PartLayout]) -> str:
    return _cut(
        "; ".join(
            f"{number}. {part.role} ({part.arrangement.value}: {', '.join(map(str, part.attach_ids))})"
            for number, part in enumerate(parts, 1)
        ),
        TEXT,
    )


def _runs_link(tag: str, value: str) -> MetadataValue:
    """The list of runs with a tag, on this very web server."""
    return MetadataValue.url(f"/runs?q[0]={quote(f'tag:{tag}={value}', safe='')}")


def _input(data: Any) -> MetadataValue | None:
    """`job_input_data` as it came; one that is too large as the beginning of its text."""
    if not isinstance(data, dict | list):
        return None
    text = json.dumps(data, ensure_ascii=False)
    return MetadataValue.json(data) if len(text.encode()) <= INPUT_BYTES else MetadataValue.text(_cut(text, TEXT))


def _thumbnails(pictures: Iterable[PictureMade]) -> MetadataValue | None:
    """As many as fit, the first of every unit before the second of any; None when there is none."""
    everything = [picture for picture in pictures if picture.thumbnail]
    chosen: set[int] = set()
    size = 0
    for picture in sorted(everything, key=lambda made: (made.slot.number, made.slot.unit)):
        size += len(picture.thumbnail or "")
        if size > THUMBNAIL_BYTES or len(chosen) == THUMBNAILS:
            break
        chosen.add(picture.attach_id)
    if not chosen:
        return None
    images = " ".join(
        f"![{picture.attach_id}](data:image/webp;base64,{picture.thumbnail})"
        for picture in everything
        if picture.attach_id in chosen
    )
    more = f"\n\nand {len(everything) - len(chosen)} more" if len(everything) > len(chosen) else ""
    return MetadataValue.md(images + more)


def _calls(pictures: Sequence[PictureMade]) -> MetadataValue:
    return _table(
        (
            "picture",
            "attach_id",
            "attempts",
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


def _table(
    columns: Sequence[str], rows: Iterable[Mapping[str, str | int | float]], *, most: int = ROWS
) -> MetadataValue:
    everything = list(rows)
    shown = [dict(row) for row in everything[:most]]
    if len(everything) > most:
        shown.append({columns[0]: f"… and {len(everything) - most} more"})
    records = [TableRecord({name: _cell(row.get(name, "")) for name in columns}) for row in shown]
    return MetadataValue.table(records=records, schema=TableSchema(columns=[TableColumn(name) for name in columns]))


def _cell(value: str | int | float) -> str | int | float:
    return _cut(value, CELL) if isinstance(value, str) else value
