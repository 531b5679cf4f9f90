"""The page at /quel in a browser, at the width of a desk and of a phone; `make tour` takes the screenshots."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from quel_dagster.sandbox.gemini_server import Behaviour, Rule
from tests.browser.conftest import Camera, Installation

pytestmark = pytest.mark.asyncio(loop_scope="package")

CAMERAS = (("front", "full"), ("side", "full"), ("back", "middle"), ("profile", "tight"))
PHONE = {"width": 390, "height": 844}
#: seconds of a Gemini call that is to be seen under way; no test waits for its end
LONG = 120.0


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def partial(installation: Installation) -> UUID:
    """A job that ended with 7 of 8 pictures."""
    await installation.gemini(Rule(behaviour=Behaviour.IMAGE_SAFETY, times=1, match="from behind"))
    job_id = await installation.job("Winter lookbook, low morning sun", cameras=CAMERAS, quantity=2)
    installation.push(job_id)
    row = await installation.ended(job_id)
    assert (row["completed_images"], row["failed_images"]) == (7, 1)
    return job_id


async def fits(page: Page) -> None:
    """Nothing is wider than the window, and the browser refused nothing."""
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} pixels wider than the window"


async def test_first_page_answers_at_a_glance_and_follows_the_work(
    page: Page, installation: Installation, partial: UUID, camera: Camera
) -> None:
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    await page.goto("/quel")
    await expect(page.get_by_role("link", name="Winter lookbook").first).to_be_visible()
    await expect(page.locator("#reasons")).to_contain_text("IMAGE_SAFETY")

    await installation.gemini(Rule(behaviour=Behaviour.SLOW, seconds=LONG, match="formal portrait"))
    at_work = await installation.job("Spring street", cameras=CAMERAS)
    installation.push(at_work)
    # the page is not loaded again: it follows by itself
    await expect(page.locator("#work")).to_contain_text("3/4")
    await expect(page.locator("#work")).to_contain_text("about")
    await fits(page)
    await camera(page, "quel-overview")
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await fits(page)
    await camera(page, "quel-phone")
    assert errors == []

    await page.goto(f"/quel/jobs/{at_work}")
    await expect(page.locator("header.job")).to_contain_text("3/4")
    await installation.gemini()
    await expect(page.locator("header.job")).to_contain_text("4/4")  # it follows too


async def test_from_a_failure_to_the_job_its_pictures_and_its_run_in_two_clicks(
    page: Page, partial: UUID, camera: Camera
) -> None:
    await page.goto("/quel")
    await page.locator("#reasons").get_by_role("link", name=re.compile("IMAGE_SAFETY")).click()
    await page.get_by_role("link", name="Winter lookbook").first.click()
    await expect(page).to_have_url(re.compile(f"/quel/jobs/{partial}$"))
    await expect(page.locator("#next")).to_contain_text("quel retry")
    pictures = page.locator(".pictures img")
    await expect(pictures).to_have_count(7)
    for number in range(7):
        await pictures.nth(number).scroll_into_view_if_needed()
        await expect(pictures.nth(number)).to_have_js_property("complete", value=True)
        assert await pictures.nth(number).evaluate("image => image.naturalWidth") >= 500
    await expect(page.locator(".missing")).to_contain_text("IMAGE_SAFETY")
    await page.evaluate("scrollTo(0, 0)")
    await fits(page)
    await camera(page, "quel-job")
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await fits(page)
    await page.locator("a[href^='/runs/']").first.click()
    await expect(page).to_have_url(re.compile("/runs/"))


async def test_search_finds_the_job_by_the_beginning_of_its_id(page: Page, partial: UUID) -> None:
    await page.goto("/quel")
    await page.get_by_role("searchbox").fill(str(partial)[:8])
    await page.get_by_role("searchbox").press("Enter")
    await expect(page).to_have_url(re.compile(f"/quel/jobs/{partial}$"))


async def test_retry_is_confirmed_and_makes_the_missing_picture(
    page: Page, installation: Installation, partial: UUID, camera: Camera
) -> None:
    await installation.gemini()
    await page.goto(f"/quel/jobs/{partial}")
    await page.get_by_role("link", name="Retry 1 missing picture").click()
    await page.get_by_label("Your name").fill("Mina")
    await page.get_by_label("Reason").fill("the member asked")
    await camera(page, "quel-confirm")
    await page.get_by_role("button", name="Retry 1 job").click()
    await expect(page.locator("main")).to_contain_text("pushed again")
    await installation.reaches(partial, completed_images=8)
    await page.goto(f"/quel/jobs/{partial}")
    await expect(page.locator(".timeline")).to_contain_text("retry by Mina (page)")
