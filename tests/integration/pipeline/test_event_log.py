"""The event log writes what Dagster's own writes for assets, in batches, and knows the versions of a step's inputs."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSpec,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetOut,
    AssetSpec,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterLogManager,
    DagsterRunStatus,
    Definitions,
    EventLogEntry,
    EventLogRecord,
    JobDefinition,
    Output,
    define_asset_job,
    get_dagster_logger,
    job,
    multi_asset,
    op,
)
from dagster._core.instance.config import PoolGranularity
from dagster._core.utils import make_new_run_id
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from quel_dagster.platform import event_log, event_writer, input_versions
from quel_dagster.services.endpoints import Endpoints
from tests.integration.pipeline.conftest import DAGSTERS, OURS


def two_assets(prefix: str, meanwhile: Callable[[], object] = lambda: None) -> JobDefinition:
    """A picture from a table that is observed, and a receipt from the picture, in one step as in `settle`."""
    table, picture, receipt = (AssetKey([prefix, name]) for name in ("table", "picture", "receipt"))

    @multi_asset(
        outs={"picture": AssetOut(key=picture), "receipt": AssetOut(key=receipt)},
        deps=[table],
        internal_asset_deps={"picture": {table}, "receipt": {picture}},
        check_specs=[AssetCheckSpec("sharp", asset=picture)],
        name=f"{prefix}_step",
    )
    def step() -> Iterator[Any]:
        yield Output(None, "picture", metadata={"pixels": 3})
        meanwhile()
        yield Output(None, "receipt", metadata={"credits": 20})
        yield AssetCheckResult(asset_key=picture, check_name="sharp", passed=True, metadata={"by": "eye"})

    definitions = Definitions(
        assets=[AssetSpec(table), step], jobs=[define_asset_job("both", selection=[picture, receipt])]
    )
    return definitions.resolve_job_def("both")


def run(instance: DagsterInstance, prefix: str, meanwhile: Callable[[], object] = lambda: None) -> str:
    """Return the run that made both assets, from a table that was observed before."""
    instance.report_runless_asset_event(AssetObservation([prefix, "table"], metadata={"rows": 1}))
    result = two_assets(prefix, meanwhile).execute_in_process(instance=instance)
    assert result.success
    return result.run_id


def tables(url: str, prefix: str, run_id: str) -> dict[str, Any]:
    """Return what Dagster's tables say about these assets, without what differs between two runs."""
    asked = {
        "assets": "select asset_key, last_run_id, last_materialization, last_materialization_timestamp is not null"
        " from asset_keys where asset_key like %s order by asset_key",
        "tags": "select asset_key, key from asset_event_tags where asset_key like %s order by asset_key, key",
        "checks": "select asset_key, check_name, partition, execution_status, evaluation_event,"
        " evaluation_event_storage_id::text, materialization_event_storage_id::text,"
        " evaluation_event_timestamp - create_timestamp between '-1 min' and '1 min' from asset_check_executions"
        " where asset_key like %s order by id",
        "events": "select dagster_event_type, asset_key, partition, step_key from event_logs where asset_key like %s"
        " order by id",
    }
    with psycopg.connect(url) as connection:
        rows = {name: connection.execute(text, (f'["{prefix}"%',)).fetchall() for name, text in asked.items()}
        ids = {
            str(storage_id): f"{kind} of {key}"
            for storage_id, kind, key in connection.execute("select id, dagster_event_type, asset_key from event_logs")
        }
    return {name: [tuple(_same(value, prefix, run_id, ids) for value in row) for row in rows[name]] for name in rows}


