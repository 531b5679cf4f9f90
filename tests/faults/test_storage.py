"""An object store that fails: bounded retries, Gemini is not asked again, nothing is charged."""

from __future__ import annotations

import pytest

from tests.faults.desk import Desk
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


@pytest.mark.parametrize("status", [pytest.param(500, marks=pytest.mark.fault_all), 507, 400])
async def test_errors_that_stay(desk: Desk, status: int) -> None:
    """500; disk full; refused."""
    desk.site.storage.fail(status)
    job_id = await desk.job(2)
    row = await desk.until_ended(job_id)
    assert (row["status"], row["completed_images"], row["failed_images"]) == ("failed", 0, 2)
    assert row["error_message"]
    assert SERVICE_KEY not in row["error_message"]
    assert calls(desk) == 2, "Gemini was asked again for a picture that it had made"
    assert desk.charged(job_id) == 0


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
