"""What a run shows of itself."""

from __future__ import annotations

from uuid import UUID

import pytest
from dagster import MetadataValue

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.jobs.model import Job, JobStatus, Slot, Unit
from quel_dagster.pipeline import metadata
from quel_dagster.studio.outcomes import JobOutcome, PictureFailed, PictureMade, UnitOutcome

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
    tags = metadata.run_tags(job)
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
    assert metadata.outcome_tag(outcome(status, failed)) == tag


def test_thumbnails_are_shown_up_to_a_limit_and_the_rest_counted() -> None:
    unit = UnitOutcome(unit=UNIT, run_id="r", made=tuple(made(number) for number in range(30)))
    shown = metadata.of_images(outcome(), [unit], JOB)["pictures"]
    assert isinstance(shown, MetadataValue)
    text = str(shown.value)
    assert text.count("![") == metadata.THUMBNAILS
    assert "![100](data:image/webp;base64,QUJD)" in text
    assert text.endswith("and 6 more")


def test_a_unit_says_what_was_made_what_was_there_and_what_failed() -> None:
    unit = UnitOutcome(
        unit=UNIT,
        run_id="r",
        made=(made(0), made(1, new=False, thumbnail=None)),
        failed=(PictureFailed(slot=Slot(unit=0, number=2), reason="blocked"),),
        seconds=1.234,
    )
    entries = metadata.of_outcome(unit)
    assert (entries["made"], entries["made_before"], entries["failed"]) == (1, 1, 1)
    assert entries["attach_ids"] == "100, 101"
    (failure,) = entries["failures"].records
    assert failure.data == {"picture": 2, "reason": "blocked"}
    (call,) = entries["calls"].records
    assert call.data["attach_id"] == 100


def test_nothing_is_shown_as_none() -> None:
    entries = metadata.of_outcome(UnitOutcome(unit=UNIT, run_id="r"))
    assert None not in entries.values()
    assert "pictures" not in entries
    assert "calls" not in entries
