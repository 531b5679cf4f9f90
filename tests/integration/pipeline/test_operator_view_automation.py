"""What runs by itself for operators: tick messages, figures of the queue, checks, the daily summary, retention, alerts,
metrics."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    GraphDefinition,
    SensorResult,
    build_run_status_sensor_context,
    build_sensor_context,
    execute_job,
    op,
    reconstructable,
)
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.retry_policy import ALERT_WEBHOOK
from quel_dagster.definitions import build_defs, defs
from quel_dagster.engine.engine import Engine
from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.pipeline import alerts, metrics
from quel_dagster.pipeline.assets import run_config
from quel_dagster.pipeline.names import IMAGES_KEY, JOBS_TABLE, REFERENCES
from quel_dagster.pipeline.observations import queue_observer
from quel_dagster.pipeline.resources import DatabaseResource, QueueResource
from quel_dagster.pipeline.retention import delete_runless_events, delete_runs
from quel_dagster.pipeline.sensors import jobs_queue_sensor
from quel_dagster.pipeline.summary import DAYS_NAME
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.settings import Settings
from tests.integration.conftest import PRICE, Office
from tests.integration.engine.conftest import run_job
from tests.integration.pipeline.conftest import Desk
from tests.integration.pipeline.test_job import image_job


def resources() -> dict[str, Any]:
    return {"queue": QueueResource(), "database": DatabaseResource()}


# --- the queue sensor --------------------------------------------------------------------------------


def test_a_tick_shows_its_result_on_the_page(instance: DagsterInstance, desk: Desk, queue: JobQueue) -> None:
    first, second = desk.job(1), desk.job(1)
    missing = uuid4()
    queue.push(first.job_id, first.job_id, first.job_id, "not a uuid", second.job_id, missing)
    with build_sensor_context(instance=instance, resources=resources()) as context:
        jobs_queue_sensor(context)
        said = str(context.cursor)
    assert datetime.strptime(said[:8], "%H:%M:%S")  # noqa: DTZ007
    assert said[9:].split(", ") == [
        "launched 2",
        "2 duplicates",
        "1 to jobs:dead: not a UUID",
        "1 without a row yet",
    ]


def test_a_tick_without_work_leaves_the_last_message(
    instance: DagsterInstance, worker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quel_dagster.pipeline.sensors.WAIT_SECONDS", 0.05)
    with build_sensor_context(instance=instance, resources=resources(), cursor="12:00:00 launched 3") as context:
        jobs_queue_sensor(context)
        assert context.cursor == "12:00:00 launched 3"


# --- figures of the queue ----------------------------------------------------------------------------


def observe(instance: DagsterInstance, cursor: str | None = None) -> SensorResult:
    with build_sensor_context(instance=instance, resources=resources(), cursor=cursor) as context:
        result = queue_observer(context)
    assert isinstance(result, SensorResult)
    return result


def test_the_queue_is_observed_in_figures_and_checked(instance: DagsterInstance, desk: Desk, queue: JobQueue) -> None:
    job = desk.job(1)
    desk.all("update quel_production_jobs set created_at = now() - interval '9 days' where job_id = %s", job.job_id)
    queue.push(job.job_id, uuid4())
    queue.dead_letter_job(uuid4(), "a reason")

    events = list(observe(instance).asset_events)

    figures = next(
        event.metadata for event in events if isinstance(event, AssetObservation) and event.asset_key == JOBS_TABLE
    )
    assert figures["queue_depth"].value == 2
    assert figures["dead_letters"].value == 1
    assert figures["oldest_waiting_seconds"].value == pytest.approx(9 * 86400, rel=0.01)  # type: ignore[arg-type]
    assert figures["oldest_waiting_job"].value == str(job.job_id)
    checks = {event.check_name: event for event in events if isinstance(event, AssetCheckEvaluation)}
    assert (checks["queue_keeps_moving"].passed, checks["no_dead_letters"].passed) == (False, False)
    assert "Last hour: " in str(checks["every_picture_made"].description)
    assert checks["queue_keeps_moving"].severity is AssetCheckSeverity.ERROR
    assert str(job.job_id) in str(checks["queue_keeps_moving"].description)
    desk.all("update quel_production_jobs set job_status = 'failed' where job_id = %s", job.job_id)


def test_what_is_observed_can_be_reported_by_the_daemon(instance: DagsterInstance, desk: Desk) -> None:
    for event in observe(instance).asset_events:
        instance.report_runless_asset_event(event)
    records = instance.fetch_observations(AssetRecordsFilter(asset_key=JOBS_TABLE), limit=1).records
    assert records[0].event_log_entry.run_id == ""


def test_a_quiet_minute_is_recorded_again_when_a_run_reported_pictures(instance: DagsterInstance, desk: Desk) -> None:
    """Until then Dagster shows the check of generated_images as not evaluated."""
    desk.all("update quel_production_jobs set job_status = 'failed' where job_status = 'pending'")
    first = observe(instance)
    assert first.asset_events
    assert not observe(instance, first.cursor).asset_events
    instance.report_runless_asset_event(AssetMaterialization(IMAGES_KEY))
    again = observe(instance, first.cursor)
    assert again.asset_events
    assert not observe(instance, again.cursor).asset_events


# --- checks on a schedule ----------------------------------------------------------------------------


def audited() -> Any:
    return defs.resolve_job_def("audit_job")


def test_the_audit_is_asset_checks_that_name_a_breach(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(1)
    execute_job(reconstructable(image_job), instance=instance, run_config=run_config(job.job_id))
    (attach_id,) = desk.row(job)["generated_attach_ids"]
    desk.all("delete from quel_credits where attach_idx = %s", attach_id)

    result = execute_job(reconstructable(audited), instance=instance)

    assert result.success
    found = {
        event.asset_check_evaluation_data.check_name: event.asset_check_evaluation_data
        for event in result.filter_events(lambda event: event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION)
    }
    assert set(found) == {
        "ledger_agrees_with_pictures",
        "rows_agree_with_each_other",
        "objects_exist_and_decode",
        "productions_agree_with_jobs",
        "no_job_is_lost",
    }
    ledger = found["ledger_agrees_with_pictures"]
    assert (ledger.passed, ledger.severity) == (False, AssetCheckSeverity.ERROR)
    breaches = [record.data["breach"] for record in ledger.metadata["found"].records]  # type: ignore[union-attr]
    assert any(str(attach_id) in breach and str(job.job_id) in breach for breach in breaches)
    desk.all("update quel_production_jobs set created_at = now() - interval '9 days' where job_id = %s", job.job_id)


def test_checks_of_jobs_are_no_step_of_a_run() -> None:
    assert [node.name for node in defs.resolve_job_def("image_job").nodes] == ["make_images"]


# --- the daily summary -------------------------------------------------------------------------------


def summarized() -> Any:
    return defs.resolve_job_def("daily_summary_job")


def test_a_day_is_summed_up_from_the_tables(instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn) -> None:
    day = datetime(2026, 3, 3, tzinfo=UTC)
    good, partial = desk.job(2, path="eats"), desk.job(2, path="eats")
    execute_job(reconstructable(image_job), instance=instance, run_config=run_config(good.job_id))
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1))
    execute_job(reconstructable(image_job), instance=instance, run_config=run_config(partial.job_id))
    for number, job in enumerate((good, partial)):
        desk.all(
            "update quel_production_jobs set created_at = %s, completed_at = %s where job_id = %s",
            day + timedelta(hours=number),
            day + timedelta(hours=number, seconds=10 * (number + 1)),
            job.job_id,
        )
        desk.all("update quel_credits set created_at = %s where user_id = %s", day, job.member_id)

    instance.add_dynamic_partitions(DAYS_NAME, ["2026-03-03"])
    result = execute_job(
        reconstructable(summarized), instance=instance, tags={"dagster/partition": "2026-03-03"}, raise_on_error=True
    )

    (event,) = result.filter_events(lambda event: event.event_type is DagsterEventType.ASSET_MATERIALIZATION)
    shown = {name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()}
    assert event.partition == "2026-03-03"
    assert (shown["jobs"], shown["jobs_with_pictures_missing"], shown["pictures"]) == (2, 1, 3)
    assert shown["credits_charged"] == 3 * PRICE
    assert (shown["p50_seconds"], shown["p95_seconds"]) == (10, 20)
    assert any("IMAGE_SAFETY" in record.data["reason"] for record in shown["reasons"].records)


# --- retention ---------------------------------------------------------------------------------------


def test_old_runs_go_with_their_events_and_live_ones_stay(tmp_path: Path) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        job_def = defs.resolve_job_def("image_job")
        old = instance.create_run_for_job(job_def, run_config=run_config(uuid4()), status=DagsterRunStatus.SUCCESS)
        live = instance.create_run_for_job(job_def, run_config=run_config(uuid4()), status=DagsterRunStatus.STARTED)
        instance.report_engine_event("something happened", old)
        instance.report_runless_asset_event(AssetObservation(JOBS_TABLE, metadata={"queue_depth": 1}))
        soon, past = datetime.now(UTC) + timedelta(seconds=5), datetime.now(UTC) - timedelta(days=1)
        until = time.monotonic() + 60

        assert delete_runs(instance, before=past, until=until) == 0
        assert delete_runless_events(instance, before=past) == 0
        assert delete_runs(instance, before=soon, until=time.monotonic() - 1) == 0, "its time was over"
        assert delete_runs(instance, before=soon, until=until) == 1
        assert delete_runless_events(instance, before=soon) == 1

        assert [run.run_id for run in instance.get_runs()] == [live.run_id]
        assert instance.all_logs(old.run_id) == []
        assert instance.fetch_observations(AssetRecordsFilter(asset_key=JOBS_TABLE), limit=5).records == []


def retention() -> Any:
    return defs.resolve_job_def("retention_job")


def test_retention_forgets_values_between_ops_and_needs_a_number_of_days(
    instance: DagsterInstance, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = f"old-{uuid4()}"
    desk.all(
        "insert into quel_dagster.op_output (run_id, step_key, output, value, created_at)"
        " values (%s, 's', 'o', '1', now() - interval '4000 days'), (%s, 's', 'p', '1', now())",
        run_id,
        run_id,
    )
    monkeypatch.delenv("QUEL_KEEP_RUNS_DAYS", raising=False)
    assert not execute_job(reconstructable(retention), instance=instance, raise_on_error=False).success
    monkeypatch.setenv("QUEL_KEEP_RUNS_DAYS", "3650")
    assert execute_job(reconstructable(retention), instance=instance).success
    left = desk.all("select output from quel_dagster.op_output where run_id = %s", run_id)
    assert [row["output"] for row in left] == ["p"]


def test_retention_and_alerts_are_off_until_they_are_set() -> None:
    off = build_defs(settings=Settings.read(_env_file=None)).get_repository_def()
    on = build_defs(
        settings=Settings.read(_env_file=None, keep_runs_days=30, alert_webhook_url="log:")
    ).get_repository_def()
    assert off.get_schedule_def("nightly_retention").default_status is DefaultScheduleStatus.STOPPED
    assert on.get_schedule_def("nightly_retention").default_status is DefaultScheduleStatus.RUNNING
    assert off.get_sensor_def("failure_alerts").default_status is DefaultSensorStatus.STOPPED
    assert on.get_sensor_def("failure_alerts").default_status is DefaultSensorStatus.RUNNING


# --- alerts ------------------------------------------------------------------------------------------


class Webhook:
    """A server that takes alerts, or answers something else."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.calls = 0
        self.answers: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.calls += 1
                status = hook.answers.pop(0) if hook.answers else 204
                if status < 300:
                    hook.taken.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/secret-path"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    webhook = Webhook()
    yield webhook
    webhook.close()


