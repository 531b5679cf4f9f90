"""`image_job` under its executor, in this process and in another one, with Dagster's storage in files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
import redis
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobExecutionResult,
    ReexecutionOptions,
    RunsFilter,
    build_input_context,
    build_output_context,
    execute_job,
    in_process_executor,
    reconstructable,
)

from quel_dagster.adapters.cancel_flags import cancel_key
from quel_dagster.definitions import build_defs, defs
from quel_dagster.engine.outcomes import UnitTask
from quel_dagster.engine.process import EngineProcess
from quel_dagster.errors import QuelError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.pipeline.assets import run_config
from quel_dagster.pipeline.io_manager import JsonIOManager
from quel_dagster.pipeline.ops import generate
from quel_dagster.pipeline.resources import EngineResource
from quel_dagster.platform.internals import RETRY_NUMBER_TAG, RUN_KEY_TAG, SerializableErrorInfo
from quel_dagster.platform.stops import stops
from quel_dagster.platform.tags import LAUNCH_TAG
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.integration.conftest import PRICE, NewlyMade
from tests.integration.engine.conftest import combinations, stages
from tests.integration.pipeline.conftest import Desk

T = TypeVar("T")


def image_job() -> Any:
    return defs.resolve_job_def("image_job")


def execute(instance: DagsterInstance, job: NewlyMade, **more: Any) -> JobExecutionResult:
    return execute_job(
        reconstructable(image_job),
        instance=instance,
        run_config=None if "reexecution_options" in more else run_config(job.job_id),
        **more,
    )


def failure_of(result: JobExecutionResult) -> str:
    """Return the messages of the failed steps."""
    said = []
    for event in result.filter_events(lambda event: event.event_type is DagsterEventType.STEP_FAILURE):
        data = event.step_failure_data
        said.append((data.user_failure_data.description if data.user_failure_data else None) or str(data.error))
    return "\n".join(said)


def failures_in_log(instance: DagsterInstance, run_id: str) -> list[SerializableErrorInfo]:
    """The errors of failed steps as the run page shows them."""
    events = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE)]
    return [event.step_failure_data.error for event in events if event and event.step_failure_data.error]


def materialized(result: JobExecutionResult) -> dict[str, Mapping[str, Any]]:
    """Metadata of each materialized asset."""
    return {
        event.asset_key.to_user_string(): {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        for event in result.filter_events(lambda event: event.event_type is DagsterEventType.ASSET_MATERIALIZATION)
        if event.asset_key is not None
    }


def stored_run(instance: DagsterInstance, result: JobExecutionResult) -> DagsterRun:
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


def log_lines(instance: DagsterInstance, run_id: str) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(run_id)]


def test_a_run_materializes_its_three_results(instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn) -> None:
    job = desk.job(3, job_type="single_batch", input_data=combinations(2, 1))

    result = execute(instance, job)

    assert result.success
    row = desk.row(job)
    assert (row["job_status"], row["completed_images"]) == ("completed", 3)
    assets = materialized(result)
    assert set(assets) == {"generated_images", "quel_production_photo", "quel_credits"}
    images = assets["generated_images"]
    assert len(re.findall(r"!\[\d+\]\(data:image/webp;base64,[A-Za-z0-9+/=]+\)", images["pictures"])) == 3
    assert [int(number) for number in re.findall(r"!\[(\d+)\]", images["pictures"])] == row["generated_attach_ids"]
    assert (images["completed_images"], images["failed_images"], images["made_by_this_run"]) == (3, 0, 3)
    assert images["attach_ids"] == ", ".join(map(str, row["generated_attach_ids"]))
    assert "error_message" not in images
    assert assets["quel_production_photo"]["production_id"] == str(job.production_id)
    assert assets["quel_production_photo"]["job_status"] == "completed"
    ledger = assets["quel_credits"]
    assert (ledger["credits_charged"], ledger["pictures_charged"], ledger["balance_before"]) == (3 * PRICE, 3, 1000)
    assert ledger["payer"] == f"member {job.member_id}"
    assert stored_run(instance, result).tags["quel/outcome"] == "completed"
    desk.check_books(job)


def test_every_unit_is_a_step_with_a_name_that_reads_well(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(3, job_type="single_batch", input_data=combinations(1, 2))
    result = execute(instance, job)
    steps = {event.step_key for event in result.filter_events(lambda event: event.is_step_success)}
    assert steps == {
        "make_images.load_job",
        "make_images.plan_units",
        "make_images.generate[combo0_front_full]",
        "make_images.generate[combo1_side_full]",
        "make_images.settle",
    }


def test_the_lines_that_people_search_for_are_log_lines_of_their_step(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(1)
    result = execute(instance, job)
    said = [(entry.step_key, entry.user_message) for entry in instance.all_logs(result.run_id)]
    (attach_id,) = desk.row(job)["generated_attach_ids"]
    assert ("make_images.load_job", f"Received new job: {job.job_id}") in said
    step = "make_images.generate[general]"
    assert [line for key, line in said if (key == step and line in WANTED) or line.startswith("Attach record")] == [
        "🎬 Stage 0/1: Processing 1 images",
        "Calling Gemini API",
        f"Attach record created: ID={attach_id}",
        "📊 Updating job progress: 1/1 completed",
        "Stage 0 completed",
    ]


WANTED = {
    "🎬 Stage 0/1: Processing 1 images",
    "Calling Gemini API",
    "📊 Updating job progress: 1/1 completed",
    "Stage 0 completed",
}


def test_steps_run_side_by_side_and_share_the_limit(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    gemini.state.latency = 120.0

    def answer_two() -> None:
        gemini.state.wait_until(lambda state: state.in_flight == 2, 60)
        gemini.state.latency = 0.1

    answering = threading.Thread(target=answer_two)
    answering.start()
    job = desk.job(4, job_type="pipeline_stage", path="cinema", input_data=stages(1, 1, 1, 1))
    assert execute(instance, job).success
    answering.join()
    assert gemini.state.max_in_flight == 2


def test_values_between_ops_are_json_in_our_schema_and_nothing_is_pickled(
    instance: DagsterInstance, dagster_home: Path, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(2, job_type="single_batch", input_data=combinations(1, 1))
    result = execute(instance, job)

    rows = desk.all("select * from quel_dagster.op_output where run_id = %s order by step_key, output", result.run_id)
    assert [(row["step_key"], row["output"], row["mapping_key"]) for row in rows] == [
        ("make_images.generate[combo0_front_full]", "result", ""),
        ("make_images.generate[combo1_side_full]", "result", ""),
        ("make_images.load_job", "result", ""),
        ("make_images.plan_units", "plan", ""),
    ], "the tasks of the units are in the plan"
    assert all(isinstance(row["value"], dict) for row in rows)
    assert not [path for path in dagster_home.rglob("*") if "storage" in path.parts and path.name in {"result", "plan"}]


def test_another_process_finds_the_task_of_a_unit_in_the_plan(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(2, job_type="single_batch", input_data=combinations(1, 1))
    result = execute(instance, job)

    def load(unit_key: str) -> UnitTask:
        upstream = build_output_context(
            step_key="make_images.plan_units",
            name="units",
            run_id=result.run_id,
            mapping_key=unit_key,
            dagster_type=generate.ins["task"].dagster_type,
        )
        # it has written nothing itself
        task: UnitTask = JsonIOManager(engine=EngineResource()).load_input(
            build_input_context(upstream_output=upstream)
        )
        return task

    task = load("combo1_side_full")
    assert (task.job_id, task.unit.key, task.unit.quantity) == (job.job_id, "combo1_side_full", 1)
    with pytest.raises(QuelError, match="combo9"):
        load("combo9")


def test_a_job_with_another_live_run_is_refused_with_success(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(1)
    desk.call(lambda office: office.processing(job, run_id="other"))
    before = desk.row(job)

    result = execute(instance, job)

    assert result.success
    assert stored_run(instance, result).status is DagsterRunStatus.SUCCESS
    assert stored_run(instance, result).tags["quel/outcome"] == "refused"
    assert materialized(result) == {}
    assert any("run other is at work" in line for line in log_lines(instance, result.run_id))
    assert desk.row(job) == before
    assert gemini.state.report()["total"] == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input_data": [1]}, "job_input_data: "),
        ({"credit": 3}, "has 3 credits, a picture costs 20"),
    ],
    ids=["input", "credits"],
)
def test_an_impossible_job_fails_its_run_with_the_reason(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn, changes: dict[str, Any], reason: str
) -> None:
    job = desk.job(1, job_type="single_batch", **changes)

    result = execute(instance, job, raise_on_error=False)

    assert not result.success
    assert stored_run(instance, result).status is DagsterRunStatus.FAILURE
    assert reason in failure_of(result)
    row = desk.row(job)
    assert row["job_status"] == "failed"
    assert reason in row["error_message"]
    assert desk.production(job)["production_status"] == "failed"
    assert gemini.state.report()["total"] == 0
    assert desk.all("select 1 from quel_dagster.job_lease where job_id = %s", job.job_id) == []


def test_a_job_without_a_picture_fails_its_run_and_shows_its_production(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(2)
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY))

    result = execute(instance, job, raise_on_error=False)

    assert not result.success
    assert "2 of 2 pictures failed" in failure_of(result)
    assert "IMAGE_SAFETY" in failure_of(result)
    assert stored_run(instance, result).tags["quel/outcome"] == "failed"
    assert set(materialized(result)) == {"quel_production_photo"}
    assert desk.row(job)["job_status"] == "failed"


def test_a_partial_job_is_a_success_that_shows_what_failed(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(3)
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1))
    result = execute(instance, job)
    assert result.success
    assert stored_run(instance, result).tags["quel/outcome"] == "partial"
    images = materialized(result)["generated_images"]
    assert (images["completed_images"], images["failed_images"]) == (2, 1)
    assert "IMAGE_SAFETY" in images["error_message"]


def test_unit_without_a_picture_is_a_failed_step_of_a_run_that_settles(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(2, job_type="pipeline_stage", input_data=stages(1, 1))
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1))
    result = execute(instance, job)
    assert result.success
    assert desk.row(job)["job_status"] == "completed"
    stats = {stat.step_key: str(stat.status) for stat in instance.get_run_step_stats(result.run_id)}
    units = sorted(status for key, status in stats.items() if ".generate[" in key)
    assert units == ["StepEventStatus.FAILURE", "StepEventStatus.SUCCESS"]
    assert stats["make_images.settle"] == "StepEventStatus.SUCCESS"
    (failure,) = failures_in_log(instance, result.run_id)
    assert failure.message.startswith("No picture of this unit was made. Gemini declined")
    assert failure.stack == []
    desk.check_books(job)


def stopped_at_gemini(
    instance: DagsterInstance, job: NewlyMade, gemini: GeminiStandIn, stop: Callable[[str], Any], *, calls: int = 1
) -> JobExecutionResult:
    """Execute the job, and stop it as soon as it has made so many calls to Gemini."""
    gemini.state.add_rules(Rule(behaviour=Behaviour.HANG))
    before = len(gemini.state.requests)

    def stop_it() -> None:
        while len(gemini.state.requests) < before + calls:
            time.sleep(0.02)
        (run,) = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))
        stop(run.run_id)

    with ThreadPoolExecutor(1) as thread:
        stopping = thread.submit(stop_it)
        result = execute(instance, job, raise_on_error=False)
        stopping.result()
    return result


def unit_failed_before_the_stop(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn, stop: Callable[[NewlyMade], Any]
) -> tuple[NewlyMade, JobExecutionResult]:
    """A unit with a first picture that failed for a reason, in a run that is stopped before the others are made."""
    job = desk.job(3)
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1))
    # of two calls at a time, the third begins when the first has failed
    return job, stopped_at_gemini(instance, job, gemini, lambda _run_id: stop(job), calls=3)


def test_unit_without_a_picture_of_a_cancelled_job_is_no_failed_step(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn, worker: Mapping[str, str]
) -> None:
    def cancel(job: NewlyMade) -> None:
        with redis.Redis.from_url(worker["REDIS_URL"]) as client:
            client.set(cancel_key(job.job_id), "true", ex=600)

    job, result = unit_failed_before_the_stop(instance, desk, gemini, cancel)
    assert desk.row(job)["job_status"] == "user_cancelled"
    assert failures_in_log(instance, result.run_id) == []


def test_unit_without_a_picture_of_a_job_that_was_handed_over_is_no_failed_step(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn, worker: Mapping[str, str]
) -> None:
    def hand_over(_job: NewlyMade) -> None:
        EngineProcess.current().post(lambda engine: engine.drain())
        EngineProcess.current().post(lambda engine: engine.hand_over_now())

    job, result = unit_failed_before_the_stop(instance, desk, gemini, hand_over)
    assert result.success
    assert failures_in_log(instance, result.run_id) == []
    assert stored_run(instance, result).tags["quel/outcome"] == "handed_over"
    assert desk.row(job)["job_status"] == "processing", "another worker finishes it"
    with redis.Redis.from_url(worker["REDIS_URL"]) as client:
        assert client.lrange("jobs:again", 0, -1) == [str(job.job_id).encode()]


def test_terminated_run_shows_one_line_a_step_and_no_stack_trace(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(2, job_type="pipeline_stage", input_data=stages(1, 1))

    def terminate(run_id: str) -> None:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        instance.report_run_canceling(run)
        assert stops.terminate(run_id)

    result = stopped_at_gemini(instance, job, gemini, terminate)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is DagsterRunStatus.CANCELED
    ends = instance.all_logs(result.run_id, of_type=DagsterEventType.RUN_CANCELED)
    errors = [entry.dagster_event.job_canceled_data.error for entry in ends if entry.dagster_event]
    errors += failures_in_log(instance, result.run_id)
    assert len(errors) >= 2
    shown = [(error.message.strip(), error.stack) for error in errors if error]
    assert all("stopped by an operator" in line.lower() and stack == [] for line, stack in shown), shown


@pytest.mark.parametrize("job_id", ["nonsense", "", "'; drop table quel_member; --"])
def test_an_invalid_job_id_fails_with_the_reason(
    instance: DagsterInstance, worker: Mapping[str, str], job_id: str
) -> None:
    result = execute_job(
        reconstructable(image_job), instance=instance, run_config=run_config(job_id), raise_on_error=False
    )
    assert not result.success
    assert "is not a UUID" in failure_of(result)


def test_a_missing_job_fails_with_the_reason(instance: DagsterInstance, worker: Mapping[str, str]) -> None:
    missing = uuid4()
    result = execute_job(
        reconstructable(image_job), instance=instance, run_config=run_config(missing), raise_on_error=False
    )
    assert not result.success
    assert failure_of(result) == f"Job {missing} is not in quel_production_jobs; was it deleted?"


FROM_THE_QUEUE = {RUN_KEY_TAG: "1", LAUNCH_TAG: "queue"}


@pytest.fixture
def cancelled_job(desk: Desk) -> NewlyMade:
    """A job that an operator cancelled while it waited."""
    job = desk.job(1)
    desk.call(lambda office: office.database.work.keep_cancel(job.job_id, actor="mina"))
    desk.call(
        lambda office: office.database.recovery.end_abandoned(
            job.job_id, status=JobStatus.CANCELLED, error="Cancelled."
        )
    )
    return job


@pytest.mark.parametrize("tags", [FROM_THE_QUEUE, {**FROM_THE_QUEUE, RETRY_NUMBER_TAG: "1"}], ids=["queue", "retry"])
def test_run_of_a_job_that_an_operator_cancelled_while_it_waited_makes_nothing(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn, cancelled_job: NewlyMade, tags: dict[str, str]
) -> None:
    """Its id was in jobs:queue, or its run in Dagster's queue: also after the restore of a backup."""
    result = execute(instance, cancelled_job, tags=tags)
    assert result.success
    assert stored_run(instance, result).tags["quel/outcome"] == "cancelled"
    assert (desk.row(cancelled_job)["job_status"], gemini.state.report()["total"]) == ("cancelled", 0)


