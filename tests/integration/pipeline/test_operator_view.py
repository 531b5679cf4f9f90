"""An operator's view of a run without its logs, and launches by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    DagsterEventType,
    DagsterInstance,
    JobExecutionResult,
    build_run_status_sensor_context,
    execute_job,
    reconstructable,
)

from quel_dagster.pipeline.assets import run_config
from quel_dagster.pipeline.recovery import settle_failed_runs
from quel_dagster.pipeline.resources import DatabaseResource
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.integration.conftest import PRICE, NewlyMade
from tests.integration.engine.conftest import combinations, stages
from tests.integration.pipeline.conftest import Desk
from tests.integration.pipeline.test_job import failure_of, image_job, log_lines, materialized, stored_run


def launch(
    instance: DagsterInstance, job_id: object, *, tags: dict[str, str] | None = None, **config: Any
) -> JobExecutionResult:
    """Launch by hand, as from the Launchpad."""
    return execute_job(
        reconstructable(image_job),
        instance=instance,
        run_config=run_config(job_id, **config),
        tags=tags or {},
        raise_on_error=False,
    )


def evaluations(result: JobExecutionResult) -> dict[str, AssetCheckEvaluation]:
    return {
        event.asset_check_evaluation_data.check_name: event.asset_check_evaluation_data
        for event in result.filter_events(lambda event: event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION)
    }


def output_metadata(result: JobExecutionResult, step: str, output: str) -> dict[str, Any]:
    (event,) = result.filter_events(
        lambda event: (
            event.event_type is DagsterEventType.STEP_OUTPUT
            and event.step_key == f"make_images.{step}"
            and event.step_output_data.output_name == output
        )
    )
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def columns_of(made: Mapping[str, Any], name: str, *columns: str) -> list[tuple[Any, ...]]:
    """Cells of a table in metadata."""
    return [tuple(record.data[column] for column in columns) for record in made[name].records]


# --- a run answers without its logs ------------------------------------------------------------------


def test_the_story_of_a_run_is_in_its_materialization(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(3, job_type="single_batch", input_data=combinations(2, 1))

    shown = materialized(launch(instance, job.job_id))["quel_production_photo"]

    rows = columns_of(shown, "timeline", "step", "what")
    assert rows[0] == ("load_job", f"Received new job: {job.job_id}")
    assert rows[-1] == ("settle", f"Job {job.job_id} ended completed")
    first = [what for step, what in rows if step == "combo0_front_full"]
    assert first[0] == "🎬 Stage 0/2: Processing 2 images"
    # the job ends with its last picture, and with it the timeline, before the line of that picture's stage
    assert first[-1] in ("Stage 0 completed", "📊 Updating job progress: 3/3 completed")
    lines = [what for _, what in rows]
    assert lines.count("Calling Gemini API") == 3
    assert "📊 Updating job progress: 3/3 completed" in lines
    for attach_id in desk.row(job)["generated_attach_ids"]:
        assert f"Attach record created: ID={attach_id}" in lines


def test_where_the_time_went(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(2)
    shown = materialized(launch(instance, job.job_id))["quel_production_photo"]
    took = dict(columns_of(shown, "durations", "what", "seconds"))
    assert list(took)[:2] == ["job written → run requested", "run requested → taken by a worker"]
    assert 0 < took["job claimed → first picture stored"] <= took["job claimed → job ended"]
    assert took["Gemini, all calls"] > 0
    assert took["database, all pictures"] > 0
    assert shown["seconds_at_work"] == took["job claimed → job ended"]
    ways_in = [seconds for what, seconds in took.items() if what.endswith(("requested", "worker", "claimed"))]
    assert shown["seconds_in_queue"] == pytest.approx(sum(ways_in), abs=0.05)


def test_a_job_that_runs_again_has_not_waited_in_a_queue_since_it_was_written(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(2)
    gemini.state.add_rules(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1))
    launch(instance, job.job_id)
    shown = materialized(launch(instance, job.job_id))["quel_production_photo"]
    assert "seconds_in_queue" not in shown
    assert "job written → run requested" not in dict(columns_of(shown, "durations", "what", "seconds"))


def test_payer_and_balance_are_shown(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(3, credit=500)
    paid = materialized(launch(instance, job.job_id))["quel_credits"]
    assert (paid["payer"], paid["credits_charged"]) == (f"member {job.member_id}", 3 * PRICE)
    assert (paid["balance_before"], paid["balance_after"]) == (500, 500 - 3 * PRICE)
    assert "charged_by_other_jobs_meanwhile" not in paid


def test_metadata_is_written_down_once(instance: DagsterInstance, desk: Desk) -> None:
    result = launch(instance, desk.job(1).job_id)
    assert output_metadata(result, "settle", "quel_production_photo") == {}
    assert materialized(result)["quel_production_photo"]["outcome"] == "1 of 1 pictures"


# --- checks ------------------------------------------------------------------------------------------


def test_a_run_checks_its_own_job_and_plans_nothing_for_it(instance: DagsterInstance, desk: Desk) -> None:
    result = launch(instance, desk.job(1).job_id)
    found = evaluations(result)
    assert {name: check.passed for name, check in found.items()} == {"balance_is_enough": True}
    planned = DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
    assert not list(instance.all_logs(result.run_id, of_type=planned))


def test_a_low_balance_is_reported(instance: DagsterInstance, desk: Desk) -> None:
    check = evaluations(launch(instance, desk.job(2, credit=2 * PRICE + 5).job_id))["balance_is_enough"]
    assert (check.passed, check.severity) == (False, AssetCheckSeverity.ERROR)
    assert check.metadata["balance"].value == 5


# --- how a run came about ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "expected"),
    [({}, "by hand"), ({"dagster/run_key": "x:1"}, "queue"), ({"dagster/retry_number": "2"}, "retry 2")],
)
def test_a_run_is_tagged_with_its_launch(
    instance: DagsterInstance, desk: Desk, tags: dict[str, str], expected: str
) -> None:
    result = launch(instance, desk.job(1).job_id, tags=tags)
    assert stored_run(instance, result).tags["quel/launch"] == expected


def test_a_run_that_takes_over_names_the_one_before(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(1)
    desk.call(lambda office: office.claim(job, run_id="dead0123-4567"))
    desk.all("update quel_dagster.job_lease set expires_at = now() - interval '1 minute' where job_id = %s", job.job_id)
    result = launch(instance, job.job_id, tags={"dagster/run_key": "x:2"})
    assert stored_run(instance, result).tags["quel/launch"] == "takes over from dead0123"


def test_an_outcome_that_was_inherited_does_not_stand_for_this_run(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    """A run with a dead worker must not keep showing the outcome of the run that it repeated."""
    job = desk.job(1, input_data="no object")
    result = launch(instance, job.job_id, tags={"quel/outcome": "completed"})
    assert not result.success
    assert stored_run(instance, result).tags["quel/outcome"] == "unfinished"


# --- dry run -----------------------------------------------------------------------------------------


def everything_of(desk: Desk, job: NewlyMade) -> list[Any]:
    """Every row that a run could touch, with the transactions that wrote them."""
    return [
        desk.row(job),
        desk.production(job),
        desk.all("select *, xmin::text from quel_credits where user_id = %s", job.member_id),
        desk.all("select quel_member_credit, xmin::text from quel_member where quel_member_id = %s", job.member_id),
        desk.all("select * from quel_dagster.job_lease where job_id = %s", job.job_id),
    ]


def test_a_dry_run_shows_everything_and_changes_nothing(
    instance: DagsterInstance, desk: Desk, gemini: GeminiStandIn
) -> None:
    job = desk.job(3, job_type="single_batch", input_data=combinations(2, 1), credit=2 * PRICE)
    before = everything_of(desk, job)

    result = launch(instance, job.job_id, dry_run=True)

    assert result.success
    assert everything_of(desk, job) == before
    assert gemini.state.report()["total"] == 0
    shown = output_metadata(result, "plan_units", "plan")
    assert shown["verdict"] == (
        f"A run would make 3 pictures for {3 * PRICE} credits, but the member {job.member_id} has {2 * PRICE}: "
        "enough for 2 of them."
    )
    assert (shown["pictures_to_make"], shown["credits_estimated"]) == (3, 3 * PRICE)
    assert "a linen suit" in shown["would_ask"]
    assert "#### combo1_side_full: 1 of 1 to make" in shown["would_ask"]
    assert materialized(result) == {}
    assert evaluations(result) == {}


def test_a_dry_run_is_none_of_the_runs_of_its_job(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(1)
    result = launch(instance, job.job_id, dry_run=True, tags={"quel/job_id": str(job.job_id)})
    tags = stored_run(instance, result).tags
    assert not tags.get("quel/job_id")
    assert (tags["quel/dry_run_of"], tags["quel/outcome"]) == (str(job.job_id), "dry run")


def test_a_dry_run_that_fails_does_not_end_the_job(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(1, input_data="no object")
    result = launch(instance, job.job_id, dry_run=True, tags={"quel/job_id": str(job.job_id)})
    assert "job_input_data" in failure_of(result)
    before = everything_of(desk, job)
    event = result.filter_events(lambda event: event.event_type is DagsterEventType.RUN_FAILURE)[0]
    with build_run_status_sensor_context(
        sensor_name="settle_failed_runs",
        dagster_instance=instance,
        dagster_run=result.dagster_run.with_tags({**result.dagster_run.tags, "quel/job_id": str(job.job_id)}),
        dagster_event=event,
        resources={"database": DatabaseResource()},
    ) as context:
        settle_failed_runs(context)
    assert everything_of(desk, job) == before


def test_a_dry_run_names_missing_references(instance: DagsterInstance, desk: Desk) -> None:
    references = [{"attachId": 999_999_001, "type": "model"}]
    job = desk.job(1, job_type="single_batch", input_data=combinations(1, individualImageAttachIds=references))
    shown = output_metadata(launch(instance, job.job_id, dry_run=True), "plan_units", "plan")
    assert "none of its 1 references has a row in quel_attach" in shown["would_ask"]


# --- some units alone --------------------------------------------------------------------------------


def test_only_some_units_are_made_and_the_job_ends_as_what_it_has(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(4, job_type="pipeline_stage", input_data=stages(1, 2, 1))

    result = launch(instance, job.job_id, units=["stage1"])

    assert result.success
    row = desk.row(job)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 2, 2)
    assert row["error_message"].startswith("This run's config left out some units: stage0, stage2; ")
    desk.check_books(job)

    assert launch(instance, job.job_id).success
    row = desk.row(job)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 4, 0)
    assert row["error_message"] is None
    desk.check_books(job)


def test_units_that_are_complete_leave_a_job_that_has_ended_as_it_is(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(2, job_type="pipeline_stage", input_data=stages(1, 1))
    launch(instance, job.job_id, units=["stage0"])
    before = desk.row(job)
    result = launch(instance, job.job_id, units=["stage0"])
    assert result.success
    assert desk.row(job) == before
    assert materialized(result)["generated_images"]["outcome"] == "1 of 2 pictures"


def test_an_unknown_unit_is_refused_before_the_claim(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(2, job_type="pipeline_stage", input_data=stages(1, 1))
    before = everything_of(desk, job)
    result = launch(instance, job.job_id, units=["stage0", "stage7"])
    assert failure_of(result) == f"units: job {job.job_id} has no stage7; it has stage0, stage1."
    assert everything_of(desk, job) == before


def test_a_missing_job_is_refused(instance: DagsterInstance, worker: Mapping[str, str]) -> None:
    missing = uuid4()
    result = launch(instance, missing, units=["stage0"])
    assert failure_of(result) == f"Job {missing} is not in quel_production_jobs; was it deleted?"
    assert f"Received new job: {missing}" in log_lines(instance, result.run_id)
