"""Every scene of docs/ui.md, played in a browser; `make tour` takes the screenshots.

The scenes of the lookbook follow each other: the pages of an asset and of a check open with the latest job.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
import pytest_asyncio
import redis
import yaml
from playwright.async_api import Locator, Page, expect

from quel_dagster.adapters.cancel_flags import cancel_key
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.browser.conftest import PRICE, Camera, Installation

pytestmark = pytest.mark.asyncio(loop_scope="package")

FOUR_CAMERAS = (("front", "full"), ("side", "full"), ("back", "middle"), ("profile", "tight"))
NODES = ("quel_production_jobs", "quel_attach", "generated_images", "quel_production_photo", "quel_credits")
AUTOMATION = (
    "jobs_queue_sensor",
    "settle_failed_runs",
    "settle_cancelled_runs",
    "stranded_jobs_sensor",
    "queue_observer",
    "failure_alerts",
    "daily_summary",
    "hourly_audit",
    "nightly_retention",
)
LINEAGE = "/asset-groups?expanded=" + ",".join(f"global@global:{name}" for name in ("web_app", "results", "reports"))
LAUNCHPAD = "/locations/quel/jobs/image_job/playground"
#: seconds of a Gemini call that is to be seen under way; the test does not wait for its end
LONG = 120.0


def runs_of(job_id: UUID) -> str:
    """The list of a job's runs, as the links on a run's page have it."""
    return f"/runs?q[0]={quote(f'tag:quel/job_id={job_id}', safe='')}"


def text(page: Page, words: str | re.Pattern[str]) -> Locator:
    return page.get_by_text(words, exact=isinstance(words, str)).first


async def shows(page: Page, *words: str | re.Pattern[str]) -> None:
    """Wait until the page shows all of this."""
    for some in words:
        await expect(text(page, some)).to_be_visible()


async def write_config(page: Page, job_id: UUID | str, **more: object) -> None:
    """Put this into the Launchpad's editor, in place of all that it holds."""
    config = {"ops": {"make_images": {"config": {"job_id": str(job_id), **more}}}}
    await page.locator(".CodeMirror").first.wait_for()
    await page.evaluate(
        "value => document.querySelector('.CodeMirror').CodeMirror.setValue(value)", yaml.safe_dump(config)
    )


# --- one job: 7 of 8 pictures ------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def lookbook(installation: Installation) -> UUID:
    """A job of eight pictures, pushed a moment ago: Gemini declines one, and keeps the last two waiting."""
    await installation.gemini(
        Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1, match="from behind"),
        Rule(behaviour=Behaviour.SLOW, seconds=LONG, match="formal portrait"),
    )
    job_id = await installation.job("Autumn lookbook, soft afternoon sun", cameras=FOUR_CAMERAS, quantity=2)
    installation.push(job_id)
    return job_id


async def finished(installation: Installation, lookbook: UUID) -> dict[str, Any]:
    """Its row at the end, also for a test that is run alone."""
    await installation.reaches(lookbook, completed_images=5)
    await installation.gemini()
    return await installation.ended(lookbook)


async def test_a_job_is_watched_to_its_end(
    page: Page, installation: Installation, lookbook: UUID, camera: Camera
) -> None:
    (run_id,) = await installation.runs(lookbook)
    await page.goto(f"/runs/{run_id}")
    await shows(page, "Executing (1)", "make_images.generate[combo3_profile_tight]")
    await shows(page, re.compile(r"Updating job progress: 5/8 completed"))
    await expect(page.get_by_text("generate[?]")).to_have_count(0)  # the chart knows the units
    await camera(page, "run-at-work")

    await installation.gemini()
    await shows(page, "Success")
    row = await finished(installation, lookbook)
    assert (row["job_status"], row["completed_images"], row["failed_images"]) == ("completed", 7, 1)
    await page.goto(f"/runs/{run_id}?logs=type:ASSET_MATERIALIZATION")
    await shows(
        page, "7 of 8 pictures", re.compile(r"^1 of 8 pictures failed\. combo2_back_middle #[01]: .*IMAGE_SAFETY")
    )
    await camera(page, "run-answers")


async def test_pictures_are_shown(page: Page, installation: Installation, lookbook: UUID, camera: Camera) -> None:
    await finished(installation, lookbook)
    await page.goto("/assets/generated_images?view=events")
    await shows(page, "7 of 8 pictures", "combo2_back_middle", "39070 (model), 39071 (top)")
    await camera(page, "seven-of-eight")

    await page.get_by_text("[Show Markdown]").click()
    pictures = page.locator("img[src^='data:image/webp']")
    await expect(pictures).to_have_count(7)
    widths = await pictures.evaluate_all("images => images.map(image => image.naturalWidth)")
    assert min(widths) > 50
    await camera(page, "pictures")


