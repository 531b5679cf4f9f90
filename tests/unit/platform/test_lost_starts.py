"""A run that was launched and never began is queued again; other runs are unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus

from quel_dagster.platform import lost_starts
from quel_dagster.platform.lost_starts import LostStarts
from tests.unit.platform.test_launcher import instance, made, run_in

__all__ = ["instance", "made"]


@pytest.fixture(autouse=True)
def at_once(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DagsterInstance, "run_launcher", property(lambda _self: made))
    monkeypatch.setattr(lost_starts, "SURE_SECONDS", 0.0)


def starting(instance: DagsterInstance) -> DagsterRun:
    return run_in(instance, DagsterRunStatus.STARTING)


def now(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def test_a_lost_run_is_queued_again_with_the_reason(made: Any, instance: DagsterInstance) -> None:
    run, other = starting(instance), starting(instance)
    made.board.holds(other.run_id)

    said = list(LostStarts().requeue(instance))

    assert len(said) == 1
    assert said[0].startswith(f"Run {run.run_id} never began: Its message left the broker")
    assert now(instance, run).status is DagsterRunStatus.QUEUED
    assert now(instance, run).tags["quel/lost_starts"] == "1"
    assert now(instance, other).status is DagsterRunStatus.STARTING


def test_run_of_a_process_that_died_before_it_began_is_queued_with_that_reason(
    made: Any, instance: DagsterInstance
) -> None:
    run = starting(instance)
    made.board.holds(deaths={run.run_id: "Worker process w.1 (pid 7) ended by signal 9."})
    assert "ended by signal 9" in next(LostStarts().requeue(instance))


def test_a_run_that_kills_every_process_fails_at_last(
    made: Any, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_starts, "MOST_LOST_STARTS", 1)
    run, watch = starting(instance), LostStarts()
    list(watch.requeue(instance))
    again = DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, run.job_name)
    instance.report_dagster_event(again, run_id=run.run_id)
    list(watch.requeue(instance))
    assert now(instance, run).status is DagsterRunStatus.FAILURE


def test_a_run_that_looks_lost_briefly_is_unchanged(
    made: Any, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_starts, "SURE_SECONDS", 8.0)
    clock = iter([0.0, 7.0, 9.0, 16.0])
    monkeypatch.setattr(lost_starts.time, "monotonic", lambda: next(clock))
    run, watch = starting(instance), LostStarts()
    assert [*watch.requeue(instance), *watch.requeue(instance)] == []
    made.board.holds(run.run_id)
    assert list(watch.requeue(instance)) == []
    made.board.holds()
    assert list(watch.requeue(instance)) == [], "the doubt begins again"
    assert now(instance, run).status is DagsterRunStatus.STARTING


def test_nothing_is_queued_again_while_redis_does_not_answer(made: Any, instance: DagsterInstance) -> None:
    run = starting(instance)
    made.board.unreachable = True
    assert list(LostStarts().requeue(instance)) == []
    assert now(instance, run).status is DagsterRunStatus.STARTING
