"""The events of a run stay small for every job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from dagster import AssetMaterialization
from dagster._serdes import serialize_value

from quel_dagster.engine.outcomes import (
    ClaimedJob,
    JobOutcome,
    Moment,
    PictureFailed,
    PictureMade,
    Planned,
    Rehearsal,
    UnitOutcome,
    UnitRehearsal,
)
from quel_dagster.engine.timeline import FIRST, LAST, LONGEST, Timeline
from quel_dagster.jobs.model import (
    Arrangement,
    Category,
    Job,
    JobStatus,
    JobType,
    PartLayout,
    Reference,
    Repair,
    Slot,
    Unit,
)
from quel_dagster.pipeline.metadata import entries, results, steps

LONG = "한" * 20_000
JOB = UUID(int=1)


def unit(index: int, quantity: int = 10) -> Unit:
    return Unit(
        index=index,
        key=f"combo{index}_three_quarter_full_body",
        quantity=quantity,
        prompt=LONG,
        negative_prompt=LONG,
        aspect_ratio="16:9",
        angle="three-quarter",
        shot="full-body",
        references=tuple(Reference(attach_id=39070 + n, type="accessory") for n in range(50)),
    )


def made(unit_index: int, number: int) -> PictureMade:
    return PictureMade(
        slot=Slot(unit=unit_index, number=number),
        attach_id=1000 * unit_index + number,
        key="k" * 150,
        thumbnail="A" * 6000,
        size=1_500_000,
        width=1344,
        height=768,
    )


def outcome_of(index: int, quantity: int) -> UnitOutcome:
    return UnitOutcome(
        unit=unit(index, quantity),
        run_id="run",
        made=tuple(made(index, number) for number in range(quantity // 2)),
        failed=tuple(
            PictureFailed(slot=Slot(unit=index, number=number), reason=LONG)
            for number in range(quantity // 2, quantity)
        ),
        parts=tuple(
            PartLayout(role="accessories", arrangement=Arrangement.GRID, attach_ids=tuple(range(50))) for _ in range(5)
        ),
        text=LONG,
        warnings=(LONG,) * 20,
    )


def job(input_data: Any = None) -> Job:
    return Job(
        job_id=JOB,
        production_id=uuid4(),
        job_type="single_batch",
        job_status=JobStatus.PENDING,
        total_images=1000,
        input_data=input_data,
        member_id=uuid4(),
        org_id=uuid4(),
        production_path="fashion",
        created_at=datetime.now(UTC),
    )


def planned(units: int, **more: Any) -> Planned:
    return Planned(
        job_id=JOB,
        category=Category.FASHION,
        job_type=JobType.SINGLE_BATCH,
        units=tuple(unit(index) for index in range(units)),
        repairs=tuple(Repair(path="combinations[1].quantity", problem=LONG) for _ in range(1000)),
        **more,
    )


def ended() -> JobOutcome:
    timeline = Timeline()
    for _ in range(5000):
        timeline.note("combo12_three_quarter_full_body", LONG)
    return JobOutcome(
        job_id=JOB,
        status=JobStatus.COMPLETED,
        completed=1000,
        failed=0,
        attach_ids=tuple(range(1_000_000, 1_001_000)),
        error=LONG[:2000],
        made_now=1000,
        charged_now=20_000,
        balance=1,
        claimed_at=datetime.now(UTC),
        timeline=timeline.moments(),
    )


def rehearsal(units: int) -> Rehearsal:
    played = tuple(
        UnitRehearsal(unit=unit(index), missing=10, text=LONG, warnings=(LONG,) * 20) for index in range(units)
    )
    return Rehearsal(units=played, pictures=1000, credits=20_000, verdict="A run would make them.")


EVENTS = {
    "claimed": lambda: steps.of_claimed_job(
        ClaimedJob(job_id=JOB, job=job({"basePrompt": LONG, "stages": [LONG] * 200}))
    ),
    "plan": lambda: steps.of_plan(planned(200)),
    "dry run": lambda: steps.of_plan(planned(200, rehearsal=rehearsal(200))),
    "dry run of one unit": lambda: steps.of_plan(planned(1, rehearsal=rehearsal(1))),
    "unit": lambda: steps.of_unit(unit(0)),
    "outcome": lambda: steps.of_outcome(outcome_of(0, 1000)),
    "images": lambda: results.of_images(ended(), [outcome_of(index, 10) for index in range(200)], job()),
    "production": lambda: results.of_production(
        ended(), [outcome_of(index, 10) for index in range(200)], planned(200), job(), results.RunTimes(0.0, 1.0)
    ),
    "credits": lambda: results.of_credits(ended(), planned(1), job(), [outcome_of(index, 10) for index in range(200)]),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_of_the_largest_job_stays_below_its_limit(name: str) -> None:
    event = EVENTS[name]()
    written = serialize_value(AssetMaterialization("any", metadata=event))
    assert len(written.encode()) < entries.EVENT_BYTES
    assert event


def test_thumbnails_are_of_every_unit_before_a_second_one_of_any() -> None:
    shown = results.of_images(ended(), [outcome_of(index, 8) for index in range(6)], job())["pictures"].value
    assert all(f"![{1000 * index}](data:image/webp;base64," in shown for index in range(6))
    assert shown.count("data:image/webp") == entries.THUMBNAIL_BYTES // 6000
    assert shown.endswith(f"and {24 - entries.THUMBNAIL_BYTES // 6000} more")


def test_a_long_story_keeps_its_beginning_and_its_end() -> None:
    timeline = Timeline()
    for number in range(1000):
        timeline.note("step", f"line {number}")
    moments = timeline.moments()
    assert [moment.what for moment in moments[:2]] == ["line 0", "line 1"]
    assert moments[-1].what == "line 999"
    assert moments[FIRST].what == f"… {1000 - FIRST - LAST} more lines, see the logs …"
    assert len(moments) == FIRST + LAST + 1


def test_a_short_story_is_whole_and_in_order() -> None:
    timeline = Timeline()
    said: list[str] = []
    log = timeline.recording("stage0", said.append)
    for number in range(FIRST + LAST):
        log(f"line {number}")
    assert said == [moment.what for moment in timeline.moments()]
    assert {moment.step for moment in timeline.moments()} == {"stage0"}
    seconds = [moment.seconds for moment in timeline.moments()]
    assert seconds == sorted(seconds)


def test_a_line_that_is_too_long_is_cut() -> None:
    timeline = Timeline()
    timeline.note("step", "x" * 1000)
    assert timeline.moments() == (
        Moment(seconds=timeline.moments()[0].seconds, step="step", what="x" * LONGEST + " …"),
    )
