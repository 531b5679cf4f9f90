"""A category is data that checks itself, found by its name."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from pydantic import ValidationError

from quel_dagster.jobs.categories.category import Camera, CategoryStyle, Layout, Role, Scene
from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.model import Category


def scene(**changes: object) -> Scene:
    camera = Camera(angles={"front": "a"}, shots={"full": "b"})
    return Scene.model_validate({"name": "s", "opening": "o", "rules": "r", "avoid": "v", "camera": camera, **changes})


def style(*scenes: Scene, **changes: object) -> CategoryStyle:
    return CategoryStyle.model_validate(
        {
            "category": Category.FASHION,
            "roles": (Role(name="model", types=frozenset({"model"}), layout=Layout.EACH, one="x"),),
            "scenes": scenes or (scene(),),
            "merged_type": "top",
            "portrait_type": "model",
            "mixes": {},
            "sample_prompt": "p",
            **changes,
        }
    )


@pytest.mark.parametrize("category", Category)
def test_every_category_has_its_module(category: Category) -> None:
    assert style_of(category).category is category


def test_a_module_that_holds_another_category_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    impostor = ModuleType("impostor")
    impostor.STYLE = style_of(Category.BEAUTY)  # type: ignore[attr-defined]
    style_of.cache_clear()
    monkeypatch.setitem(sys.modules, "quel_dagster.jobs.categories.fashion", impostor)
    with pytest.raises(TypeError, match="fashion"):
        style_of(Category.FASHION)


def test_line_breaks_of_the_source_do_not_reach_the_text() -> None:
    rules = """
        - One item
        over two lines.
        - Another well-known
        - item

        A paragraph
        of its own.
    """
    assert (
        scene(rules=rules).rules
        == "- One item over two lines.\n- Another well-known\n- item\n\nA paragraph of its own."
    )


def test_an_unknown_placeholder_is_refused() -> None:
    with pytest.raises(ValidationError, match="unknown placeholder"):
        scene(rules="{prompt}")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"scenes": (scene(needs=frozenset({"model"})),)}, "the last scene must fit everything"),
        ({"scenes": (scene(needs=frozenset({"ghost"})), scene())}, "names a role that does not exist"),
        ({"scenes": (scene(camera=Camera(angles={"x": "a"}, shots={"full": "b"})), scene())}, "other angles or shots"),
        ({"angle_aliases": {"f": "fornt"}}, "aliases of unknown names"),
    ],
)
def test_a_category_that_does_not_hold_together_is_refused(broken: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        style(**broken)


def test_the_first_scene_that_fits_is_taken() -> None:
    crowd = scene(name="two", counts=frozenset({"model"}), exactly=2)
    made = style(crowd, scene(name="one", needs=frozenset({"model"})), scene(name="rest"))
    assert [made.scene_for({"model": n}).name for n in (0, 1, 2, 3)] == ["rest", "one", "two", "one"]
