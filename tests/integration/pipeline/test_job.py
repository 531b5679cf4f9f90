"""`image_job` under the async executor, in this process and in another one, with Dagster's storage in files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobExecutionResult,
    ReexecutionOptions,
    build_input_context,
    build_output_context,
    execute_job,
    in_process_executor,
    reconstructable,
)

from quel_dagster.adapters.database.store import Database
from quel_dagster.definitions import build_defs, defs
from quel_dagster.errors import QuelError
from quel_dagster.pipeline.assets import run_config
from quel_dagster.pipeline.io_manager import JsonIOManager
from quel_dagster.pipeline.ops import generate
from quel_dagster.pipeline.resources import StudioResource
from quel_dagster.sandbox.gemini_server import Behaviour, GeminiStandIn, Rule
from quel_dagster.studio.outcomes import UnitTask
from tests.integration.conftest import PRICE, Look, NewlyMade, Office
from tests.integration.studio.conftest import combinations, stages

T = TypeVar("T")


def image_job() -> Any:
    return defs.resolve_job_def("image_job")


class Desk:
    """The office of a test that is not async, as Dagster's own calls are not: each call has a loop of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, work: Callable[[Office], Any]) -> Any:
        async def run() -> Any:
            database = Database(self._url)
            async with await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, row_factory=psycopg.rows.dict_row
            ) as connection:
                office = Office(database, Look(connection))
                office.opening = self.opening
                try:
                    return await work(office)
                finally:
                    await database.aclose()

        with ThreadPoolExecutor(1) as thread:  # Dagster may have a loop in this one
            return thread.submit(asyncio.run, run()).result()

    opening: dict[UUID, int] = {}  # noqa: RUF012  shared: who had what at first

    def job(self, *args: Any, **kwargs: Any) -> NewlyMade:
        made: NewlyMade = self.call(lambda office: office.job(*args, **kwargs))
        return made

    def row(self, job: NewlyMade) -> dict[str, Any]:
        row: dict[str, Any] = self.call(lambda office: office.sql.job(job.job_id))
        return row

    def production(self, job: NewlyMade) -> dict[str, Any]:
        row: dict[str, Any] = self.call(lambda office: office.sql.production(job.production_id))
        return row

    def all(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.call(lambda office: office.sql.all(statement, *parameters))
        return rows

    def check_books(self, job: NewlyMade) -> None:
        self.call(lambda office: office.check_books(job))


@pytest.fixture
def desk(worker: Mapping[str, str]) -> Desk:
    return Desk(worker["DATABASE_URL"])


def execute(instance: DagsterInstance, job: NewlyMade, **more: Any) -> JobExecutionResult:
    return execute_job(
        reconstructable(image_job),
        instance=instance,
        run_config=None if "reexecution_options" in more else run_config(job.job_id),
        **more,
    )


def failure_of(result: JobExecutionResult) -> str:
    """What the failed steps say, as a person reads it."""
    said = []
    for event in result.filter_events(lambda event: event.event_type is DagsterEventType.STEP_FAILURE):
        data = event.step_failure_data
        said.append((data.user_failure_data.description if data.user_failure_data else None) or str(data.error))
    return "\n".join(said)


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
    gemini.state.latency = 0.5
    job = desk.job(4, job_type="pipeline_stage", path="cinema", input_data=stages(1, 1, 1, 1))
    assert execute(instance, job).success
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
        task: UnitTask = JsonIOManager(studio=StudioResource()).load_input(
            build_input_context(upstream_output=upstream)
        )
        return task

    task = load("combo1_side_full")
    assert (task.job_id, task.unit.key, task.unit.quantity) == (job.job_id, "combo1_side_full", 1)
    with pytest.raises(QuelError, match="combo9"):
        load("combo9")


def test_a_job_that_is_worked_on_elsewhere_is_a_success_that_says_so(
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
def test_a_job_that_cannot_be_made_fails_its_run_in_words(
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


@pytest.mark.parametrize("job_id", ["nonsense", "", "'; drop table quel_member; --"])
def test_a_job_id_that_is_none_fails_in_words(
    instance: DagsterInstance, worker: Mapping[str, str], job_id: str
) -> None:
    result = execute_job(
        reconstructable(image_job), instance=instance, run_config=run_config(job_id), raise_on_error=False
    )
    assert not result.success
    assert "is not a UUID" in failure_of(result)


def test_a_job_that_does_not_exist_fails_in_words(instance: DagsterInstance, worker: Mapping[str, str]) -> None:
    missing = uuid4()
    result = execute_job(
        reconstructable(image_job), instance=instance, run_config=run_config(missing), raise_on_error=False
    )
    assert not result.success
    assert failure_of(result) == f"Job {missing} is not in quel_production_jobs; was it deleted?"


def test_a_cancelled_job_is_a_success_that_says_so(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(1)
    desk.call(lambda office: office.database.keep_cancel(job.job_id))
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


def test_a_re_execution_that_finds_another_run_at_work_is_a_success_that_says_so(
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


def test_a_run_that_failed_in_words_is_not_retried_and_one_that_broke_off_is(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(1)
    gemini.state.add_rules(Rule(behaviour=Behaviour.FORBIDDEN))
    told = execute(instance, job, raise_on_error=False)
    assert stored_run(instance, told).tags["dagster/retry_on_asset_or_op_failure"] == "false"
    assert desk.row(job)["job_status"] == "failed"
    gemini.state.reset()

    job = desk.job(1)
    desk.call(lambda office: office.sql.all("alter table quel_dagster.op_output rename to op_output_away"))
    try:
        broken = execute(instance, job, raise_on_error=False)
    finally:
        desk.call(lambda office: office.sql.all("alter table quel_dagster.op_output_away rename to op_output"))
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
from quel_dagster.pipeline.process import StudioProcess

with DagsterInstance.from_config(sys.argv[1]) as instance:
    options = ReexecutionOptions.from_failure(sys.argv[2], instance=instance)
    result = execute_job(
        reconstructable(image_job), instance=instance, reexecution_options=options, raise_on_error=False
    )
    steps = [event.step_key for event in result.filter_events(lambda event: event.is_step_start)]
    print(json.dumps({"success": result.success, "steps": sorted(steps)}))
StudioProcess.current().close()
"""


def test_re_execution_from_failure_works_in_another_process(
    instance: DagsterInstance, dagster_home: Path, desk: Desk, gemini: GeminiStandIn, worker: Mapping[str, str]
) -> None:
    """What the steps before the failed one gave is read from our schema there."""
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
    assert answer == {"success": True, "steps": ["make_images.settle"]}
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
