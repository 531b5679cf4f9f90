"""The negative control, on real processes that are really killed.

The same jobs, the same kills, twice: with the transaction taken apart in the older worker's order the audit must find
breaches, as it is it must find none. Were it content with both, no other test here would say anything.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from tests.faults.desk import Desk, JobEndedError, print_line
from tests.faults.installation import Installation

JOBS, PICTURES, KILLS = 3, 8, 4


async def _work_under_kills(desk: Desk, rng: random.Random) -> None:
    """Run jobs of one member concurrently and kill their processes at random moments."""
    desk.site.gemini.state.latency = 0.1
    member = await desk.member(100_000)
    jobs = [await desk.job(PICTURES, member=member) for _ in range(JOBS)]
    await desk.until_made(jobs[0], 1)
    for _ in range(KILLS):
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        working = [job_id for job_id in jobs if desk.status(job_id) == "processing"]
        if working:
            with suppress(JobEndedError):
                await desk.kill_child_of(rng.choice(working))
    await desk.until_at_rest()


@pytest.mark.own_hosts
@pytest.mark.parametrize("older", [True, pytest.param(False, marks=pytest.mark.fault_all)])
async def test_the_order_of_steps(site: Installation, rng: random.Random, older: bool) -> None:
    site.add_host("control", children=2, environment={"FAULTS_OLDER_ORDER": "1"} if older else {})
    desk = Desk.at(site)
    try:
        await _work_under_kills(desk, rng)
        report = await desk.audit(grace_seconds=5.0)
        lost = desk.judge().lost
    finally:
        await desk.aclose()
    found = {finding.code: finding.total for finding in report.findings if finding.total}
    print_line(f"breaches: {found}")
    if not older:
        assert not found, [breach.line for breach in report.breaches]
        assert not lost, list(map(str, lost))
        return
    # balances written over each other, and what a kill between two steps leaves: charges and pictures of no job
    assert found.keys() & {"I1", "I2"}, found
    assert found.keys() & {"I3", "I4", "I6"}, found
