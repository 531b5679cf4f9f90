"""The sweep and the settle sensors: every run ends its job; a job that lost its machines is pushed again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunStatusSensorDefinition,
    SkipReason,
    build_sensor_context,
    execute_job,
    reconstructable,
)

from quel_dagster.adapters.queue import JobQueue
from quel_dagster.definitions import defs
from quel_dagster.pipeline.assets import run_config
from quel_dagster.pipeline.recovery import stranded_jobs_sensor
from quel_dagster.pipeline.resources import DatabaseResource, QueueResource
from quel_dagster.platform import daemon
from quel_dagster.platform.run_queue import RunQueue
from quel_dagster.platform.runs import live_jobs
from tests.integration.conftest import NewlyMade, claim
from tests.integration.pipeline.conftest import Desk
from tests.integration.pipeline.test_dead_runs import settle
from tests.integration.pipeline.test_fairness import ORIGIN
from tests.integration.pipeline.test_job import failure_of, image_job, stored_run


def old_job(desk: Desk, member: UUID | None = None) -> NewlyMade:
    """A job that nothing has, written long ago."""
    job = desk.job(2)
    desk.all(
        "insert into quel_member (quel_member_id, quel_email, provider, provider_sub, quel_member_credit)"
        " select coalesce(%s, gen_random_uuid()), gen_random_uuid()::text, 'sandbox', gen_random_uuid()::text, 1000"
        " on conflict do nothing",
        member,
    )
    desk.all(
        "insert into quel_production_jobs (production_id, job_type, batch_index, total_images, job_input_data,"
        " quel_member_id, created_at, updated_at) select production_id, job_type, batch_index, total_images,"
        " job_input_data, coalesce(%s, quel_member_id), now() - interval '9 years', now() - interval '9 years'"
        " from quel_production_jobs where job_id = %s",
        member,
        job.job_id,
    )
    (row,) = desk.all(
        "select job_id from quel_production_jobs where production_id = %s and job_id <> %s",
        job.production_id,
        job.job_id,
    )
    return NewlyMade(row["job_id"], job.production_id, member or job.member_id, None, 2)


@pytest.fixture(autouse=True)
def no_jobs_of_other_tests(desk: Desk) -> None:
    """A sweep handles up to 500 jobs that other tests left open, which takes 5 s."""
    desk.all("update quel_production_jobs set job_status = 'cancelled' where job_status in ('pending', 'processing')")


def sweep(instance: DagsterInstance) -> str:
    resources = {"queue": QueueResource(), "database": DatabaseResource()}
    with build_sensor_context(instance=instance, resources=resources) as context:
        answer = stranded_jobs_sensor(context)
    assert isinstance(answer, SkipReason)
    return str(answer.skip_message)


def pushes_of(queue: JobQueue, job: NewlyMade) -> int:
    """How often the job was pushed again since the last look; its id is taken out of the lists."""
    claim(queue, 10_000)
    deliveries = queue.deliveries()
    queue.finish(deliveries)
    return sum(delivery.copies for delivery in deliveries if delivery.job_id == job.job_id)


def expire_lease(desk: Desk, job: NewlyMade) -> None:
    """The run of this job is long gone: its host was killed."""
    desk.all(
        "update quel_dagster.job_lease set claimed_at = now() - interval '2 hours',"
        " expires_at = now() - interval '1 hour' where job_id = %s",
        job.job_id,
    )


@pytest.mark.parametrize("begun", [False, True], ids=["id lost", "host killed"])
def test_job_that_loses_its_machines_repeatedly_is_pushed_again_each_time(
    instance: DagsterInstance, desk: Desk, queue: JobQueue, begun: bool
) -> None:
    job = old_job(desk)
    pushed = []
    for life in range(6):
        if begun:
            desk.call(lambda office, life=life: office.processing(job, run_id=f"run-{life}"))
            expire_lease(desk, job)
        sweep(instance)
        pushed.append(pushes_of(queue, job))

    assert pushed == [1] * 6
    assert desk.row(job)["job_status"] == ("processing" if begun else "pending")
    assert not [letter for letter in queue.letters() if letter.job_id == job.job_id]


# --- runs that were not launched by the sensor ---------------------------------------------------------


def waiting_run(instance: DagsterInstance, job_id: UUID, status: DagsterRunStatus, *, dry_run: bool = False) -> str:
    """A run launched in the web UI: it has no tag of its job."""
    run = DagsterRun(
        job_name="image_job",
        run_id=str(uuid4()),
        run_config=run_config(job_id, dry_run=dry_run),
        status=status,
        remote_job_origin=ORIGIN,
    )
    return instance.run_storage.add_run(run).run_id


def queued_by_hand(instance: DagsterInstance, job_id: UUID, *, dry_run: bool = False) -> str:
    """The same, submitted to Dagster's queue."""
    run_id = waiting_run(instance, job_id, DagsterRunStatus.NOT_STARTED, dry_run=dry_run)
    coordinator: RunQueue = RunQueue()
    coordinator.register_instance(instance)
    coordinator.submit_run(SimpleNamespace(dagster_run=instance.get_run_by_id(run_id)))  # type: ignore[arg-type]
    return run_id


