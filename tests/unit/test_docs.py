"""The pages name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quel_dagster.definitions import defs
from quel_dagster.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
IMAGE_BYTES = 200_000


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", readme[readme.index("## Configuration") :]))
    assert {str(field.alias) for field in Settings.model_fields.values()} - named == set()


def test_every_schedule_sensor_and_check_is_on_the_page_about_operations() -> None:
    repository = defs.get_repository_def()
    names = {each.name for each in (*repository.schedule_defs, *repository.sensor_defs)}
    names |= {key.name for key in repository.asset_graph.asset_check_keys}
    page = (ROOT / "docs" / "operations.md").read_text()
    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        there = (page.parent / target).resolve()
        assert there.exists(), target
        if anchor:
            assert anchor in _anchors(there), f"{target}#{anchor}"


def test_questions_of_the_tour_lead_to_their_answers() -> None:
    tour = ROOT / "docs" / "ui.md"
    asked = set(re.findall(r"\]\(#([^)]+)\)", tour.read_text()))
    assert asked == _anchors(tour) - {"a-tour-of-the-ui"}


def test_screenshots_are_small_and_all_of_use() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    for image in sorted((ROOT / "docs" / "images").glob("*.png")):
        assert image.stat().st_size < IMAGE_BYTES, image.name
        assert f"images/{image.name}" in pages, f"{image.name} is on no page"
