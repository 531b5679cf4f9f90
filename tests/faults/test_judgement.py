"""The judge of the fault tests and of the soak: what it takes for lost, and what for excused."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.faults.judgement import Missing, Order, judge, read_message, slots_asked_for
from tests.faults.soak import SPOILT_REASON

JOB = UUID(int=1)
TEN = slots_asked_for("single_batch", 10, {"combinations": [{"quantity": 1}] * 10})
BROKEN = "Gemini's answer was broken: it holds no candidate. (tried 6 times)"
STORE = "Supabase Storage at store:1 did not answer. (tried 6 times)"


def row(status: str, made: int, error: str | None = None, slots: list[tuple[int, int]] | None = None) -> dict[str, Any]:
    slots = [(unit, 0) for unit in range(made)] if slots is None else slots
    return {"job_id": JOB, "status": status, "completed_images": made, "error_message": error, "slots": slots}


def spoilt(pictures: int | None = None) -> Order:
    """An order of ten pictures that the harness spoilt."""
    order = Order(JOB, 10, TEN)
    order.excuse(SPOILT_REASON, pictures)
    return order


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (row("completed", 3), "7 pictures are missing without a reason"),
        (row("failed", 0, STORE), "10 pictures without an excuse: Supabase"),
        (row("processing", 10), "it has not ended"),
        (row("cancelled", 9), "the harness did not stop it"),
        (row("failed", 10), "it failed with every picture made"),
        (row("completed", 10, slots=[(0, number) for number in range(10)]), "pictures that were not asked for"),
        (row("completed", 10, "Made without some references: general: 7 is gone."), "0 pictures without an excuse"),
        (row("completed", 8, f"1 of 10 pictures failed. combo8 #0: {BROKEN}"), "names 1 of 2 missing pictures"),
        (
            row("completed", 8, f"2 of 10 pictures failed. combo8 #0: {BROKEN}; combo9_front_full #0: {STORE}"),
            "1 pictures without an excuse: Supabase",
        ),
        (
            row("completed", 7, f"3 of 10 pictures failed. combo7 #0, combo8 #0, combo9 #0: {BROKEN}"),
            "3 pictures without an excuse: Gemini's answer",
        ),
        (
            row("completed", 9, f"1 of 10 pictures failed. combo9 #0: {BROKEN} Made without some references: x: y."),
            "0 pictures without an excuse: Made without",
        ),
    ],
)
def test_less_than_was_asked_for_without_an_excuse_is_lost(found: dict[str, Any], why: str) -> None:
    judgement = judge([found], [spoilt(2)])
    (lost,) = judgement.lost
    assert why in lost.why
    assert not judgement.excused


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (row("completed", 10), 0),
        (row("completed", 8, f"2 of 10 pictures failed. combo8 #0, combo9 #0: {BROKEN}"), 2),
    ],
)
def test_whole_and_spoilt_jobs_are_not_lost(found: dict[str, Any], missing: int) -> None:
    judgement = judge([found], [spoilt(2)])
    assert not judgement.lost
    assert sum(judgement.excused.values()) == missing
    assert (judgement.asked, judgement.made) == (10, 10 - missing)


def test_stopped_job_may_end_so_with_any_number_of_pictures_and_in_no_other_way() -> None:
    order = Order(JOB, 10, TEN, stopped={"user_cancelled"})
    assert not judge([row("user_cancelled", 4)], [order]).lost
    assert judge([row("cancelled", 4)], [order]).lost
    assert judge([row("completed", 4)], [order]).lost


def test_job_without_a_row_is_lost() -> None:
    (lost,) = judge([], [Order(JOB, 10)]).lost
    assert lost.pictures == 10


def test_message_is_read_picture_by_picture() -> None:
    places = ", ".join(f"stage{n} #0" for n in range(8))
    assert read_message(f"12 of 40 pictures failed. {places} …: out of credits; add some; stage9 #1: blocked: why") == [
        Missing(11, "out of credits; add some"),
        Missing(1, "blocked: why"),
    ]
    assert read_message("Gemini refuses every request.") == [Missing(None, "Gemini refuses every request.")]


def test_input_that_has_to_be_repaired_asks_for_a_number_alone() -> None:
    assert slots_asked_for("simple_general", 2, {"prompt": "x"}) == {(0, 0), (0, 1)}
    assert slots_asked_for("pipeline_stage", 3, {"stages": [{"quantity": 2}, {"quantity": 1}]}) == {
        (0, 0),
        (0, 1),
        (1, 0),
    }
    for data in ({"combinations": [{"quantity": 2}]}, {"combinations": ["x"]}, {"combinations": [{"quantity": "3"}]}):
        assert slots_asked_for("single_batch", 3, data) is None
