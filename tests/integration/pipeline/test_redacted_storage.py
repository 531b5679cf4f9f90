"""Dagster stores exceptions of any library without secrets: events, ticks, heartbeats."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import psycopg
import pytest
from dagster import DagsterInstance, MetadataValue, job, op
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from quel_dagster import redaction
from quel_dagster.adapters.database.url import with_psycopg2
from quel_dagster.redaction import MASK
from quel_dagster.services.endpoints import Endpoints

CANARY = "canary/of+this test-4711"


@pytest.fixture(scope="module")
def instance(endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """Dagster on PostgreSQL, with the storage of our dagster.yaml."""
    redaction.learn(CANARY)
    home = tmp_path_factory.mktemp("dagster-on-postgres")
    config = {
        "telemetry": {"enabled": False},
        "storage": {
            "custom": {
                "module": "quel_dagster.platform.storage",
                "class": "InstanceStorage",
                "config": {"url_from": "STORAGE_OF_THIS_TEST"},
            }
        },
    }
    (home / "dagster.yaml").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STORAGE_OF_THIS_TEST", with_psycopg2(endpoints.dagster_postgres_url))
        with DagsterInstance.from_config(str(home)) as instance:
            yield instance


@pytest.fixture
def tables(endpoints: Endpoints) -> Iterator[None]:
    """At the end, no text in Dagster's tables holds the canary."""
    yield
    written = redaction._written(CANARY)
    with psycopg.connect(endpoints.dagster_postgres_url.replace("+psycopg2", "")) as connection:
        for table in ("event_logs", "runs", "run_tags", "job_ticks", "daemon_heartbeats", "asset_keys", "kvs"):
            for (row,) in connection.execute(f"select t::text from {table} t".encode()):  # noqa: S608
                assert not any(text in row for text in written), (table, row)


@op
def tells(context) -> None:  # type: ignore[no-untyped-def]
    context.log.warning(f"a line with {CANARY} in it")
    context.add_output_metadata({"note": MetadataValue.md(f"*{CANARY}*"), "facts": {"deep": [CANARY]}})
    try:
        raise ConnectionError(f"redis://:{CANARY}@h refused")  # noqa: TRY301 - the cause of the next
    except ConnectionError as cause:
        raise RuntimeError(f"cannot go on with {CANARY!r}") from cause


@job
def telling_job() -> None:
    tells()


@pytest.mark.usefixtures("tables")
def test_the_events_of_a_run(instance: DagsterInstance) -> None:
    result = telling_job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    logged = "".join(map(str, instance.all_logs(result.run_id)))
    assert f"a line with {MASK} in it" in logged
    assert f"cannot go on with '{MASK}'" in logged
    assert "STEP_FAILURE" in logged
    assert instance.get_run_by_id(result.run_id).status.value == "FAILURE"  # type: ignore[union-attr]


def _error() -> SerializableErrorInfo:
    return SerializableErrorInfo(f"E: {CANARY}", [f"line {CANARY}"], "E", cause=None)


@pytest.mark.usefixtures("tables")
def test_a_tick_that_failed(instance: DagsterInstance) -> None:
    data = TickData(
        instigator_origin_id="origin",
        instigator_name="sensor",
        instigator_type=InstigatorType.SENSOR,
        status=TickStatus.SKIPPED,
        timestamp=time.time(),
        selector_id="selector",
        skip_reason=f"because of {CANARY}",
    )
    tick = instance.create_tick(data)
    (kept,) = instance.get_ticks("origin", "selector")
    assert kept.skip_reason == f"because of {MASK}"
    instance.update_tick(tick.with_status(TickStatus.FAILURE, error=_error(), skip_reason=None))
    (kept,) = instance.get_ticks("origin", "selector")
    assert kept.error is not None
    assert (kept.error.message, kept.error.stack) == (f"E: {MASK}", [f"line {MASK}"])


@pytest.mark.usefixtures("tables")
def test_the_heartbeat_of_a_daemon(instance: DagsterInstance) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "id", [_error()]))
    (error,) = instance.get_daemon_heartbeats()["SENSOR"].errors or ()
    assert error.message == f"E: {MASK}"