def test_run_after_a_retry_makes_a_job_that_an_operator_cancelled(
    instance: DagsterInstance, desk: Desk, cancelled_job: NewlyMade
) -> None:
    desk.call(lambda office: office.database.work.lift_operators_cancel(cancelled_job.job_id))
    assert execute(instance, cancelled_job, tags=FROM_THE_QUEUE).success
    assert desk.row(cancelled_job)["job_status"] == "completed"


def test_run_by_hand_makes_a_job_that_an_operator_cancelled(
    instance: DagsterInstance, desk: Desk, cancelled_job: NewlyMade
) -> None:
    assert execute(instance, cancelled_job).success
    assert desk.row(cancelled_job)["job_status"] == "completed"


def test_cancelled_job_is_a_success_with_that_reason(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(1)
    desk.call(lambda office: office.database.work.keep_cancel(job.job_id))
    result = execute(instance, job)
    assert result.success
    assert stored_run(instance, result).tags["quel/outcome"] == "user_cancelled"
    assert desk.row(job)["job_status"] == "user_cancelled"
    assert gemini.state.report()["total"] == 0


def test_a_second_run_of_a_finished_job_makes_and_charges_nothing(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(2)
    execute(instance, job)
    before = desk.row(job), desk.production(job)

    result = execute(instance, job)

    assert result.success
    assert (desk.row(job), desk.production(job)) == before
    assert materialized(result)["generated_images"]["made_by_this_run"] == 0
    assert materialized(result)["quel_credits"]["credits_charged"] == 0
    assert gemini.state.report()["total"] == 2


def test_re_execution_beside_a_live_run_is_a_success_with_that_reason(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    """It leaves out the op that usually claims the job, so a later one finds that it is held."""
    job = desk.job(2, job_type="pipeline_stage", path="cinema", input_data=stages(1, 1))
    gemini.state.add_rules(Rule(behaviour=Behaviour.FORBIDDEN))
    failed = execute(instance, job, raise_on_error=False)
    gemini.state.reset()
    desk.call(lambda office: office.processing(job, run_id="other"))
    before = desk.row(job)

    again = execute(
        instance, job, reexecution_options=ReexecutionOptions.from_failure(failed.run_id, instance=instance)
    )

    assert again.success
    assert not [step for step in again.all_events if step.step_key == "make_images.load_job"]
    assert stored_run(instance, again).tags["quel/outcome"] == "refused"
    assert materialized(again) == {}
    assert desk.row(job) == before
    assert gemini.state.report()["total"] == 0


def test_only_unexpected_failures_are_retried(instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn) -> None:
    job = desk.job(1)
    gemini.state.add_rules(Rule(behaviour=Behaviour.FORBIDDEN))
    result = execute(instance, job, raise_on_error=False)
    assert stored_run(instance, result).tags["dagster/retry_on_asset_or_op_failure"] == "false"
    assert desk.row(job)["job_status"] == "failed"
    gemini.state.reset()

    job = desk.job(1)
    desk.call(lambda office: office.sql.all("alter table quel_dagster.op_output rename to op_output_hidden"))
    try:
        broken = execute(instance, job, raise_on_error=False)
    finally:
        desk.call(lambda office: office.sql.all("alter table quel_dagster.op_output_hidden rename to op_output"))
    assert not broken.success
    assert "dagster/retry_on_asset_or_op_failure" not in stored_run(instance, broken).tags
    assert desk.row(job)["job_status"] == "pending"
    again = execute(
        instance, job, reexecution_options=ReexecutionOptions.from_failure(broken.run_id, instance=instance)
    )
    assert again.success
    assert desk.row(job)["job_status"] == "completed"


def test_re_execution_from_failure_makes_what_is_missing(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(2, job_type="pipeline_stage", path="cinema", input_data=stages(1, 1))
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY))
    failed = execute(instance, job, raise_on_error=False)
    assert not failed.success
    gemini.state.reset()

    again = execute(
        instance, job, reexecution_options=ReexecutionOptions.from_failure(failed.run_id, instance=instance)
    )

    assert again.success
    row = desk.row(job)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 2, 0)
    assert row["error_message"] is None
    assert gemini.state.report()["total"] == 2
    assert materialized(again)["generated_images"]["made_by_this_run"] == 2
    desk.check_books(job)


_IN_ANOTHER_PROCESS = """
import json, sys
from dagster import DagsterInstance, ReexecutionOptions, execute_job, reconstructable
from tests.integration.pipeline.test_job import image_job
from quel_dagster.engine.process import EngineProcess

with DagsterInstance.from_config(sys.argv[1]) as instance:
    options = ReexecutionOptions.from_failure(sys.argv[2], instance=instance)
    result = execute_job(
        reconstructable(image_job), instance=instance, reexecution_options=options, raise_on_error=False
    )
    steps = [event.step_key for event in result.filter_events(lambda event: event.is_step_start)]
    print(json.dumps({"success": result.success, "steps": sorted(steps)}))
EngineProcess.current().close()
"""


def test_re_execution_from_failure_works_in_another_process(
    instance: DagsterInstance, dagster_home: Path, desk: Desk, gemini: GeminiStandIn, worker: Mapping[str, str]
) -> None:
    """The outputs of the steps before the failed one are read from schema quel_dagster."""
    job = desk.job(2, job_type="pipeline_stage", path="cinema", input_data=stages(1, 1))
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY))
    failed = execute(instance, job, raise_on_error=False)
    gemini.state.reset()

    done = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS, str(dagster_home), failed.run_id],
        env={**os.environ, **worker},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    units = ["make_images.generate[stage0]", "make_images.generate[stage1]"]
    assert answer == {"success": True, "steps": [*units, "make_images.settle"]}, "what was red is made, then settled"
    row = desk.row(job)
    assert (row["job_status"], row["completed_images"]) == ("completed", 2)
    assert gemini.state.report()["total"] == 2
    desk.check_books(job)


def test_no_secret_is_in_what_dagster_keeps_of_a_run(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn, worker: Mapping[str, str]
) -> None:
    job = desk.job(2)
    gemini.state.add_rules(Rule(behaviour=Behaviour.BAD_KEY))
    result = execute(instance, job, raise_on_error=False)
    assert not result.success
    run = stored_run(instance, result)
    everything = json.dumps([run.tags, run.run_config]) + "\n".join(
        entry.to_json() for entry in instance.all_logs(result.run_id)
    )
    password = worker["DATABASE_URL"].split(":")[2].split("@")[0]
    for secret in (worker["GEMINI_API_KEY"], password):
        assert secret not in everything


def test_the_in_process_executor_does_as_well(desk: Desk, gemini: GeminiStandIn) -> None:
    job = desk.job(2, job_type="single_batch", input_data=combinations(1, 1))
    replaced = build_defs(executor=in_process_executor)
    result = replaced.resolve_job_def("image_job").execute_in_process(run_config=run_config(job.job_id))
    assert result.success
    assert desk.row(job)["job_status"] == "completed"
