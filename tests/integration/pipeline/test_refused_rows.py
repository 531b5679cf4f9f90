"""A row that PostgreSQL refuses to update: recovered three times, given up once, with PostgreSQL's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID, uuid4

import psycopg
import pytest
from dagster import DagsterInstance, execute_job, reconstructable

from quel_dagster.adapters.queue import JobQueue
from quel_dagster.pipeline.assets import run_config
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from tests.integration.conftest import NewlyMade, Office
from tests.integration.pipeline.conftest import Desk
from tests.integration.pipeline.test_dead_runs import settle
from tests.integration.pipeline.test_job import failure_of, image_job, stored_run
from tests.integration.pipeline.test_recovery import (
    expire_lease,
    no_jobs_of_other_tests,
    old_job,
    pushes_of,
    sweep,
)

__all__ = ["no_jobs_of_other_tests"]


@pytest.fixture
def refusing_table(worker: Mapping[str, str]) -> Iterator[UUID]:
    """A trigger of the web app without the privilege to write its table, for jobs of this member."""
    member = uuid4()
    with psycopg.connect(worker["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            f"""
            create function public.mirror_job() returns trigger language plpgsql as $$
            begin
                if new.quel_member_id = '{member}' then
                    raise insufficient_privilege using message = 'permission denied for table job_mirror';
                end if;
                return new;
            end $$;
            create trigger mirror_job before update on public.quel_production_jobs
                for each row execute function public.mirror_job();
            """.encode()
        )
        yield member
        connection.execute("drop trigger mirror_job on public.quel_production_jobs")
        connection.execute("drop function public.mirror_job()")


def refused_run(desk: Desk, job: NewlyMade, words: str = "permission denied for table job_mirror") -> None:
    """A run of this job that PostgreSQL refused long ago."""

    async def claim_and_note(office: Office) -> None:
        claim = await office.claim(job, run_id=uuid4().hex)
        await office.database.work.note_trouble(job.job_id, claim.token, f"PostgreSQL refused: {words}")

    desk.call(claim_and_note)
    expire_lease(desk, job)


def test_job_with_a_refused_row_is_recovered_three_times_and_dead_lettered_once(
    instance: DagsterInstance, desk: Desk, queue: JobQueue, refusing_table: UUID
) -> None:
    job = old_job(desk, refusing_table)
    refused_run(desk, job)
    pushed = []
    for _ in range(8):
        sweep(instance)
        pushed.append(pushes_of(queue, job))
        if pushed[-1]:
            refused_run(desk, job)

    assert pushed == [1, 1, 1, 0, 0, 0, 0, 0]
    (letter,) = [letter for letter in queue.letters() if letter.job_id == job.job_id]
    assert "its row could not be written, tried 4 times" in letter.reason
    assert "permission denied for table job_mirror" in letter.reason
    assert desk.row(job)["job_status"] == "pending"


def test_job_with_pictures_that_cannot_be_written_ends_failed_with_postgresqls_words(
    instance: DagsterInstance, desk: Desk, queue: JobQueue
) -> None:
    """The end of the job is accepted, unlike the rows of its pictures."""
    job = old_job(desk)
    for _ in range(4):
        refused_run(desk, job, "permission denied for table quel_attach")
        sweep(instance)
        pushes_of(queue, job)
    row = desk.row(job)
    assert row["job_status"] == "failed"
    assert row["error_message"].startswith("Given up: its row could not be written, tried 4 times. PostgreSQL refused:")
    assert "permission denied for table quel_attach" in row["error_message"]


def test_recoveries_from_lost_machines_spend_none_of_a_refused_row(
    instance: DagsterInstance, desk: Desk, queue: JobQueue, refusing_table: UUID
) -> None:
    job = old_job(desk, refusing_table)
    for _ in range(4):
        sweep(instance)
        pushes_of(queue, job)
    refused_run(desk, job)
    sweep(instance)
    assert pushes_of(queue, job) == 1


def test_run_of_a_job_with_a_refused_row_fails_with_postgresqls_reason_and_is_not_retried(
    instance: DagsterInstance, desk: Desk, refusing_table: UUID, gemini: GeminiStandIn
) -> None:
    job = old_job(desk, refusing_table)
    result = execute_job(
        reconstructable(image_job), instance=instance, run_config=run_config(job.job_id), raise_on_error=False
    )
    assert not result.success
    assert "permission denied for table job_mirror" in failure_of(result)
    assert stored_run(instance, result).tags["dagster/retry_on_asset_or_op_failure"] == "false"
    (lease,) = desk.all("select trouble from quel_dagster.job_lease where job_id = %s", job.job_id)
    assert "permission denied for table job_mirror" in lease["trouble"], "the sweep would push it for ever"
    settle(instance, result.run_id)  # it cannot end the job either, and logs that
    assert desk.row(job)["job_status"] == "pending"
    assert gemini.state.report()["total"] == 0


def test_dropped_letter_does_not_come_back_and_a_requeued_one_begins_again(
    instance: DagsterInstance, desk: Desk, queue: JobQueue, refusing_table: UUID
) -> None:
    job = old_job(desk, refusing_table)
    for _ in range(4):
        refused_run(desk, job)
        sweep(instance)
        pushes_of(queue, job)
    (letter,) = [letter for letter in queue.letters() if letter.job_id == job.job_id]
    queue.drop(letter)
    sweep(instance)
    assert pushes_of(queue, job) == 0
    assert not [letter for letter in queue.letters() if letter.job_id == job.job_id]
    desk.call(lambda office: office.database.recovery.forget_recoveries(job.job_id))
    sweep(instance)
    assert pushes_of(queue, job) == 1


def test_cancelled_job_that_cannot_be_ended_holds_up_no_other(
    instance: DagsterInstance, desk: Desk, queue: JobQueue, refusing_table: UUID
) -> None:
    stuck, other = old_job(desk, refusing_table), old_job(desk)
    queue.cancel(stuck.job_id)
    queue.cancel(other.job_id)
    said = sweep(instance)
    assert f"Job {stuck.job_id} was cancelled, and could not be ended: PostgreSQL refused: permission denied" in said
    assert desk.row(other)["job_status"] == "user_cancelled"
