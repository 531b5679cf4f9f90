"""A run that died permanently after its job was done gets one more run, which reports the job; no other run does."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID, uuid4

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    RunStatusSensorDefinition,
    build_run_status_sensor_context,
    build_sensor_context,
    execute_job,
    reconstructable,
)
from dagster._core.definitions.sensor_definition import SensorExecutionData

from quel_dagster.definitions import defs
from quel_dagster.pipeline.assets import run_config
from quel_dagster.pipeline.recovery import settle_cancelled_runs, settle_failed_runs
from quel_dagster.pipeline.resources import DatabaseResource
from tests.integration.conftest import NewlyMade
from tests.integration.pipeline.conftest import Desk
from tests.integration.pipeline.test_job import image_job, materialized, stored_run


def dead_run(instance: DagsterInstance, job_id: UUID, **tags: str) -> str:
    """A run of this job that run monitoring has failed, without retries left."""
    run = instance.create_run_for_job(
        image_job(),
        run_config=run_config(job_id),
        tags={"quel/job_id": str(job_id), **tags},
        status=DagsterRunStatus.STARTED,
        run_id=str(uuid4()),
    )
    instance.report_run_failed(run, "its worker is gone")
    instance.add_run_tags(run.run_id, {"dagster/will_retry": "false"})
    return run.run_id


def stopped_run(instance: DagsterInstance, job_id: UUID, *, begun: bool = True) -> str:
    """A run of this job that an operator has stopped."""
    run = instance.create_run_for_job(
        image_job(),
        run_config=run_config(job_id),
        tags={"quel/job_id": str(job_id)},
        status=DagsterRunStatus.STARTING if begun else DagsterRunStatus.NOT_STARTED,
        run_id=str(uuid4()),
    )
    if begun:
        started = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
        instance.report_dagster_event(started, run.run_id)
    instance.report_run_canceled(run)
    return run.run_id


def settle(instance: DagsterInstance, run_id: str) -> RunRequest | None:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    stopped = run.status is DagsterRunStatus.CANCELED
    kind = DagsterEventType.RUN_CANCELED if stopped else DagsterEventType.RUN_FAILURE
    sensor = settle_cancelled_runs if stopped else settle_failed_runs
    with build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_instance=instance,
        dagster_run=run,
        dagster_event=DagsterEvent(kind.value, run.job_name, message="its worker is gone"),
        resources={"database": DatabaseResource()},
    ) as context:
        answer = sensor(context)
    assert answer is None or isinstance(answer, RunRequest)
    return answer


def made(instance: DagsterInstance, desk: Desk) -> NewlyMade:
    job = desk.job(2)
    assert launch(instance, run_config(job.job_id)).success
    return job


def launch(instance: DagsterInstance, config: Mapping[str, object], tags: Mapping[str, str] | None = None):  # type: ignore[no-untyped-def]
    return execute_job(reconstructable(image_job), instance=instance, run_config=dict(config), tags=dict(tags or {}))


def test_a_run_that_died_after_its_job_was_done_is_closed_by_another(instance: DagsterInstance, desk: Desk) -> None:
    job = made(instance, desk)
    dead = dead_run(instance, job.job_id)
    before = desk.row(job)

    asked = settle(instance, dead)

    assert isinstance(asked, RunRequest)
    assert asked.run_key == f"close/{dead}"
    assert asked.tags["quel/job_id"] == str(job.job_id)
    result = launch(instance, asked.run_config, {**asked.tags, "dagster/run_key": asked.run_key})
    assert result.success
    assert stored_run(instance, result).tags["quel/launch"] == f"closes {dead[:8]}"
    assert materialized(result)["generated_images"]["outcome"] == "2 of 2 pictures"
    assert desk.row(job) == before, "a job that is done is not touched again"
    desk.check_books(job)


def test_a_run_that_was_stopped_after_its_job_was_done_is_closed_by_another(
    instance: DagsterInstance, desk: Desk
) -> None:
    job = made(instance, desk)
    asked = settle(instance, stopped_run(instance, job.job_id))
    assert isinstance(asked, RunRequest)
    assert desk.row(job)["job_status"] == "completed"


def test_a_rerun_stopped_in_the_queue_does_not_run(instance: DagsterInstance, desk: Desk) -> None:
    job = made(instance, desk)
    assert settle(instance, stopped_run(instance, job.job_id, begun=False)) is None


def test_a_job_that_was_stopped_before_its_end_is_cancelled_with_its_run(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(2)
    assert settle(instance, stopped_run(instance, job.job_id)) is None
    assert desk.row(job)["job_status"] == "cancelled"


def test_once_closed_it_stays_closed(instance: DagsterInstance, desk: Desk) -> None:
    job = made(instance, desk)
    dead = dead_run(instance, job.job_id)
    dead_run(instance, job.job_id)
    assert settle(instance, dead) is None, "a newer run is there"


def test_a_refused_run_does_not_count_as_newer(instance: DagsterInstance, desk: Desk) -> None:
    job = made(instance, desk)
    dead = dead_run(instance, job.job_id)
    dead_run(instance, job.job_id, **{"quel/outcome": "refused"})
    assert isinstance(settle(instance, dead), RunRequest)


def test_job_of_a_run_that_died_before_its_end_fails(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(2)
    assert settle(instance, dead_run(instance, job.job_id)) is None
    assert desk.row(job)["job_status"] == "failed"


def test_run_with_a_reason_of_failure_needs_no_other(instance: DagsterInstance, desk: Desk) -> None:
    job = made(instance, desk)
    in_words = {"dagster/failure_reason": "STEP_FAILURE", "dagster/retry_on_asset_or_op_failure": "false"}
    assert settle(instance, dead_run(instance, job.job_id, **in_words)) is None


@pytest.mark.parametrize("name", ["settle_failed_runs", "failure_alerts"])
def test_one_tick_sees_to_every_run_that_failed_since_also_after_one_that_cannot_be_seen_to(
    instance: DagsterInstance, desk: Desk, name: str
) -> None:
    """Dagster takes several outcomes of one tick only if none of them is a skip; else it repeats that tick for ever."""
    repository = defs.get_repository_def()
    sensor = repository.get_sensor_def(name)
    assert isinstance(sensor, RunStatusSensorDefinition)
    resources = {"database": DatabaseResource()} if sensor.required_resource_keys else {}

    def tick(cursor: str | None) -> SensorExecutionData:
        with build_sensor_context(
            instance, cursor=cursor, repository_def=repository, resources=resources, sensor_name=name
        ) as context:
            return sensor.evaluate_tick(context)

    dead_run(instance, uuid4())
    cursor = tick(None).cursor
    first, second = desk.job(1), desk.job(1)
    dead_run(instance, first.job_id)
    dead_run(instance, uuid4(), **{"quel/job_id": "no UUID"})
    dead_run(instance, second.job_id)

    reactions = tick(cursor).dagster_run_reactions

    assert len(reactions or ()) == 3
    if name == "settle_failed_runs":
        assert [desk.row(job)["job_status"] for job in (first, second)] == ["failed", "failed"]
