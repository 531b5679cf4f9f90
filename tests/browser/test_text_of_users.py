"""Markup in the text of users and Gemini: shown as text in an operator's browser, and never fetched."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, Request, expect

from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.browser.conftest import Installation

pytestmark = pytest.mark.asyncio(loop_scope="package")

HOST = "attacker.example"
HOSTILE = (
    f"![a](http://{HOST}/a.png) <img src='http://{HOST}/b.png'> <a href='http://{HOST}/c'>c</a> ```"
    f"![d](http://{HOST}/d.png)"
)
LAUNCH = (
    "mutation($p: ExecutionParams!) {launchPipelineExecution(executionParams: $p)"
    " {... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}"
)


async def test_markup_of_users_is_shown_as_text(page: Page, installation: Installation) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.extend([request.url] if HOST in request.url else [])

    page.on("request", note)
    await installation.gemini(Rule(behaviour=Behaviour.FORBIDDEN, times=1, message=f"No. {HOSTILE}"))
    job_id = await installation.job(f"A coat {HOSTILE}", cameras=((HOSTILE, HOSTILE),), quantity=1)
    dry_run = await installation.graphql(
        LAUNCH,
        p={
            "selector": {
                "repositoryLocationName": "quel",
                "repositoryName": "__repository__",
                "jobName": "image_job",
            },
            "runConfigData": {"ops": {"make_images": {"config": {"job_id": str(job_id), "dry_run": True}}}},
        },
    )
    dry_run_id = dry_run["launchPipelineExecution"]["run"]["runId"]
    await page.goto(f"/runs/{dry_run_id}")
    await expect(page.get_by_text("Success").first).to_be_visible(timeout=90_000)
    await page.goto(f"/runs/{dry_run_id}?logs=step:make_images.plan_units|type:STEP_OUTPUT")
    await page.get_by_text("[Show Markdown]").first.click()
    await expect(page.get_by_text(re.compile(re.escape(f"<img src='http://{HOST}/b.png'>"))).first).to_be_visible()
    await _nothing_is_markup(page)

    installation.push(job_id)
    await installation.ended(job_id)
    (run_id,) = await installation.runs(job_id)
    for path in (
        f"/runs/{run_id}",
        "/assets/generated_images?view=events",
        "/assets/generated_images?view=checks",
        "/assets/quel_production_photo?view=events",
        "/runs",
    ):
        await page.goto(path, wait_until="networkidle")
        await _nothing_is_markup(page)
    assert asked == []


async def _nothing_is_markup(page: Page) -> None:
    await expect(page.locator(f"img[src*='{HOST}'], a[href*='{HOST}']")).to_have_count(0)
