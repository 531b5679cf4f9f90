"""The content of a day's summary."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from dagster import DagsterInstance, Failure, RunRequest, build_schedule_context

from quel_dagster.adapters.database.figures import Group, Span
from quel_dagster.adapters.database.usage import ModelUsage
from quel_dagster.pipeline.summary import (
    DAYS_NAME,
    LONGEST_PAUSE_DAYS,
    daily_summary_schedule,
    days_to_summarize,
    of_day,
    percentile,
    reasons,
    start_of_day,
)


def group(category: str, status: str, **more: object) -> Group:
    facts: dict[str, object] = {"jobs": 1, "partial": 0, "pictures": 0, "failed": 0, "waited": (), "worked": ()}
    return Group.model_validate({"category": category, "status": status, **facts, **more})


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3.0], 50, 3.0), ([3.0], 95, 3.0), ([4, 1, 3, 2], 50, 2), (range(1, 101), 95, 95), (range(1, 101), 50, 50)],
)
def test_a_percentile_is_one_of_the_values(values: object, percent: float, expected: float) -> None:
    assert percentile(list(values), percent) == expected  # type: ignore[call-overload]


def test_reasons_are_grouped_by_cause_without_ids() -> None:
    found = reasons(
        [
            ("2 of 4 pictures failed. combo0_front_full #0, combo1_side #1: Gemini did not finish within 120 s.", 1),
            ("1 of 4 pictures failed. stage0 #3: Gemini did not finish within 60 s.", 2),
            ("2 of 2 pictures failed. general #0: Blocked.; general #1: Gemini did not finish within 60 s.", 1),
            ("Run 0b5c2c4e-8f3c-4a4e-9f6e-0e6d2ad0f9a1 failed permanently: its worker is gone", 3),
        ]
    )
    assert found["Gemini did not finish within N s."] == 4
    assert found["Blocked."] == 1
    assert found["Run ID failed permanently: its worker is gone"] == 3


def test_a_reason_built_to_be_slow_is_counted() -> None:
    """Each digit could end a number or begin a name: trying both would be exponential."""
    assert sum(reasons([("a " + "#111 " * 10_000 + "x", 1)]).values()) == 1


def test_a_day_in_figures() -> None:
    day = Span(
        groups=(
            group(
                "fashion", "completed", jobs=3, partial=1, pictures=10, failed=2, waited=(1.0, 2.0, 9.0), worked=(1.0,)
            ),
            group("fashion", "failed", failed=4, waited=(5.0,)),
            group("cinema", "user_cancelled", pictures=1, failed=3, waited=(4.0,)),
            group("cinema", "processing", pictures=1),
        ),
        credits=240,
        charges=12,
        reasons=(("No picture was made.", 1),),
        gemini=(
            ModelUsage(model="a", pictures=11, calls=14, usd=0.4, unpriced=0),
            ModelUsage(model="b", pictures=1, calls=1, usd=0.02, unpriced=1),
        ),
    )
    shown = of_day(day)
    assert [record.data["calls"] for record in shown["by_model"].records] == [14, 1]
    assert {name: value for name, value in shown.items() if isinstance(value, int | float)} == {
        "jobs": 6,
        "jobs_completed": 3,
        "jobs_with_pictures_missing": 1,
        "jobs_failed": 1,
        "jobs_cancelled": 1,
        "jobs_open": 1,
        "pictures": 12,
        "pictures_missing": 9,
        "credits_charged": 240,
        "gemini_usd": 0.42,
        "p50_seconds": 4.0,
        "p95_seconds": 9.0,
    }
    rows = {record.data["category"]: record.data for record in shown["by_category"].records}
    assert (rows["fashion"]["jobs"], rows["fashion"]["p95_s"], rows["cinema"]["pictures"]) == (4, 9.0, 2)


def test_a_day_without_a_job_is_a_day() -> None:
    shown = of_day(Span(groups=(), credits=0, charges=0, reasons=()))
    assert (shown["jobs"], shown["pictures"]) == (0, 0)
    assert "p50_seconds" not in shown


YESTERDAY = date(2026, 11, 21)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], [21]),
        (["2026-11-20"], [21]),
        (["2026-11-20", "2026-11-21", "2026-11-22"], [21]),
        (["2026-11-18", "someday"], [19, 20, 21]),
    ],
)
def test_an_installation_has_the_days_that_it_has_seen(known: list[str], expected: list[int]) -> None:
    assert days_to_summarize(known, YESTERDAY) == [date(2026, 11, day) for day in expected]


def test_a_long_pause_is_not_caught_up_with_whole() -> None:
    days = days_to_summarize(["2026-01-01"], YESTERDAY)
    assert (len(days), days[-1]) == (LONGEST_PAUSE_DAYS, YESTERDAY)


def test_the_schedule_adds_the_day_that_is_over(tmp_path: Path) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        tick = build_schedule_context(instance, scheduled_execution_time=datetime(2026, 11, 22, 0, 30, tzinfo=UTC))
        requests = list(daily_summary_schedule(tick))
        assert all(isinstance(request, RunRequest) for request in requests)
        assert [(request.run_key, request.partition_key) for request in requests] == [("2026-11-21", "2026-11-21")]
        assert instance.get_dynamic_partitions(DAYS_NAME) == ["2026-11-21"]


def test_a_partition_that_is_not_a_day_is_refused() -> None:
    assert start_of_day("2026-11-22") == datetime(2026, 11, 22, tzinfo=UTC)
    with pytest.raises(Failure, match="'yesterday' is not a day"):
        start_of_day("yesterday")
