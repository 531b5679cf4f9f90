"""The states of runs are those that Dagster writes, and the daemon does not read again what it has just written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.launcher import LaunchRunContext

from quel_dagster.platform import run_states
from quel_dagster.platform.daemon import PromptRunQueueDaemon
from quel_dagster.platform.run_states import RunStates, read_back
from tests.integration.pipeline.conftest import DAGSTERS, OURS
from tests.integration.pipeline.test_fairness import ORIGIN

STATES = [
    [DagsterEventType.RUN_ENQUEUED],
    [DagsterEventType.RUN_ENQUEUED, DagsterEventType.RUN_STARTING],
    [DagsterEventType.RUN_STARTING, DagsterEventType.RUN_START],
    [DagsterEventType.RUN_START, DagsterEventType.RUN_SUCCESS],
    [DagsterEventType.RUN_START, DagsterEventType.RUN_FAILURE],
    [DagsterEventType.RUN_START, DagsterEventType.RUN_CANCELING, DagsterEventType.RUN_CANCELED],
]


def created(instance: DagsterInstance, **more: Any) -> DagsterRun:
    return instance.run_storage.add_run(DagsterRun("job", tags={"member": "a"}, remote_job_origin=ORIGIN, **more))


def report(instance: DagsterInstance, run_id: str, kind: DagsterEventType) -> None:
    failed = JobFailureData(None, RunFailureReason.STEP_FAILURE) if kind is DagsterEventType.RUN_FAILURE else None
    instance.report_dagster_event(DagsterEvent(kind.value, "job", event_specific_data=failed), run_id=run_id)


@pytest.mark.parametrize("kinds", STATES, ids=lambda kinds: kinds[-1].name)
def test_a_run_has_the_state_and_times_that_dagster_gives_it(
    opened: Callable[[str], DagsterInstance], kinds: list[DagsterEventType]
) -> None:
    def left(storage: str) -> tuple[Any, ...]:
        instance = opened(storage)
        run_id = created(instance).run_id
        for kind in kinds:
            report(instance, run_id, kind)
        record = instance.get_run_record_by_id(run_id)
        assert record is not None
        assert record.update_timestamp >= record.create_timestamp
        timed = record.start_time is not None, record.end_time is not None
        assert all(
            0 <= each - record.create_timestamp.timestamp() < 60
            for each in (record.start_time, record.end_time)
            if each
        )
        found = [run.run_id for run in instance.get_runs() if run.status is record.dagster_run.status]
        return record.dagster_run.status, dict(record.dagster_run.tags), timed, run_id in found

    assert left(OURS) == left(DAGSTERS)


def test_a_row_that_is_read_again_is_decoded_once_and_a_changed_one_again(
    opened: Callable[[str], DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, decoded = opened(OURS), 0
    decode = run_states.deserialize_value

    def counted(*arguments: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return decode(*arguments)

    monkeypatch.setattr(run_states, "deserialize_value", counted)
    run_id = created(instance).run_id
    report(instance, run_id, DagsterEventType.RUN_START)
    for _ in range(3):
        (run,) = instance.get_runs(RunsFilter(run_ids=[run_id]))
        assert (run.status, run.tags["member"]) == (DagsterRunStatus.STARTED, "a")
    assert decoded == 1

    report(instance, run_id, DagsterEventType.RUN_CANCELING)
    instance.add_run_tags(run_id, {"member": "b"})
    run_again = instance.get_run_by_id(run_id)
    assert run_again is not None
    assert (run_again.status, run_again.tags["member"]) == (DagsterRunStatus.CANCELING, "b")


def test_a_tag_that_is_added_while_a_state_is_written_is_kept(
    opened: Callable[[str], DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = opened(OURS)
    run_id = created(instance).run_id
    read = RunStates._get_run_by_id

    def read_and_then(self: RunStates, run_id: str) -> DagsterRun | None:
        found = read(self, run_id)
        monkeypatch.setattr(RunStates, "_get_run_by_id", read)
        instance.add_run_tags(run_id, {"note": "of another process"})
        return found

    monkeypatch.setattr(RunStates, "_get_run_by_id", read_and_then)
    report(instance, run_id, DagsterEventType.RUN_START)
    monkeypatch.setattr(RunStates, "_get_run_by_id", read)
    instance.add_run_tags(run_id, {"note": "of another process"})
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert (run.status, run.tags["note"]) == (DagsterRunStatus.STARTED, "of another process")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that PostgreSQL was asked for."""
    asked: list[str] = []
    ask = DagsterInstance.get_run_by_id
    monkeypatch.setattr(
        DagsterInstance, "get_run_by_id", lambda self, run_id: asked.append(run_id) or ask(self, run_id)
    )
    return asked


