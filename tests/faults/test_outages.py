"""Servers that refuse for longer than a retry lasts: jobs at work and jobs that wait are made, and no run fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from dagster import DagsterRunStatus

from tests.faults.desk import Desk
from tests.faults.installation import PRICE, Installation
from tests.faults.outages import Outage, postgres_is_read_only, redis_is_a_replica


@asynccontextmanager
async def redis_is_unreachable(site: Installation) -> AsyncIterator[None]:
    """Every connection to Redis is refused, for workers and platform."""
    proxies = (site.proxies.redis, site.proxies.platform_redis)
    for proxy in proxies:
        proxy.refuse()
    try:
        yield
    finally:
        for proxy in proxies:
            proxy.heal()


@pytest.mark.fault_all
@pytest.mark.parametrize(
    ("outage", "seconds"),
    [
        pytest.param(redis_is_a_replica, 25.0, id="redis_readonly"),
        pytest.param(redis_is_unreachable, 90.0, id="redis_unreachable"),
        pytest.param(postgres_is_read_only, 20.0, id="postgres_read_only"),
    ],
)
async def test_an_outage_fails_no_run_and_loses_no_picture(desk: Desk, outage: Outage, seconds: float) -> None:
    """Before: 3 of 5 jobs failed within 13 s, with no picture."""
    desk.site.gemini.state.latency = 5.0
    jobs = [await desk.job(4) for _ in range(5)]
    await desk.until_calling(1)
    async with outage(desk.site):
        await asyncio.sleep(seconds)
    for job_id in jobs:
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"], row["error_message"]) == ("completed", 4, None)
        assert desk.charged(job_id) == 4 * PRICE
    await desk.until_at_rest()
    ends = {job_id: [run.status for run in desk.runs(job_id)] for job_id in jobs}
    assert all(DagsterRunStatus.FAILURE not in statuses for statuses in ends.values()), ends