async def test_the_charged_payer_is_shown(
    page: Page, installation: Installation, lookbook: UUID, camera: Camera
) -> None:
    await finished(installation, lookbook)
    await page.goto("/assets/quel_credits?view=events")
    await shows(page, f"organization {installation.accounts.org_id}", str(7 * PRICE), "10000", str(10_000 - 7 * PRICE))
    await camera(page, "credits")


async def test_where_the_time_went(page: Page, installation: Installation, lookbook: UUID, camera: Camera) -> None:
    await finished(installation, lookbook)
    await page.goto("/assets/quel_production_photo?view=events")
    await shows(page, "Gemini, all calls")
    await camera(page, "durations")
    line = text(page, re.compile(r"Stage 0/4: Processing 2 images"))
    await line.scroll_into_view_if_needed()
    await camera(page, "timeline")


# --- many jobs ---------------------------------------------------------------------------------------


async def test_the_lineage_has_every_node(
    page: Page, installation: Installation, lookbook: UUID, camera: Camera
) -> None:
    await finished(installation, lookbook)
    await page.set_viewport_size({"width": 1800, "height": 640})
    await page.goto(LINEAGE)
    await shows(page, *NODES, "daily_summary", "Materialized")
    await expect(page.get_by_text("Loading")).to_have_count(0)
    await camera(page, "lineage")


async def test_a_failed_job_is_rerun_from_failure(page: Page, installation: Installation, camera: Camera) -> None:
    await installation.gemini(Rule(behaviour=Behaviour.FORBIDDEN))
    job_id = await installation.job("A red coat in the rain", cameras=FOUR_CAMERAS[:2])
    installation.push(job_id)
    assert (await installation.ended(job_id))["job_status"] == "failed"
    (first,) = await installation.runs(job_id)
    await page.goto(f"/runs/{first}")
    await shows(page, "Failure", re.compile(r"GEMINI_API_KEY"))
    await camera(page, "failed")

    await installation.gemini()
    await page.get_by_role("button", name="arrow_drop_down").click()
    await text(page, re.compile("^From failure")).click()
    await page.wait_for_url(lambda url: "/runs/" in url and first not in url)
    await shows(page, "Success")
    row = await installation.ended(job_id)
    assert (row["job_status"], row["completed_images"]) == ("completed", 2)

    await page.set_viewport_size({"width": 1400, "height": 560})
    await page.goto(runs_of(job_id))
    await shows(page, "quel/launch: queue", "quel/outcome: failed")
    await shows(page, f"quel/launch: rerun of {first[:8]}", "quel/outcome: completed")
    await expect(page.get_by_text("quel/member_id")).to_have_count(0)
    await camera(page, "story")


async def test_runs_are_found_by_their_tags(
    page: Page, lookbook: UUID, installation: Installation, camera: Camera
) -> None:
    await finished(installation, lookbook)
    await page.goto("/runs")
    await text(page, "quel/outcome: partial").hover()
    await page.get_by_text("Add tag to filter").click()
    await expect(page.get_by_text("quel/outcome: partial")).to_have_count(1)
    await expect(page.get_by_text(re.compile("quel/outcome: (completed|failed)"))).to_have_count(0)
    await page.goto("/runs")
    await shows(page, "quel/outcome: partial")
    colour = "tag => getComputedStyle(tag.closest('.BaseTag')).backgroundColor"
    tags = ("quel/launch: queue", "quel/outcome: partial", "quel/outcome: failed", "quel/outcome: completed")
    assert len({await text(page, tag).evaluate(colour) for tag in tags}) == len(tags), "seen at a glance"
    await camera(page, "runs")


async def test_a_tick_shows_its_result(page: Page, installation: Installation, camera: Camera) -> None:
    await installation.gemini()
    job_id = await installation.job("Pushed twice")
    installation.push(job_id, job_id, "not-a-uuid")
    await installation.ended(job_id)
    await page.goto("/locations/quel/sensors/jobs_queue_sensor")
    await shows(page, re.compile(r"launched 1, 1 duplicate, 1 to jobs:dead: not a UUID"), "1 run requested")
    await camera(page, "sensor")


