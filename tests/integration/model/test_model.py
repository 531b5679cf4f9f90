"""The transactions of PostgreSQL do what the model says, in any order of acts of two workers, users and operators.

`test_a_fault_that_is_put_back_is_found` puts a fault into a function of PostgreSQL, and takes it out again. To try
another one, add a line: the function, a part of its definition, the fault in its place, and a word of the message
that the model must fail with. Two are tried each time; all of them with

    MODEL_STEPS=10000 python -m pytest tests/integration/model -k put_back
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from quel_dagster.services.endpoints import Endpoints
from tests.integration.model.machine import Machine
from tests.integration.model.world import World

#: `make soak` sets 200,000.
STEPS = int(os.environ.get("MODEL_STEPS", "2000"))
IS_SOAK = STEPS >= 10_000
#: `make test` is the same each time; `make soak` looks further
SEED = int(os.environ.get("MODEL_SEED", secrets.randbelow(10**6) if IS_SOAK else 0))

_SETTINGS = settings(
    stateful_step_count=50,
    max_examples=50,
    deadline=None,
    database=None,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def world(endpoints: Endpoints) -> Iterator[World]:
    world = World(endpoints.database_url)
    yield world
    world.close()


def run(world: World, steps: int, **options: object) -> None:
    """Take at least so many steps, in rounds of 50 examples; a failure names the seed of its round."""
    world.steps = 0
    for number in itertools.count(SEED):
        machine = seed(number)(lambda: Machine(world))
        try:
            run_state_machine_as_test(machine, settings=settings(_SETTINGS, **options))  # type: ignore[arg-type]
        except BaseException as error:
            error.add_note(f"after {world.steps:,} steps; MODEL_SEED={number} repeats the round")
            raise
        if world.steps >= steps:
            return


@contextmanager
def changed(world: World, function: str, old: str, new: str) -> Iterator[None]:
    """The function with a fault put into it."""
    definition: str = world.value("select pg_get_functiondef(%s::regproc)", f"quel_dagster.{function}")
    assert definition.count(old) == 1, definition
    world.rows(definition.replace(old, new).replace("%", "%%"))
    try:
        yield
    finally:
        world.rows(definition.replace("%", "%%"))


def test_every_order_of_steps_does_what_the_model_does(world: World) -> None:
    run(world, STEPS)


BALANCE_FIRST = """
    perform 1 from public.quel_production_jobs j join public.quel_organization o using (org_id)
    where j.job_id = p_job for no key update of o;
    perform 1 from public.quel_production_jobs j join public.quel_member m using (quel_member_id)
    where j.job_id = p_job for no key update of m;
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;"""
PRODUCTION_FIRST = """
    perform 1 from public.quel_production_jobs j join public.quel_production_photo p using (production_id)
    where j.job_id = p_job for no key update of p;
    select * into v_job from public.quel_production_jobs where job_id = p_job for update;"""
#: `make test` puts back two faults that were really there; `make soak` the others too.
IN_THE_SOAK = pytest.mark.skipif(not IS_SOAK, reason="minutes; `make soak` runs it")
JOB = "\n    select * into v_job from public.quel_production_jobs where job_id = p_job for update;"


@pytest.mark.parametrize(
    ("function", "old", "new", "told"),
    [
        pytest.param("write_end_v1", "coalesce(v_error, format(", "coalesce(v_error, '', format(", "no reason",
                     id="ends_without_a_reason"),
        pytest.param("settle_job_v2", JOB, PRODUCTION_FIRST, "lock order", id="settle_locks_production_first"),
        pytest.param("commit_picture_v2", JOB, BALANCE_FIRST, "lock order", id="commit_locks_balance_first",
                     marks=IN_THE_SOAK),
        pytest.param("reserve_slot_v1", JOB, BALANCE_FIRST, "lock order", id="reserve_locks_balance_first",
                     marks=IN_THE_SOAK),
        pytest.param("end_abandoned_job_v2", JOB, PRODUCTION_FIRST, "lock order", id="end_locks_production_first",
                     marks=IN_THE_SOAK),
        pytest.param("reserve_slot_v1", "v_balance - v_reserved < p_price", "false", "",
                     id="reserves_more_than_the_balance", marks=IN_THE_SOAK),
        pytest.param("commit_picture_v2", "not found or not quel_dagster.holds_lease(p_job, p_token)", "not found", "",
                     id="commits_without_the_lease", marks=IN_THE_SOAK),
        pytest.param("reserve_slot_v1", "v_slot.attach_id is not null", "false", "", id="makes_a_picture_twice",
                     marks=IN_THE_SOAK),
        pytest.param("settle_job_v2", "not found or not quel_dagster.holds_lease(p_job, p_token)", "not found", "",
                     id="settles_without_the_lease", marks=IN_THE_SOAK),
        pytest.param("end_abandoned_job_v2", "v_lease.expires_at > clock_timestamp()", "false", "",
                     id="ends_a_job_at_work", marks=IN_THE_SOAK),
        pytest.param("claim_job_v3", "found and v_lease.expires_at > clock_timestamp()", "false", "",
                     id="claims_a_job_at_work", marks=IN_THE_SOAK),
        pytest.param("write_end_v1",
                     "perform quel_dagster.drop_open_slots_v1(p_job.job_id, 'its job ended without it')",
                     "delete from quel_dagster.picture_slot where job_id = p_job.job_id and attach_id is null", "",
                     id="forgets_what_lies_in_the_store", marks=IN_THE_SOAK),
        pytest.param("commit_picture_v2", "v_by is not null", "false", "", id="commits_after_a_cancel",
                     marks=IN_THE_SOAK),
        pytest.param("keep_cancel_v2", "set actor = null", "set actor = c.actor", "",
                     id="operators_cancel_hides_the_users", marks=IN_THE_SOAK),
        pytest.param("refund_v1", "transaction_type = 'refund' limit 1", "false limit 1", "", id="refunds_twice",
                     marks=IN_THE_SOAK),
        pytest.param("refund_v1", "org_credit = org_credit - v_charge.amount", "org_credit = org_credit", "",
                     id="refunds_nothing_to_an_organization", marks=IN_THE_SOAK),
        pytest.param("claim_job_v3", "d.deaths + 1 end", "1 end", "", id="counts_one_death_alone", marks=IN_THE_SOAK),
        pytest.param("claim_job_v3", "deaths = case when v_made > d.pictures", "deaths = case when false", "",
                     id="counts_deaths_after_progress",
                     marks=IN_THE_SOAK),
        pytest.param("claim_job_v3", "not v_lease.handed_over", "true", "", id="counts_a_hand_over_as_a_death",
                     marks=IN_THE_SOAK),
        pytest.param("claim_job_v3", "p.worker <> all (v_death.workers)", "true", "",
                     id="takes_its_own_deaths_for_others", marks=IN_THE_SOAK),
        pytest.param("claim_job_v3", "v_lease.worker <> p_worker", "true", "",
                     id="counts_a_second_claim_of_one_process_as_a_death", marks=IN_THE_SOAK),
        pytest.param("claim_job_v3", "where probation and", "where false and", "",
                     id="tries_suspected_jobs_side_by_side", marks=IN_THE_SOAK),
        pytest.param("refresh_production_v2", "count = v_made", "count = coalesce(generated_image_count, 0) + v_made",
                     "", id="adds_pictures_to_the_count_again", marks=IN_THE_SOAK),
        pytest.param("refresh_production_v2", "when v_open then", "when false then", "",
                     id="ends_a_production_with_its_first_job", marks=IN_THE_SOAK),
    ],
)  # fmt: skip
def test_a_fault_that_is_put_back_is_found(world: World, function: str, old: str, new: str, told: str) -> None:
    with changed(world, function, old, new), pytest.raises(BaseException) as caught:
        run(world, 20_000 if IS_SOAK else 2_000, phases=[Phase.generate])
    found = list(_leaves(caught.value))
    assert any(isinstance(error, AssertionError) and told in str(error) for error in found), found
    assert not any(isinstance(error, psycopg.Error) for error in found), found


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
