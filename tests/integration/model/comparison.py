"""Compare the rows of jobs, productions, leases and balances with the model: what must hold after every step."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import UUID

from tests.integration.model.model import Job, Model, Payer, Production
from tests.integration.model.world import World


def compare(world: World, model: Model) -> None:
    """Compare everything with the model.

    Raises:
        AssertionError: a row differs.
    """
    jobs = {job.id: job for job in model.jobs}
    productions = {production.id: production for production in model.productions}
    payers = {payer.id: payer for payer in model.payers}
    found = world.everything(list(jobs), list(productions), list(payers))
    for row in found["jobs"]:
        job = jobs.pop(UUID(row["job_id"]))
        _compare_job(row, job)
        _compare_lease(row, job)
    for row in found["productions"]:
        _compare_production(row, productions.pop(UUID(row["production_id"])))
    for row in found["balances"]:
        _compare_balance(row, payers.pop(UUID(row["id"])))
    assert not jobs and not productions and not payers, "rows are gone"
    assert sum(job.is_on_probation for job in model.jobs) <= 1


def _compare_job(row: dict[str, Any], job: Job) -> None:
    made, asked = len(job.filled), len(job.plan)
    assert row["status"] == job.status
    assert row["slots"] == {f"{unit}/{number}": key for (unit, number), key in job.filled.items()}
    assert row["reserved"] == {f"{unit}/{number}": key for (unit, number), (_, key) in job.reserved.items()}
    assert set(row["orphans"]) == job.orphans, "not the objects that may be in the store without a picture"
    assert len(set(row["ids"])) == len(row["ids"]) == row["completed_images"] == made <= asked
    assert row["ids"] == row["in_order"], "the ids are not in the order of the slots"
    assert row["charged"] == made, "not one charge for each picture, by the payer, for the production"
    assert row["refunds"] == len(job.refunded)
    assert row["deaths"] == job.deaths
    if not job.open:
        assert row["completed_at"] is not None
        assert made == asked or row["error_message"], "fewer pictures than planned, and no reason"
        assert row["failed_images"] == (asked - made if job.status in {"completed", "failed"} else 0)


def _compare_lease(row: dict[str, Any], job: Job) -> None:
    lease = job.lease
    expected = lease and [lease.token, lease.run, lease.process, lease.live, lease.handed_over, lease.probation]
    assert row["lease"] == expected


def _compare_production(row: dict[str, Any], production: Production) -> None:
    assert (row["status"], row["count"]) == (production.status, production.count)
    assert row["pictures"] == production.pictures, "not the pictures of its jobs, in order"


def _compare_balance(row: dict[str, Any], payer: Payer) -> None:
    assert row["balance"] == payer.balance >= 0
    assert row["amounts"] == payer.ledger
    running = list(itertools.accumulate(payer.ledger, initial=payer.opening))[1:]
    assert row["balances"] == running, "balance_after is not the running sum"