def status(instance: DagsterInstance, run_id: str) -> DagsterRunStatus | None:
    run = instance.get_run_by_id(run_id)
    return run.status if run else None


def test_a_write_is_read_back_once(opened: Callable[[str], DagsterInstance], reads: list[str]) -> None:
    instance = opened(OURS)
    run_id = created(instance, status=DagsterRunStatus.QUEUED).run_id
    with read_back.active():
        assert status(instance, run_id) is DagsterRunStatus.QUEUED
        assert len(reads) == 1, "it may have been cancelled meanwhile"
        report(instance, run_id, DagsterEventType.RUN_STARTING)
        assert status(instance, run_id) is DagsterRunStatus.STARTING
        assert len(reads) == 1
        instance.run_storage.handle_run_event(run_id, DagsterEvent(DagsterEventType.RUN_START.value, "job"))
        assert status(instance, run_id) is DagsterRunStatus.STARTED, "by another process"
        report(instance, run_id, DagsterEventType.RUN_CANCELING)
        instance.add_run_tags(run_id, {"note": "new"})
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.tags["note"] == "new"
        assert len(reads) == 3
    report(instance, run_id, DagsterEventType.RUN_CANCELED)
    assert status(instance, run_id) is DagsterRunStatus.CANCELED
    assert len(reads) == 4, "outside of the block"


def test_the_failure_of_a_run_that_was_just_created_is_decided_on_from_its_row(
    opened: Callable[[str], DagsterInstance], reads: list[str]
) -> None:
    instance = opened(OURS)
    run = created(instance)
    with read_back.active():
        read_back.keep(run, written=True)
        instance.report_run_failed(run)
        assert reads == [run.run_id]
        assert status(instance, run.run_id) is DagsterRunStatus.FAILURE


def test_only_the_run_that_was_written_is_read_back(opened: Callable[[str], DagsterInstance], reads: list[str]) -> None:
    instance = opened(OURS)
    run_id, other = (created(instance).run_id for _ in range(2))
    with read_back.active():
        assert status(instance, run_id) is DagsterRunStatus.NOT_STARTED
        report(instance, run_id, DagsterEventType.RUN_STARTING)
        assert status(instance, other) is DagsterRunStatus.NOT_STARTED
        report(instance, run_id, DagsterEventType.RUN_START)
        assert status(instance, run_id) is DagsterRunStatus.STARTED
    assert reads == [run_id, other, run_id]


def test_a_launch_reads_its_run_once(
    opened: Callable[[str], DagsterInstance], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = opened(OURS + "run_coordinator: {module: quel_dagster.platform.run_queue, class: RunQueue}\n")
    run = created(instance, status=DagsterRunStatus.QUEUED)
    launched: list[DagsterRun] = []

    def launch(context: LaunchRunContext) -> None:
        launched.append(context.dagster_run)

    monkeypatch.setattr(instance.run_launcher, "launch_run", launch)
    with PromptRunQueueDaemon(interval_seconds=1) as daemon:
        assert daemon._dequeue_run(instance, None, run, instance.get_concurrency_config(), None)
        assert [(each.run_id, each.status) for each in launched] == [(run.run_id, DagsterRunStatus.STARTING)]
        assert reads == [run.run_id]
        assert not daemon._dequeue_run(instance, None, run, instance.get_concurrency_config(), None), "it has begun"
    assert len(launched) == 1
