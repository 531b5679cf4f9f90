"""Killed after the run's message was taken, before Dagster's RUN_START: the run is STARTING."""

from __future__ import annotations

import time

import pytest
from dagster import DagsterRunStatus

from tests.faults.desk import TIMEOUT_SECONDS, Desk, eventually, print_line
from tests.faults.installation import PRICE


async def _starting(desk: Desk, job_id):
    run = await eventually(
        lambda: next((r for r in desk.runs(job_id) if r.status is DagsterRunStatus.STARTING), None), "a starting run"
    )
    await desk.child_of(job_id)
    return run


async def _warm(desk: Desk) -> None:
    """Every child has finished its start: two jobs side by side."""
    desk.site.gemini.state.latency = 2.0
    for job_id in [await desk.job(1) for _ in range(2)]:
        await desk.until_ended(job_id)
    desk.site.gemini.state.latency = 0.0
    await desk.until_at_rest()


async def test_the_process(desk: Desk) -> None:
    await _warm(desk)
    desk.site.proxies.dagster.hold()  # workers do not reach Dagster's storage
    job_id = await desk.job(1)
    await _starting(desk, job_id)
    killed = await desk.kill_child_of(job_id)
    desk.site.proxies.dagster.cut()
    desk.site.proxies.dagster.heal()
    try:
        row = await desk.until_ended(job_id, seconds=TIMEOUT_SECONDS)
    except TimeoutError as error:
        desk.orders.clear()
        raise AssertionError(f"not back at work {time.monotonic() - killed:.0f} s after the kill: {error}") from None
    print_line(f"done after {time.monotonic() - killed:.1f} s")
    assert row["completed_images"] == 1
    assert desk.charged(job_id) == PRICE


@pytest.mark.fault_all
async def test_the_host(desk: Desk) -> None:
    await _warm(desk)
    desk.site.add_host("b", children=1)
    desk.site.proxies.dagster.hold()
    job_id = await desk.job(1)
    await _starting(desk, job_id)
    child = await desk.child_of(job_id)
    host = next(host for host in desk.site.hosts.values() if child in host.children_alive())
    host.kill()
    killed = time.monotonic()
    desk.site.proxies.dagster.cut()
    desk.site.proxies.dagster.heal()
    try:
        row = await desk.until_ended(job_id, seconds=TIMEOUT_SECONDS)
    except TimeoutError as error:
        desk.orders.clear()
        raise AssertionError(f"not back at work {time.monotonic() - killed:.0f} s after the kill: {error}") from None
    print_line(f"done after {time.monotonic() - killed:.1f} s")
    assert row["completed_images"] == 1
