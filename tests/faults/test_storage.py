"""An object store that fails: outages are waited out, refusals stop the job, Gemini is not asked again."""

from __future__ import annotations

import pytest

from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.faults.desk import Desk, eventually
from tests.faults.installation import PRICE
from tests.integration.storage.supabase_server import SERVICE_KEY


def calls(desk: Desk) -> int:
    return int(desk.site.gemini.state.report()["total"])


async def test_errors_that_pass(desk: Desk) -> None:
    desk.site.storage.fail(503, times=3)
    job_id = await desk.job(2)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("completed", 2), row["error_message"]
    assert calls(desk) == 2
    assert desk.charged(job_id) == 2 * PRICE


async def test_a_store_that_refuses_stops_the_job(desk: Desk) -> None:
    desk.site.storage.fail(400)
    # every later call lasts until the job stops
    desk.site.gemini.state.add_rules(Rule(behaviour=Behaviour.OK, times=2), Rule(behaviour=Behaviour.HANG))
    job_id = await desk.job(6)
    desk.excuse("refuses the request", job_id)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"], row["failed_images"]) == ("failed", 0, 6)
    assert "refuses" in row["error_message"]
    assert SERVICE_KEY not in row["error_message"]
    assert calls(desk) <= 4, "calls after the first refusal"
    assert desk.charged(job_id) == 0


@pytest.mark.parametrize("status", [pytest.param(500, marks=pytest.mark.fault_all), 507])
async def test_an_outage_is_waited_out_and_no_picture_is_lost(desk: Desk, status: int) -> None:
    """507: disk full. 32 pictures of two jobs, as many calls."""
    desk.site.storage.fail(status)
    jobs = [await desk.job(16), await desk.job(16)]
    for job_id in jobs:
        await desk.until_status(job_id, "processing")
    await desk.until_calling(2)
    failed = desk.site.storage.failures
    await eventually(lambda: desk.site.storage.failures >= failed + 12, "uploads that were refused")
    desk.site.storage.heal()
    for job_id in jobs:
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"], row["error_message"]) == ("completed", 16, None)
        assert desk.charged(job_id) == 16 * PRICE
    assert calls(desk) == 32, "Gemini was asked again for a picture that it had made"


@pytest.mark.fault_all
async def test_slow(desk: Desk) -> None:
    desk.site.storage.delay = 3.0
    job_id = await desk.job(2)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("completed", 2)
    assert calls(desk) == 2


async def test_connections_reset(desk: Desk) -> None:
    desk.site.proxies.storage.refuse()
    job_id = await desk.job(2)
    await desk.until_calling(2)
    await desk.until_status(job_id, "processing")
    desk.site.proxies.storage.heal()
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"]) == ("completed", 2), row["error_message"]
    assert calls(desk) == 2
