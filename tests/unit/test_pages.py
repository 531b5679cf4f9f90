"""The files that `deploy.pages` writes are up to date, and docs/prompts.md holds everything it promises."""

from __future__ import annotations

import pytest
from dotenv import dotenv_values

from deploy.pages import PAGES, ROOT
from deploy.prompts_page import prompts_page
from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.model import Category


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_would_write(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), "write it again: make pages"


def test_env_example_sets_nothing() -> None:
    assert dict(dotenv_values(ROOT / ".env.example")) == {}


@pytest.mark.parametrize("category", Category)
def test_every_mix_angle_and_shot_is_on_the_page(category: Category) -> None:
    style = style_of(category)
    title = category.value.capitalize()
    chapter = prompts_page().split(f"\n## {title}\n")[1].split("\n## ")[0]
    mixes = chapter.split(f"\n### {title}: ")[1:]
    assert [mix.splitlines()[0] for mix in mixes] == list(style.mixes)
    for mix in mixes:
        for angle in style.angles:
            for shot in style.shots:
                assert f"\n| {angle} × {shot} | " in mix
        for fx in style.effects:
            assert f"\n| fx {fx} | **EFFECT** " in mix
