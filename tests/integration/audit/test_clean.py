"""Correct and moving jobs are not breaches."""

from __future__ import annotations

import asyncio

from dagster import DagsterRunStatus

from quel_dagster.adapters.queue import DEAD
from quel_dagster.jobs.model import JobStatus
from quel_dagster.pipeline.audit import INVARIANTS
from tests.integration.audit.conftest import House


async def test_jobs_made_with_the_real_functions_pass_every_invariant(house: House) -> None:
    member = await house.office.member(credit=500)
    organization = await house.office.organization(member, credit=500)
    await house.finished(3)
    await house.finished(2, member_id=member, org_id=organization)
    await house.finished(2, member_id=member)
    await house.finished(3, made=1)
    await house.finished(2, made=0, status=JobStatus.FAILED, ended=DagsterRunStatus.FAILURE)
    await house.finished(2, made=1, status=JobStatus.CANCELLED, ended=DagsterRunStatus.CANCELED)
    await house.finished(2, made=1, status=JobStatus.USER_CANCELLED)
    await house.at_work()
    house.queue.push((await house.office.job(2)).job_id)

    async with asyncio.timeout(120):  # a suspicion would be looked at again after this pause
        report = await house.audit(confirm_seconds=600)

    assert [breach.line for breach in report.breaches] == []
    assert [finding.code for finding in report.findings] == list(INVARIANTS)
    assert report.clean
    assert report.complete
    looked_at = {finding.code: finding.checked for finding in report.findings}
    assert looked_at == {
        "I1": 7, "I2": 11, "I3": 11, "I4": 11, "I5": 9, "I6": 22, "I7": 9, "I8": 11, "I9": 7, "I10": 1, "I11": 1,
        "I12": 22, "I13": 1, "I14": 7,
    }  # fmt: skip


async def test_dead_letters_that_others_wrote_end_no_audit(house: House) -> None:
    """`LPUSH jobs:dead hello` ended it in a traceback."""
    job = await house.office.job(2)
    house.queue.client.lpush(DEAD, "hello", b"\xff", "[" * 70_000, '{"value": 7}', str(job.job_id))
    report = await house.audit()
    assert [breach.line for breach in report.breaches] == []
    assert report.complete
