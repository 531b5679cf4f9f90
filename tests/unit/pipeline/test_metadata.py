"""The metadata of a run."""

from __future__ import annotations

from uuid import UUID

import pytest
from dagster import MarkdownMetadataValue, MetadataValue
from markdown_it import MarkdownIt

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.engine.outcomes import (
    JobOutcome,
    PictureFailed,
    PictureMade,
    Planned,
    Rehearsal,
    UnitOutcome,
    UnitRehearsal,
)
from quel_dagster.jobs.model import Job, JobStatus, Slot, Unit
from quel_dagster.pipeline.metadata import entries, results, steps
from quel_dagster.pipeline.run_tags import outcome_tag, run_tags

ID = UUID("11111111-1111-4111-8111-111111111111")
JOB = Job(
    job_id=ID,
    production_id=ID,
    job_type="single_batch",
    job_status=JobStatus.PROCESSING,
    total_images=30,
    input_data={},
    member_id=ID,
    org_id=None,
    production_path="fashion",
)
UNIT = Unit(index=0, key="stage0", quantity=30, prompt="x", aspect_ratio="1:1")


def outcome(status: JobStatus = JobStatus.COMPLETED, failed: int = 0) -> JobOutcome:
    return JobOutcome(
        job_id=ID,
        status=status,
        completed=2,
        failed=failed,
        attach_ids=(7, 8),
        error=None,
        made_now=2,
        charged_now=40,
        balance=1,
    )


def made(number: int, *, thumbnail: str | None = "QUJD", new: bool = True) -> PictureMade:
    return PictureMade(
        slot=Slot(unit=0, number=number), attach_id=100 + number, key="k", new=new, thumbnail=thumbnail, size=1500
    )


def test_a_run_is_tagged_with_what_the_job_has() -> None:
    job = JobDescription(
        job_id=ID,
        production_id=ID,
        job_type="single_batch",
        job_status="pending",
        total_images=1,
        member_id=None,
        org_id=ID,
        production_path=None,
    )
    tags = run_tags(job)
    assert tags["quel/job_id"] == tags["quel/org_id"] == str(ID)
    assert tags["quel/category"] == "fashion"
    assert "quel/member_id" not in tags


@pytest.mark.parametrize(
    ("status", "failed", "tag"),
    [
        (JobStatus.COMPLETED, 0, "completed"),
        (JobStatus.COMPLETED, 1, "partial"),
        (JobStatus.FAILED, 1, "failed"),
        (JobStatus.USER_CANCELLED, 1, "user_cancelled"),
    ],
)
def test_how_a_run_ended(status: JobStatus, failed: int, tag: str) -> None:
    assert outcome_tag(outcome(status, failed)) == tag


def test_thumbnails_are_shown_up_to_a_limit_and_the_rest_counted() -> None:
    unit = UnitOutcome(unit=UNIT, run_id="r", made=tuple(made(number) for number in range(30)))
    shown = results.of_images(outcome(), [unit], JOB)["pictures"]
    assert isinstance(shown, MetadataValue)
    text = str(shown.value)
    assert text.count("![") == entries.THUMBNAILS
    assert "![100](data:image/webp;base64,QUJD)" in text
    assert text.endswith("and 6 more")


def test_a_unit_reports_new_existing_and_failed_pictures() -> None:
    unit = UnitOutcome(
        unit=UNIT,
        run_id="r",
        made=(made(0), made(1, new=False, thumbnail=None)),
        failed=(PictureFailed(slot=Slot(unit=0, number=2), reason="blocked"),),
        seconds=1.234,
    )
    entries = steps.of_outcome(unit)
    assert (entries["made"], entries["made_before"], entries["failed"]) == (1, 1, 1)
    assert entries["attach_ids"] == "100, 101"
    (failure,) = entries["failures"].records
    assert failure.data == {"picture": 2, "reason": "blocked"}
    (call,) = entries["calls"].records
    assert call.data["attach_id"] == 100


def test_missing_values_are_left_out() -> None:
    entries = steps.of_outcome(UnitOutcome(unit=UNIT, run_id="r"))
    assert None not in entries.values()
    assert "pictures" not in entries
    assert "calls" not in entries


HOSTILE = (
    "![x](http://attacker.example/a) <img src=http://attacker.example/b> [c](javascript:d) http://attacker.example/e\n"
    "```\n![x](http://attacker.example/f)\n````\n~~~\n<img src=http://attacker.example/g>\r```````\r# h"
)


def test_what_a_user_wrote_is_shown_as_text_by_a_dry_run() -> None:
    unit = UnitRehearsal(unit=UNIT, missing=1, text=HOSTILE * 2, warnings=(HOSTILE, "plain"))
    plan = Planned(
        job_id=ID, rehearsal=Rehearsal(units=(unit, unit), pictures=2, credits=40, verdict="A run would make them.")
    )
    page = steps.of_plan(plan)["would_ask"]
    tokens = [
        token for block in MarkdownIt("commonmark").parse(page.value) for token in (block, *(block.children or ()))
    ]
    assert {token.tag for token in tokens} <= {"h4", "code", ""}
    shown = [token.content for token in tokens if token.type == "fence"]
    assert len(shown) == 2
    assert all(text.count("attacker.example/g") == 3 for text in shown), "two in the text and one in the warning"


def test_no_text_of_a_user_is_markdown() -> None:
    """Entries that are rendered as Markdown hold nothing but our own words and numbers."""
    picture = made(0)
    unit = Unit(
        index=0, key="stage0", quantity=30, prompt=HOSTILE, aspect_ratio="1:1", angle=HOSTILE, shot=HOSTILE, fx=HOSTILE
    )
    failed = PictureFailed(slot=Slot(unit=0, number=1), reason=HOSTILE)
    outcome_of_unit = UnitOutcome(
        run_id="r", unit=unit, made=(picture,), failed=(failed,), warnings=(HOSTILE,), text=HOSTILE
    )
    entries = [
        *steps.of_unit(unit).values(),
        *steps.of_outcome(outcome_of_unit).values(),
        *results.of_images(outcome(), (outcome_of_unit,), JOB).values(),
    ]
    rendered = [entry.value for entry in entries if isinstance(entry, MarkdownMetadataValue)]
    assert rendered
    assert not [text for text in rendered if "attacker" in text]
