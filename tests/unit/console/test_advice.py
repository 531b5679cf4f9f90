"""The advice about a job, in each of its states."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from quel_dagster.adapters.database.jobs import LeaseNow, WholeJob, WholeProduction
from quel_dagster.console.advice import advice
from quel_dagster.console.inspection import InRedis, InspectedPicture, JobInspection, Letter, Missing, PayerNow
from quel_dagster.console.runs import JobRun
from quel_dagster.jobs.model import JobStatus

JOB_ID = UUID("6f9619ff-8b86-4d01-b42d-00cf4fc964ff")
NOWHERE = InRedis(position=None, waiting=0, processing=False, misses=0, cancel_flag=False)
MISSING = Missing(slot="u0000_p0001", unit="general")
LEASE = LeaseNow(run_id="run-7", worker="host:1", seconds_left=6.0)
MOMENT = datetime(2026, 11, 22, tzinfo=UTC)
PICTURE = InspectedPicture(
    attach_id=39100,
    slot=None,
    number=None,
    unit=None,
    key=None,
    size=None,
    amount=-20,
    balance_after=980,
    org_id=None,
    usd=None,
)
JOB = WholeJob(
    job_id=JOB_ID,
    job_type="simple_general",
    total_images=4,
    completed_images=0,
    failed_images=0,
    error_message=None,
    retry_count=0,
    estimated_credits=80,
    created_at=MOMENT,
    started_at=None,
    completed_at=None,
    job_input_data={},
)
PRODUCTION = WholeProduction(production_id=JOB_ID, production_name=None, production_status="pending", attach_ids=None)


def run(status: str = "QUEUED") -> JobRun:
    return JobRun(run_id="run-9", status=status, live=True, created_at=MOMENT)


def job(status: JobStatus, **changes: Any) -> JobInspection:
    values: dict[str, Any] = {
        "job": JOB,
        "production": PRODUCTION,
        "status": status,
        "plan": None,
        "plan_error": None,
        "unusable_references": {},
        "pictures": (),
        "missing": (MISSING,),
        "credits": 0,
        "price": 20,
        "payer": PayerNow(kind="member", id=None, name="Mina", credit=1000),
        "lease": None,
        "cancel_kept_at": None,
        "recovered_at": (),
        "redis": NOWHERE,
        "redis_unknown": None,
        "runs": (),
        "runs_unknown": None,
    }
    return JobInspection(**{**values, **changes})


POOR = PayerNow(kind="organization", id=None, name="Atelier", credit=19)
P, W, D, F, U = (
    JobStatus.PENDING,
    JobStatus.PROCESSING,
    JobStatus.COMPLETED,
    JobStatus.FAILED,
    JobStatus.USER_CANCELLED,
)


@pytest.mark.parametrize(
    ("inspected", "sentences"),
    [
        (job(D, missing=(), pictures=(PICTURE, PICTURE)), ["all its pictures are made"]),
        (job(D, missing=(), pictures=(PICTURE,)), ["its picture is made"]),
        (job(D), [f"only the 1 missing picture: quel retry {JOB_ID}"]),
        (job(F, payer=POOR), ["organization Atelier has 19 credits, and the missing pictures cost 20", "quel retry"]),
        (job(F, payer=POOR.model_copy(update={"refusal": "Organization x is deleted"})), ["is deleted", "quel retry"]),
        (job(F, unusable_references={7: "gone"}), ["(7): the user has to upload", "quel retry"]),
        (job(F, plan_error="stages: junk"), ["(stages: junk), and a retry cannot change that"]),
        (job(U), ["final"]),
        (job(P, redis=NOWHERE.model_copy(update={"position": 3, "waiting": 9})), ["number 3 of 9 in jobs:queue"]),
        (
            job(P, redis=NOWHERE.model_copy(update={"position": 1, "waiting": 1})),
            ["number 1 of 1 in jobs:queue, the n"],
        ),
        (job(P, redis=NOWHERE.model_copy(update={"processing": True})), ["the queue sensor has claimed it"]),
        (job(P, runs=(run(),)), ["its run is QUEUED"]),
        (
            job(P),
            ["in no queue and has no run. The sweep pushes such jobs again after a minute or two; at once: quel"],
        ),
        (job(P, runs_unknown="Dagster is unreachable"), ["unknown because a system does not answer"]),
        (job(P, redis=None), ["unknown because a system does not answer"]),
        (job(P, payer=POOR, runs=(run(),)), ["its run is QUEUED", "add credits first"]),
        (job(P, cancel_kept_at=MOMENT), ["It is being cancelled"]),
        (job(W, redis=NOWHERE.model_copy(update={"cancel_flag": True}), lease=LEASE), ["It is being cancelled"]),
        (job(W, lease=LEASE), ["run run-7 works on it on host:1"]),
        (job(W, lease=LEASE.model_copy(update={"seconds_left": -12.4})), ["(host:1) expired 12 s ago"]),
        (job(W, runs=(run("STARTED"),)), ["run run-9 is STARTED, and is about to claim it"]),
        (job(W), ["retry --force"]),
        (
            job(F, redis=NOWHERE.model_copy(update={"letters": (Letter(name="abc", reason="given up"),)})),
            ["quel retry", "(given up): quel dead show abc"],
        ),
    ],
)
def test_advice(inspected: JobInspection, sentences: list[str]) -> None:
    given = advice(inspected)
    assert len(given) == len(sentences), given
    for sentence, part in zip(given, sentences, strict=True):
        assert part in sentence
