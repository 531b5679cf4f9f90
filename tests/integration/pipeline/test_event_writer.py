"""A run with batched step events leaves the same log as one that writes each event at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRun, job, op
from dagster._core.instance import InstanceRef

from quel_dagster.adapters.database.records import OutputPlace
from quel_dagster.errors import QuelError
from quel_dagster.platform import event_log, event_writer
from quel_dagster.services.endpoints import Endpoints


@op
def speak(context) -> int:  # type: ignore[no-untyped-def]
    for number in range(30):
        context.log.info(f"line {number}")
    return 1


@op
def listen(context, before: int) -> None:  # type: ignore[no-untyped-def]
    lines = [entry.user_message for entry in context.instance.all_logs(context.run_id)]
    assert "line 29" in lines, "earlier lines are readable"
    context.log.info("heard")


@job
def talk() -> None:
    listen(speak())


@pytest.fixture
def instance(endpoints: Endpoints, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", endpoints.dagster_postgres_url)
    (tmp_path / "dagster.yaml").write_text(
        "storage: {custom: {module: quel_dagster.platform.storage, class: InstanceStorage, "
        "config: {url_from: DAGSTER_POSTGRES_URL}}}\ntelemetry: {enabled: false}\n"
    )
    with DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path))) as opened:
        yield opened


def log_of_a_run(instance: DagsterInstance) -> list[tuple[str | None, str | None]]:
    result = talk.execute_in_process(instance=instance)
    assert result.success
    return [
        (entry.step_key, entry.user_message if entry.dagster_event_type is None else entry.dagster_event_type.value)
        for entry in instance.all_logs(result.run_id)
    ]


def test_the_same_events_in_the_same_order(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = log_of_a_run(instance)
    written: list[int] = []
    write = event_log.GatheredEvents._write_gathered

    def counting(self: event_log.GatheredEvents, rows: list[event_log.NewEvent]) -> None:
        written.append(len(rows))
        write(self, rows)

    monkeypatch.setattr(event_writer, "_gathering", True)
    monkeypatch.setattr(event_log.GatheredEvents, "_write_gathered", counting)
    assert log_of_a_run(instance) == at_once
    assert sum(written) > 40 > 2 * len(written), "most of them, and a few at a time"
    assert at_once[-1][1] == DagsterEventType.RUN_SUCCESS.value


@pytest.fixture
def gathering(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Values are written before the events that report them."""
    order: list[str] = []
    execute = event_log.SqlEventLogStorageTable.insert

    def insert(*arguments: object) -> object:
        order.append("events")
        return execute(*arguments)

    monkeypatch.setattr(event_writer, "_gathering", True)
    monkeypatch.setattr(event_log.SqlEventLogStorageTable, "insert", insert)
    return order


def messages(instance: DagsterInstance, run_id: str) -> list[str | None]:
    return [entry.dagster_event.message for entry in instance.all_logs(run_id) if entry.dagster_event]


def place(run: DagsterRun) -> OutputPlace:
    return OutputPlace(run.run_id, "speak", "result")


def full(_outputs: object) -> None:
    raise OSError("the disk is full")


def test_a_value_is_written_before_the_events_that_come_after_it(
    instance: DagsterInstance, gathering: list[str]
) -> None:
    run = instance.create_run_for_job(talk)
    event_writer.step_outputs.add(place(run), 1, lambda _: gathering.append("value"))
    instance.report_engine_event("said", run)
    assert messages(instance, run.run_id) == ["said"]
    assert gathering == ["value", "events"]


def test_a_value_is_written_before_the_end_of_its_run(instance: DagsterInstance, gathering: list[str]) -> None:
    run = instance.create_run_for_job(talk)
    event_writer.step_outputs.add(place(run), 1, lambda _: gathering.append("value"))
    instance.report_run_failed(run)
    assert gathering == ["value", "events"]


def test_nothing_after_a_failed_value_is_written_and_the_failure_is_reported_once(
    instance: DagsterInstance, gathering: list[str]
) -> None:
    run = instance.create_run_for_job(talk)
    event_writer.step_outputs.add(place(run), 1, full)
    instance.report_engine_event("succeeded", run)
    assert messages(instance, run.run_id) == []
    with pytest.raises(QuelError, match="the disk is full"):
        instance.report_engine_event("more", run)
    instance.report_engine_event("failed", run)
    assert messages(instance, run.run_id) == ["failed"]
    assert gathering == ["events"]


def test_where_events_are_not_gathered_a_value_is_written_at_once() -> None:
    with pytest.raises(OSError, match="the disk is full"):
        event_writer.step_outputs.add(OutputPlace("run", "speak", "result"), 1, full)