def test_run_launched_by_hand_carries_its_job_while_it_waits(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(1)
    run = instance.get_run_by_id(queued_by_hand(instance, job.job_id))
    assert run is not None
    assert (run.status, run.tags["quel/job_id"]) == (DagsterRunStatus.QUEUED, str(job.job_id))
    assert live_jobs(instance, [job.job_id]) == {job.job_id}, "the sweep would push it"


def test_dry_run_launched_by_hand_is_no_run_of_the_job(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(1)
    run = instance.get_run_by_id(queued_by_hand(instance, job.job_id, dry_run=True))
    assert run is not None
    assert "quel/job_id" not in run.tags


@pytest.mark.parametrize("tagged", [True, False], ids=["as submitted", "by an older version"])
def test_terminate_of_a_queued_run_launched_by_hand_cancels_the_job(
    instance: DagsterInstance, desk: Desk, queue: JobQueue, tagged: bool
) -> None:
    job = old_job(desk)
    if tagged:
        run_id = queued_by_hand(instance, job.job_id)
    else:
        run_id = waiting_run(instance, job.job_id, DagsterRunStatus.QUEUED)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_run_canceled(run)

    settle(instance, run_id)

    assert desk.row(job)["job_status"] == "cancelled"
    sweep(instance)
    assert pushes_of(queue, job) == 0, "it would be made and charged"


@pytest.mark.parametrize("status", ["cancelled", "failed"])
def test_runs_from_materialize_are_settled(instance: DagsterInstance, desk: Desk, status: str) -> None:
    """Dagster runs them as `__ASSET_JOB`."""
    job = desk.job(1)
    repository = defs.get_repository_def()
    name = "settle_cancelled_runs" if status == "cancelled" else "settle_failed_runs"
    sensor = repository.get_sensor_def(name)
    assert isinstance(sensor, RunStatusSensorDefinition)

    def tick(cursor: str | None) -> Any:
        with build_sensor_context(
            instance,
            cursor=cursor,
            repository_def=repository,
            resources={"database": DatabaseResource()},
            sensor_name=name,
        ) as context:
            return sensor.evaluate_tick(context)

    before = tick(None).cursor
    run = instance.create_run_for_job(
        defs.resolve_implicit_global_asset_job_def(), run_config=run_config(job.job_id), status=DagsterRunStatus.STARTED
    )
    assert run.job_name == "__ASSET_JOB"
    if status == "cancelled":
        instance.report_run_canceled(run)
    else:
        instance.report_run_failed(run, "its worker is gone")
        instance.add_run_tags(run.run_id, {"dagster/will_retry": "false"})
    tick(before)
    assert desk.row(job)["job_status"] == status


def test_run_of_a_foreign_kind_ends_without_touching_its_row(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(1, path="landing")
    before = desk.row(job)
    run = instance.create_run_for_job(image_job(), run_config=run_config(job.job_id), status=DagsterRunStatus.STARTED)
    instance.report_run_canceled(run)
    settle(instance, run.run_id)
    assert desk.row(job) == before


def test_reexecution_of_a_live_run_is_refused(instance: DagsterInstance, desk: Desk) -> None:
    """It took the lease of the run that it repeats: the live run ended red."""
    job = desk.job(1)
    live = instance.create_run_for_job(
        image_job(),
        run_config=run_config(job.job_id),
        tags={"quel/job_id": str(job.job_id)},
        status=DagsterRunStatus.STARTED,
    )
    claimed = desk.call(lambda office: office.claim(job, run_id=live.run_id))

    again = execute_job(
        reconstructable(image_job),
        instance=instance,
        run_config=run_config(job.job_id),
        tags={"dagster/parent_run_id": live.run_id, "dagster/root_run_id": live.run_id},
    )

    tags = stored_run(instance, again).tags
    assert (again.success, tags["quel/outcome"], tags["quel/job_id"]) == (True, "refused", str(job.job_id))
    assert desk.call(lambda office: office.renew(job, claimed)), "the live run lost its lease"
    assert desk.row(job)["job_status"] == "pending"


def test_run_of_a_foreign_kind_fails_without_a_claim(instance: DagsterInstance, desk: Desk) -> None:
    job = desk.job(1, path="multiview")
    before = desk.row(job)
    result = execute_job(
        reconstructable(image_job), instance=instance, run_config=run_config(job.job_id), raise_on_error=False
    )
    assert not result.success
    assert "is a job of kind multiview, which only the older worker makes" in failure_of(result)
    settle(instance, result.run_id)
    assert desk.row(job) == before
    assert not desk.all("select 1 from quel_dagster.job_lease where job_id = %s", job.job_id)


# --- retries that wait in the daemon -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "newer_run", "retried"),
    [
        ("completed", "refused", True),
        (None, False, True),
        ("failed", False, False),
        ("cancelled", False, False),
        ("completed", True, False),
        ("completed", False, True),  # it tells the story, and makes nothing
    ],
)
@pytest.mark.parametrize("restarted", [False, True], ids=["same daemon", "restarted daemon"])
@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")
def test_retry_that_waited_is_made_only_while_its_job_needs_it(
    *,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    end: str | None,
    newer_run: bool | str,
    retried: bool,
    restarted: bool,
) -> None:
    job = desk.job(1)
    made: list[str] = []
    answers = [ConnectionError("no code server")]

    def retry_run(run: Any, _context: Any) -> None:
        if answers:
            raise answers.pop()
        made.append(run.run_id)

    monkeypatch.setattr(daemon, "retry_run", retry_run)
    with DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True, "max_retries": 3}}) as own:
        context: Any = SimpleNamespace(instance=own)
        retries = daemon.PromptRetryDaemon()
        list(retries.run_iteration(context))
        run = own.create_run_for_job(
            image_job(),
            run_config=run_config(job.job_id),
            tags={"quel/job_id": str(job.job_id)},
            status=DagsterRunStatus.STARTED,
        )
        own.report_run_failed(run)
        list(retries.run_iteration(context))
        assert list(retries._waiting) == [run.run_id]
        if end:
            desk.all("update quel_production_jobs set job_status = %s where job_id = %s", end, job.job_id)
        if newer_run:
            outcome = {"quel/outcome": newer_run} if isinstance(newer_run, str) else {}
            own.create_run_for_job(
                image_job(), run_config=run_config(job.job_id), tags={"quel/job_id": str(job.job_id), **outcome}
            )
        if restarted:
            retries = daemon.PromptRetryDaemon()

        list(retries.run_iteration(context))

        assert made == ([run.run_id] if retried else [])
        assert not retries._waiting
        after = own.get_run_by_id(run.run_id)
        assert after is not None
        assert after.tags["dagster/will_retry"] == ("true" if retried else "false")
