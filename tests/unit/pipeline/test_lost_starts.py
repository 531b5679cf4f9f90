"""A run that was launched and never began is queued again, so many times; any other run is left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from quel_dagster.pipeline import lost_starts
from quel_dagster.pipeline.lost_starts import LostStarts
from tests.unit.pipeline.test_launcher import TASK_TAG, launcher

REASON = "Its Celery task waits in no queue and no worker has it: a worker died with it."


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The runs of which the launcher says that they are lost."""
    lost: set[str] = set()
    made = launcher()
    monkeypatch.setattr(made, "lost_start", lambda run, _seconds: REASON if run.run_id in lost else None)
    monkeypatch.setattr(DagsterInstance, "run_launcher", property(lambda _self: made))
    monkeypatch.setattr(lost_starts, "SURE_SECONDS", 0.0)
    return lost


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


def starting(instance: DagsterInstance) -> DagsterRun:
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("quel"), "repository"), "empty_job")
    run = DagsterRun("empty_job", tags={TASK_TAG: "t"}, status=DagsterRunStatus.STARTING, remote_job_origin=origin)
    return instance.run_storage.add_run(run)


def now(instance: DagsterInstance, run: DagsterRun) -> DagsterRun:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def test_it_goes_back_to_the_queue_and_its_page_says_why(instance: DagsterInstance, lost: set[str]) -> None:
    run, other = starting(instance), starting(instance)
    lost.add(run.run_id)

    said = list(LostStarts().look(instance))

    assert said == [f"Run {run.run_id} never began: {REASON} Queued again."]
    assert now(instance, run).status is DagsterRunStatus.QUEUED
    assert now(instance, run).tags["quel/lost_starts"] == "1"
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id) if entry.dagster_event]
    assert any(REASON in (event.message or "") for event in events)
    assert now(instance, other).status is DagsterRunStatus.STARTING


def test_one_that_began_meanwhile_is_left_alone(
    instance: DagsterInstance, lost: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = starting(instance)

    def begins_now(run: DagsterRun, _seconds: float) -> str:
        instance.report_run_canceling(run)
        return REASON

    monkeypatch.setattr(instance.run_launcher, "lost_start", begins_now)
    assert list(LostStarts().look(instance)) == []
    assert now(instance, run).status is DagsterRunStatus.CANCELING


def test_one_that_kills_whoever_begins_it_is_failed_at_last(
    instance: DagsterInstance, lost: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_starts, "MOST_LOST_STARTS", 1)
    run = starting(instance)
    lost.add(run.run_id)
    watch = LostStarts()
    list(watch.look(instance))
    again = DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, run.job_name)
    instance.report_dagster_event(again, run_id=run.run_id)
    list(watch.look(instance))
    assert now(instance, run).status is DagsterRunStatus.FAILURE


def test_a_worker_may_be_late_with_its_answer(
    instance: DagsterInstance, lost: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_starts, "SURE_SECONDS", 3.0)
    clock = iter([0.0, 2.0, 4.0, 6.0, 8.0])
    monkeypatch.setattr(lost_starts.time, "monotonic", lambda: next(clock))
    run, watch = starting(instance), LostStarts()
    lost.add(run.run_id)
    assert [*watch.look(instance), *watch.look(instance)] == []
    lost.clear()
    assert list(watch.look(instance)) == []
    lost.add(run.run_id)
    assert list(watch.look(instance)) == [], "the doubt begins anew"
    assert now(instance, run).status is DagsterRunStatus.STARTING


def test_how_long_it_has_been_starting_is_told_by_the_daemons_own_clock(
    instance: DagsterInstance, lost: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    starting(instance)
    told: list[float] = []
    monkeypatch.setattr(instance.run_launcher, "lost_start", lambda _run, seconds: told.append(seconds))
    clock = iter([100.0, 107.0])
    monkeypatch.setattr(lost_starts.time, "monotonic", lambda: next(clock))
    watch = LostStarts()
    list(watch.look(instance))
    list(watch.look(instance))
    assert told == [0.0, 7.0]