def _same(value: Any, prefix: str, run_id: str, ids: dict[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    if value in ids:
        return ids[value].replace(prefix, "<prefix>")
    value = value.replace(run_id, "<run>")
    try:
        document = json.loads(value)
    except ValueError:
        return value.replace(prefix, "<prefix>")
    return json.loads(json.dumps(_walk(document, ids)).replace(prefix, "<prefix>"))


def _walk(value: Any, ids: dict[str, str]) -> Any:
    """Replace times, numbers of events and hashes."""
    if isinstance(value, dict):
        return {
            name: "<time>"
            if name == "timestamp"
            else ids[str(each)]
            if name in ("storage_id", "target_materialization_data") and isinstance(each, int)
            else ids.get(str(each), each)
            if name.startswith("dagster/input_event_pointer")
            else "<hash>"
            if name.startswith(("dagster/data_version", "dagster/input_data_version"))
            else _walk(each, ids)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_walk(each, ids) for each in value]
    return value


@pytest.mark.parametrize("gathering", [False, True], ids=["at once", "gathered"])
def test_the_tables_of_assets_are_those_that_dagster_writes(
    opened: Callable[[str], DagsterInstance], endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch, gathering: bool
) -> None:
    url = endpoints.dagster_postgres_url.replace("+psycopg2", "")
    ours, theirs = f"ours{gathering}", f"theirs{gathering}"
    expected = tables(url, theirs, run(opened(DAGSTERS), theirs))
    instance = opened(OURS)
    monkeypatch.setattr(event_writer, "_gathering", gathering)
    found = tables(url, ours, run(instance, ours))
    assert found == expected
    assert [len(found[name]) for name in ("assets", "checks")] == [3, 1]
    assert found["tags"], "Dagster finds data versions by them"


@pytest.mark.parametrize(("kind", "rows"), [("planned", 1), ("unplanned", 1), ("runless", 2)])
@pytest.mark.parametrize("passed", [True, False])
def test_the_result_of_a_check_is_one_row_also_when_it_is_written_again(
    opened: Callable[[str], DagsterInstance], endpoints: Endpoints, kind: str, rows: int, passed: bool
) -> None:
    def left(storage: str, prefix: str) -> list[Any]:
        instance = opened(storage)
        definition = two_assets(prefix)
        run_id = "" if kind == "runless" else make_new_run_id()
        if kind == "planned":
            instance.create_run_for_job(definition, run_id=run_id)
        result = AssetCheckEvaluation(AssetKey([prefix, "picture"]), "sharp", passed, {}, None, blocking=False)
        event = DagsterEvent("ASSET_CHECK_EVALUATION", definition.name, event_specific_data=result)
        entry = EventLogEntry(None, 20, "", run_id, time.time(), job_name=definition.name, dagster_event=event)  # type: ignore[no-untyped-call]
        for _ in range(2):
            instance.event_log_storage.store_event(entry)
        return tables(endpoints.dagster_postgres_url.replace("+psycopg2", ""), prefix, run_id or "none")["checks"]

    prefix = f"{kind}{passed}"
    expected = left(DAGSTERS, f"theirs{prefix}")
    assert len(expected) == rows
    assert left(OURS, f"ours{prefix}") == expected


def test_a_result_is_found_by_index_among_those_of_all_runs(
    opened: Callable[[str], DagsterInstance], endpoints: Endpoints
) -> None:
    """Each run leaves a row of the same check: a statement that reads them all takes longer with every job."""
    opened(OURS).get_runs()  # makes the tables
    statement = str(event_log._statement_of_result().compile(dialect=PGDialect_psycopg2()))
    names = ("asset_key", "check_name", "run_id", "partition", *event_log._VALUES_OF_CHECK)
    given = {f"of_{name}": None for name in names} | {"of_asset_key": "many", "of_check_name": "c", "of_run_id": "7"}
    with psycopg.connect(endpoints.dagster_postgres_url.replace("+psycopg2", ""), autocommit=True) as connection:
        connection.execute(
            "insert into asset_check_executions (asset_key, check_name, run_id)"
            " select 'many', 'c', number from generate_series(1, 5000) as number"
        )
        connection.execute("analyze asset_check_executions")
        plan = [row[0] for row in connection.execute("explain " + statement, given)]
    conditions = [line for line in plan if "Index Cond" in line]
    assert any("run_id" in condition for condition in conditions), "\n".join(plan)


def test_the_pools_of_a_run_are_those_of_dagster_yaml(
    opened: Callable[[str], DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster would also ask for the limits of the run queue, and so for the live workers."""
    instance = opened(OURS + "concurrency: {pools: {default_limit: 7, granularity: run}}\n")
    asked = instance.event_log_storage.get_pool_config()
    assert (asked.default_pool_limit, asked.pool_granularity) == (7, PoolGranularity.RUN)
    monkeypatch.setattr(type(instance), "get_concurrency_config", lambda _: pytest.fail("asked again"))
    assert instance.event_log_storage.get_pool_config() == asked


@pytest.fixture
def one_batch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A worker writes events only when they are read; returns the size of each batch."""
    sizes: list[int] = []
    write = event_log.GatheredEvents._write

    def counted(self: event_log.GatheredEvents, news: Sequence[event_log.NewEvent]) -> None:
        sizes.append(len(news))
        write(self, news)

    monkeypatch.setattr(event_writer, "_gathering", True)
    monkeypatch.setattr(event_log.GatheredEvents, "_write", counted)
    monkeypatch.setattr(event_writer.EventWriter.__init__, "__kwdefaults__", {"gather_seconds": 60, "retry_seconds": 5})
    return sizes


def test_a_batch_leaves_the_newest_materialization(
    opened: Callable[[str], DagsterInstance], one_batch: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, key = opened(OURS), AssetKey("picture")
    for number in range(5):
        instance.report_runless_asset_event(AssetMaterialization(key, metadata={"number": number}))
    instance.report_runless_asset_event(AssetObservation(key))
    written = instance.fetch_materializations(key, limit=10).records
    assert [numbered(found) for found in written] == [4, 3, 2, 1, 0]
    assert len(one_batch) <= 2, "the thread may have woken after the first"
    monkeypatch.setattr(event_writer, "_gathering", False)
    (record,) = instance.get_asset_records([key])
    newest = record.asset_entry.last_materialization_record
    assert newest is not None
    assert (numbered(newest), newest.storage_id) == (4, written[0].storage_id)


def numbered(record: EventLogRecord) -> object:
    assert record.asset_materialization is not None
    return record.asset_materialization.metadata["number"].value


def test_the_planned_assets_of_a_run_are_one_batch(
    opened: Callable[[str], DagsterInstance], one_batch: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_writer, "_gathering", False)  # as in the daemon
    instance = opened(OURS)
    instance.create_run_for_job(two_assets("p"))
    assert one_batch == [3], "two assets and a check"


def test_a_materialization_was_made_from_that_of_its_own_run(
    opened: Callable[[str], DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run stores a picture between this run's picture and its receipt."""
    instance = opened(OURS)
    monkeypatch.setattr(event_writer, "_gathering", True)

    def another_run() -> None:
        other = threading.Thread(
            target=instance.report_runless_asset_event, args=(AssetMaterialization(["x", "picture"]),)
        )
        other.start()
        other.join()

    run_id = run(instance, "x", another_run)
    pictures = instance.fetch_materializations(AssetKey(["x", "picture"]), limit=10).records
    assert len(pictures) == 2
    assert pictures[0].run_id != run_id, "the other one is the newest"
    (receipt,) = instance.fetch_materializations(AssetKey(["x", "receipt"]), limit=10).records
    assert receipt.asset_materialization is not None
    tags = receipt.asset_materialization.tags or {}
    assert tags["dagster/input_event_pointer/x/picture"] == str(pictures[1].storage_id)
    (table,) = instance.fetch_observations(AssetKey(["x", "table"]), limit=10).records
    assert (pictures[1].asset_materialization.tags or {})["dagster/input_event_pointer/x/table"] == str(  # type: ignore[union-attr]
        table.storage_id
    )


def test_a_worker_asks_for_the_version_of_a_table_once_a_second(
    opened: Callable[[str], DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, table = opened(OURS), AssetKey("asked")
    instance.report_runless_asset_event(AssetObservation(table))
    monkeypatch.setattr(event_writer, "_gathering", True)
    monkeypatch.setattr(input_versions, "ANSWER_SECONDS", 60.0)

    def versions() -> int:
        return len(instance.fetch_observations(table, limit=10).records)

    assert versions() == 1
    instance.report_runless_asset_event(AssetObservation(table))
    assert versions() == 1
    monkeypatch.setattr(input_versions, "ANSWER_SECONDS", 0.0)
    assert versions() == 2


def test_a_state_of_a_run_costs_no_second_read_of_it(
    opened: Callable[[str], DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = opened(OURS)
    created = instance.create_run_for_job(two_assets("p"))
    heard: list[DagsterEventType | None] = []
    instance.add_event_listener(created.run_id, lambda entry: heard.append(entry.dagster_event_type))
    reads: list[str] = []
    read = DagsterInstance.get_run_by_id
    monkeypatch.setattr(
        type(instance), "get_run_by_id", lambda self, run_id: reads.append(run_id) or read(self, run_id)
    )
    starting = DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, created.job_name)
    instance.report_dagster_event(starting, run_id=created.run_id)
    assert reads == []
    assert heard == [DagsterEventType.PIPELINE_STARTING]
    assert read(instance, created.run_id).status is DagsterRunStatus.STARTING  # type: ignore[union-attr]
    instance.report_run_failed(created)
    assert reads, "whether a failed run is retried depends on its tags"
    assert read(instance, created.run_id).status is DagsterRunStatus.FAILURE  # type: ignore[union-attr]


@pytest.fixture
def as_dagster_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of both is put back."""
    monkeypatch.setattr(DagsterLogManager, "log_dagster_event", DagsterLogManager.log_dagster_event)
    monkeypatch.setattr(DagsterLogManager, "_log", DagsterLogManager._log)


@op
def speak(context) -> None:  # type: ignore[no-untyped-def]
    context.log.debug("quiet")
    context.log.info("%d of %s", 2, "pictures")
    context.log.warning({"no": "text"})
    context.log.log(logging.INFO, "100 %")
    get_dagster_logger().info("from a module")
    try:
        {}["known"]
    except KeyError:
        context.log.exception("with its traceback")
    raise ValueError("the end")


@job
def talkative() -> None:
    speak()


def left_by_a_run(instance: DagsterInstance) -> list[tuple[Any, ...]]:
    """Return everything that one run left in the event log and that does not differ between two runs."""
    before = time.time()
    result = talkative.execute_in_process(instance=instance, raise_on_error=False)
    logs = instance.all_logs(result.run_id)
    assert all(entry.run_id == result.run_id and before <= entry.timestamp <= time.time() for entry in logs)
    return [
        (
            *(entry.level, entry.step_key, entry.job_name, entry.dagster_event_type, entry.error_info),
            *(text.replace(result.run_id, "RUN") for text in (entry.user_message, entry.message)),
        )
        for entry in logs
        if entry.dagster_event_type not in {DagsterEventType.ENGINE_EVENT, *event_log.OMITTED}
    ]


@pytest.mark.usefixtures("as_dagster_logs")
def test_events_and_lines_that_take_the_short_way_are_those_of_dagster(
    opened: Callable[[str], DagsterInstance], capfd: pytest.CaptureFixture[str]
) -> None:
    def shown() -> list[str]:
        return re.findall(r" - talkative - [0-9a-f-]{36} - (.*)", capfd.readouterr().err)

    instance = opened(OURS + "python_logs: {python_log_level: INFO}\n")
    logs, console = left_by_a_run(instance), shown()
    assert [line for line in console if "2 of pictures" in line]
    event_log.shorten_logging()
    records: list[logging.LogRecord] = []
    make = DagsterLogManager.makeRecord

    def made(self: DagsterLogManager, *arguments: Any, **more: Any) -> logging.LogRecord:
        records.append(make(self, *arguments, **more))
        return records[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DagsterLogManager, "makeRecord", made)
        assert left_by_a_run(instance) == logs
    assert shown() == console
    assert len(records) < len(logs) / 2, "most have no record"


@pytest.mark.usefixtures("as_dagster_logs")
def test_a_line_that_cannot_be_stored_does_not_fail_its_step(
    opened: Callable[[str], DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster reports the loss on the run's page."""
    event_log.shorten_logging()
    instance = opened(OURS)
    handle = type(instance).handle_new_event

    def full(self: DagsterInstance, event: EventLogEntry, **more: Any) -> None:
        if event.user_message == "2 of pictures":
            raise OSError("the disk is full")
        handle(self, event, **more)

    monkeypatch.setattr(type(instance), "handle_new_event", full)
    result = talkative.execute_in_process(instance=instance, raise_on_error=False)
    said = [entry.message for entry in instance.all_logs(result.run_id)]
    assert "Exception while writing logger call to event log" in said
    assert "100 %" in said


@pytest.mark.usefixtures("as_dagster_logs")
def test_events_that_are_not_stored_are_not_built_and_the_others_are(
    opened: Callable[[str], DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    event_log.shorten_logging()
    instance = opened(OURS)
    handled: list[DagsterEventType | None] = []
    handle = type(instance).handle_new_event

    def noted(self: DagsterInstance, event: Any, **more: Any) -> None:
        handled.append(event.dagster_event_type)
        handle(self, event, **more)

    monkeypatch.setattr(type(instance), "handle_new_event", noted)
    run(instance, "q")
    assert not event_log.OMITTED.intersection(handled)
    assert {DagsterEventType.STEP_OUTPUT, DagsterEventType.ASSET_MATERIALIZATION} <= set(handled)