def alert(instance: DagsterInstance, result: Any) -> None:
    (event,) = result.filter_events(lambda event: event.event_type is DagsterEventType.RUN_FAILURE)
    alert_of(instance, result.run_id, event)


def alert_of(instance: DagsterInstance, run_id: str, event: DagsterEvent) -> None:
    """Let the sensor evaluate the failure of a run."""
    sensor = alerts.failure_alerts(Settings.read(_env_file=None))
    run = instance.get_run_by_id(run_id)
    assert run is not None
    with build_run_status_sensor_context(
        sensor_name="failure_alerts", dagster_instance=instance, dagster_run=run, dagster_event=event
    ) as context:
        sensor(context)


def failed_run(instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn) -> tuple[UUID, Any]:
    job = desk.job(1)
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY))
    result = execute_job(
        reconstructable(image_job), instance=instance, run_config=run_config(job.job_id), raise_on_error=False
    )
    assert not result.success
    return job.job_id, result


def test_a_failed_run_is_posted_with_its_reason(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEL_ALERT_WEBHOOK_URL", webhook.url)
    webhook.answers = [503]
    job_id, result = failed_run(instance, desk, gemini)

    alert(instance, result)

    (posted,) = webhook.taken
    assert webhook.calls == 2, "a webhook that is busy is asked again"
    # that of the job, not of the step of its one unit, which failed before it
    assert re.fullmatch(r"1 of 1 pictures failed\. general #0: Gemini declined .*", posted["reason"])
    assert posted["text"] == f"Job {job_id} failed: {posted['reason']}"
    assert (posted["run_id"], posted["job_id"], posted["category"]) == (result.run_id, str(job_id), "fashion")
    assert "url" not in posted


def test_an_alert_leads_to_the_page_of_its_job(
    instance: DagsterInstance, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEL_ALERT_WEBHOOK_URL", webhook.url)
    monkeypatch.setenv("QUEL_WEBSERVER_URL", "https://quel.example/ops/")
    job_id = str(uuid4())
    for name, tags in (("image_job", {"quel/job_id": job_id}), ("audit_job", {})):
        run = instance.create_run_for_job(defs.resolve_job_def(name), tags=tags, status=DagsterRunStatus.STARTED)
        instance.report_run_failed(run, "its worker is gone")
        alert_of(instance, run.run_id, DagsterEvent(DagsterEventType.RUN_FAILURE.value, name, message="is gone"))
    of_job, of_audit = webhook.taken
    assert of_job["text"] == f"Job {job_id} failed: is gone https://quel.example/ops/quel/jobs/{job_id}"
    assert of_audit["text"] == f"Run of audit_job failed: is gone https://quel.example/ops/runs/{of_audit['run_id']}"
    assert {alert["reason"] for alert in webhook.taken} == {"is gone"}


def test_an_alert_without_a_message_of_the_run_names_the_usual_cause(
    instance: DagsterInstance, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEL_ALERT_WEBHOOK_URL", webhook.url)
    run = instance.create_run_for_job(defs.resolve_job_def("audit_job"), status=DagsterRunStatus.STARTED)
    instance.report_run_failed(run)
    alert_of(instance, run.run_id, DagsterEvent(DagsterEventType.RUN_FAILURE.value, "audit_job"))
    assert [alert["reason"] for alert in webhook.taken] == ["its worker died"]


@op
def broken() -> None:
    raise RuntimeError("an unexpected error")


def test_an_alert_of_an_unexpected_error_has_its_message(
    instance: DagsterInstance, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEL_ALERT_WEBHOOK_URL", webhook.url)
    broken_job = GraphDefinition("broken_job", node_defs=[broken]).to_job()
    alert(instance, broken_job.execute_in_process(instance=instance, raise_on_error=False))
    assert ["RuntimeError: an unexpected error" in alert["reason"] for alert in webhook.taken] == [True]


def test_a_run_that_is_retried_is_no_alert(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEL_ALERT_WEBHOOK_URL", webhook.url)
    _, result = failed_run(instance, desk, gemini)
    instance.add_run_tags(result.run_id, {"dagster/will_retry": "true"})
    alert(instance, result)
    assert webhook.calls == 0


def test_a_webhook_that_refuses_fails_the_tick_without_showing_its_url(webhook: Webhook) -> None:
    webhook.answers = [500, 500, 500]
    with pytest.raises(QuelError, match="did not accept an alert") as caught:
        alerts.send(webhook.url, {"text": "x"})
    assert "secret-path" not in str(caught.value)
    assert webhook.calls == ALERT_WEBHOOK.attempts


def test_an_alert_may_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    alerts.send("log:", {"text": "Job 7 failed: no picture"})
    assert [(record.name, record.message) for record in caplog.records] == [("quel.alerts", "Job 7 failed: no picture")]


def test_a_webhook_must_be_a_url() -> None:
    with pytest.raises(SettingsError, match="QUEL_ALERT_WEBHOOK_URL"):
        alerts.send("ftp://somewhere", {"text": "x"})


# --- metrics -----------------------------------------------------------------------------------------


def scrape(instance: DagsterInstance) -> dict[tuple[str, str], float]:
    """Samples by name and labels."""
    text = generate_latest(metrics.registry(Settings.read(_env_file=None), instance)).decode()
    return {
        (sample.name, ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_worker_counters_are_scraped(
    instance: DagsterInstance, desk: Desk, queue: JobQueue, gemini: GeminiStandIn
) -> None:
    assert scrape(instance)[("quel_gemini_calls_total", "outcome=refused")] == 0, "a first failure must be a rise"
    gemini.state.add_rules(Rule(behaviour=Behaviour.UNAVAILABLE, times=1))
    execute_job(reconstructable(image_job), instance=instance, run_config=run_config(desk.job(3).job_id))
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1))
    execute_job(
        reconstructable(image_job),
        instance=instance,
        run_config=run_config(desk.job(1).job_id),
        raise_on_error=False,
    )

    seen = scrape(instance)

    assert seen[("quel_gemini_calls_total", "outcome=ok")] == 3
    assert seen[("quel_gemini_calls_total", "outcome=unavailable")] == 1
    assert seen[("quel_gemini_calls_total", "outcome=refused")] == 1
    assert seen[("quel_gemini_retries_total", "")] == 1
    assert seen[("quel_gemini_seconds_count", "")] == seen[("quel_gemini_seconds_bucket", "le=+Inf")] == 3
    assert seen[("quel_gemini_seconds_sum", "")] > 0
    assert (seen[("quel_pictures_total", "")], seen[("quel_credits_charged_total", "")]) == (3, 3 * PRICE)
    assert seen[("quel_jobs_ended_total", "status=completed")] == 1
    assert seen[("quel_jobs_ended_total", "status=failed")] == 1


def test_the_state_of_the_parts_is_scraped(instance: DagsterInstance, desk: Desk, queue: JobQueue) -> None:
    before = scrape(instance)
    desk.job(1)
    queue.push(uuid4(), uuid4())
    seen = scrape(instance)
    assert seen[("quel_jobs_open", "status=pending")] == before[("quel_jobs_open", "status=pending")] + 1
    assert seen[("quel_queue_entries", "list=queue")] == 2
    assert seen[("quel_oldest_waiting_seconds", "")] > 0
    assert {seen[("quel_up", f"part={part}")] for part in ("postgres", "redis", "dagster")} == {1}


def test_unreachable_part_is_down_and_the_others_still_answer(
    instance: DagsterInstance, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:geheim@127.0.0.1:1/0")
    seen = scrape(instance)
    assert (seen[("quel_up", "part=redis")], seen[("quel_up", "part=postgres")]) == (0, 1)
    assert ("quel_jobs_open", "status=pending") in seen
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:geheim@127.0.0.1:1/d")
    assert scrape(instance)[("quel_up", "part=postgres")] == 0


async def test_counting_that_fails_ends_no_run(
    environment: Mapping[str, str], office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    engine = Engine.from_settings(Settings.read(_env_file=None))
    run = await run_job(engine, await office.job(1))  # closes the session, which counts
    assert run.ended.completed == 1
    await engine.aclose()


def test_the_lineage_holds_every_node() -> None:
    graph = defs.get_repository_def().asset_graph
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        "quel_production_jobs",
        "quel_attach",
        "generated_images",
        "quel_production_photo",
        "quel_credits",
        "daily_summary",
    }
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        if key != AssetKey("daily_summary"):
            assert "dagster/column_schema" in node.metadata, key


def test_tables_of_the_web_app_are_observed_and_never_awaited_as_materialized(
    instance: DagsterInstance, worker: Mapping[str, str]
) -> None:
    """Dagster says "Never materialized" of a table that is not observable."""
    graph = defs.resolve_asset_graph()
    for key in (JOBS_TABLE, REFERENCES):
        assert graph.get(key).is_observable
        assert not graph.get(key).is_materializable
    observing = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={JOBS_TABLE})
    assert observing.execute_in_process(instance=instance).success
    record = instance.fetch_observations(JOBS_TABLE, limit=1).records[0]
    assert "jobs_pending" in record.asset_observation.metadata