async def test_a_job_is_launched_by_hand(page: Page, installation: Installation, camera: Camera) -> None:
    await installation.gemini()
    job_id = await installation.job("Trench coat, evening light", cameras=FOUR_CAMERAS[:2])
    await page.goto(LAUNCHPAD)
    await write_config(page, job_id, unit=["combo0_front_full"])
    await shows(page, re.compile(r'Received unexpected config entry "unit"'))
    await camera(page, "launchpad")

    await write_config(page, job_id, dry_run=True)
    await page.get_by_role("button", name="Launch Run").click()
    await page.wait_for_url("**/runs/**")
    await shows(page, "Success")
    assert (await installation.row(job_id))["job_status"] == "pending", "a dry run changes nothing"
    await page.goto(f"{page.url.partition('?')[0]}?logs=step:make_images.plan_units|type:STEP_OUTPUT")
    await shows(page, re.compile(r"credits_estimated"), str(2 * PRICE))
    await camera(page, "dry-run")

    await page.goto(LAUNCHPAD)
    await write_config(page, job_id)
    await page.get_by_role("button", name="Launch Run").click()
    await page.wait_for_url("**/runs/**")
    await shows(page, "Success")
    row = await installation.row(job_id)
    assert (row["job_status"], row["completed_images"]) == ("completed", 2)


async def test_job_that_was_not_pushed_is_noticed(page: Page, installation: Installation, camera: Camera) -> None:
    await installation.gemini()
    job_id = await installation.job("Not pushed")
    await page.goto("/assets/quel_production_jobs?view=checks")
    await text(page, "queue_keeps_moving").click()
    await page.get_by_role("button", name=re.compile("Execute$")).click()
    await installation.succeeded("__ASSET_JOB")
    await page.reload()  # an open page looks again every 15 s
    await shows(page, re.compile(rf"Job {job_id} has waited for \d+ s, 1 wait in all"))
    await camera(page, "waiting")
    installation.push(job_id)
    await installation.ended(job_id)


async def test_a_run_is_terminated_while_another_waits(page: Page, installation: Installation, camera: Camera) -> None:
    await installation.gemini(latency=LONG)
    jobs = [await installation.job(f"Number {number}") for number in (1, 2, 3)]
    installation.push(*jobs)
    runs = [(await installation.runs(job_id))[0] for job_id in jobs]
    await page.set_viewport_size({"width": 1400, "height": 440})
    await page.goto("/runs")
    await shows(page, "In progress (2)")
    await text(page, "Queued (1)").click()
    await expect(page.get_by_text("image_job", exact=True)).to_have_count(1)
    await camera(page, "queued")

    queue = await installation.queued()
    job_id, run_id = next((job, run) for job, run in zip(jobs, runs, strict=True) if run not in queue)
    await page.set_viewport_size({"width": 1400, "height": 900})
    await page.goto(f"/runs/{run_id}")
    await shows(page, re.compile(r"Calling Gemini API"))
    await page.get_by_role("button", name="Terminate").click()
    await page.get_by_role("button", name="Terminate 1 run").click()
    await shows(page, "Canceled")
    assert (await installation.ended(job_id))["job_status"] == "cancelled"
    await page.set_viewport_size({"width": 1400, "height": 440})
    await installation.has_tag(run_id, "quel/outcome")
    await page.goto(runs_of(job_id))  # opened now: an open list looks again every 15 s
    await shows(page, "Canceled", "quel/outcome: cancelled")
    await camera(page, "terminated")

    with redis.Redis.from_url(installation.endpoints.redis_url) as client:
        for left in set(jobs) - {job_id}:
            client.set(cancel_key(left), "true", ex=3600)
    for left in set(jobs) - {job_id}:
        assert (await installation.ended(left))["job_status"] == "user_cancelled"


async def test_what_runs_by_itself(page: Page, camera: Camera) -> None:
    await page.goto("/automation")
    await shows(page, *AUTOMATION)
    await expect(page.get_by_text(re.compile("^(Standard|Run status) sensor$")).nth(5)).to_be_visible()
    await expect(page.locator("[class*=skeleton i]")).to_have_count(0)
    await camera(page, "automation")


async def test_a_day_is_summed_up(page: Page, installation: Installation, lookbook: UUID, camera: Camera) -> None:
    await finished(installation, lookbook)
    today = datetime.now(UTC).date()
    for day in (today - timedelta(days=1), today):
        await installation.sum_up(day.isoformat())
    await page.goto(f"/assets/daily_summary?view=partitions&partition={today.isoformat()}")
    await shows(page, "jobs_with_pictures_missing", re.compile("Gemini declined to make this picture"))
    await camera(page, "day")

    await page.set_viewport_size({"width": 1800, "height": 900})
    await page.goto(LINEAGE)
    await text(page, "daily_summary").click()
    await shows(page, "Metadata plots", "jobs_completed")
    await expect(page.locator("canvas").first).to_be_visible()
    await camera(page, "plots")


async def test_a_check_names_missing_pictures(
    page: Page, installation: Installation, lookbook: UUID, camera: Camera
) -> None:
    """Last of all: the check is evaluated once a minute."""
    await finished(installation, lookbook)
    await page.goto("/assets/generated_images?view=checks")
    await shows(page, "every_picture_made", re.compile(r"^Last hour: [1-9]\d* jobs? ended, [1-9]\d* with pictures"))
    await camera(page, "checks")
