"""docs/prompts.md is what the code would write, and holds everything it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from quel_dagster.jobs import prompt_book
from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.model import Category

ROOT = Path(__file__).parents[3]


def test_the_page_is_up_to_date() -> None:
    fresh = (ROOT / prompt_book.PAGE).read_text(encoding="utf-8") == prompt_book.page()
    assert fresh, f"{prompt_book.PAGE} is stale: run .venv/bin/{prompt_book.COMMAND}"


@pytest.mark.parametrize("category", Category)
def test_every_mix_angle_and_shot_is_on_the_page(category: Category) -> None:
    style = style_of(category)
    title = category.value.capitalize()
    chapter = prompt_book.page().split(f"\n## {title}\n")[1].split("\n## ")[0]
    mixes = chapter.split(f"\n### {title}: ")[1:]
    assert [mix.splitlines()[0] for mix in mixes] == list(style.mixes)
    for mix in mixes:
        for angle in style.angles:
            for shot in style.shots:
                assert f"\n| {angle} × {shot} | " in mix
        for fx in style.effects:
            assert f"\n| fx {fx} | **EFFECT** " in mix
