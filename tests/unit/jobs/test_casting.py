"""Which picture plays which role: every row of the role table (domain.md §5) and the filters of shots (§6)."""

from __future__ import annotations

import pytest

from quel_dagster.jobs.casting import cast
from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.composing import compose, wanted_references
from quel_dagster.jobs.model import Arrangement, Category, Reference, Unit

#: domain.md §5, row by row: role → types, in the order shown to the model; * is "any unknown"
ROLES = {
    Category.FASHION: {
        "background": "background bg",
        "model": "model",
        "clothing": "top pants outer",
        "accessories": "shoes bag accessory acce none product",
    },
    Category.BEAUTY: {
        "model": "model",
        "product": "product lipstick cream bottle compact cosmetic skincare makeup brush tool acce none *",
        "background": "background bg",
    },
    Category.EATS: {
        "food": "food dish main model product",
        "ingredient": "ingredient side",
        "prop": "prop topping garnish acce accessory none",
        "background": "background bg",
    },
    Category.CINEMA: {
        "actor": "actor face model character",
        "clothing": "top pants outer",
        "prop": "prop shoes bag accessory acce none *",
        "background": "background bg",
    },
    Category.CARTOON: {
        "character": "character face model",
        "prop": "prop acce accessory none *",
        "background": "background bg",
    },
}


def unit(*types: str, angle: str = "", shot: str = "", prompt: str = "x") -> Unit:
    """Return a unit with references of the ids 1, 2, 3 …"""
    references = tuple(Reference(attach_id=i, type=kind) for i, kind in enumerate(types, start=1))
    return Unit(
        index=0, key="u", quantity=1, prompt=prompt, aspect_ratio="16:9", angle=angle, shot=shot, references=references
    )


def layout(category: Category, *types: str) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(part.role, part.arrangement.value, part.attach_ids) for part in compose(unit(*types), category).parts]


@pytest.mark.parametrize(
    ("category", "role", "kind"),
    [
        (category, role, "mystery" if kind == "*" else kind)
        for category, roles in ROLES.items()
        for role, kinds in roles.items()
        for kind in kinds.split()
    ],
)
def test_every_type_of_the_role_table(category: Category, role: str, kind: str) -> None:
    (part,) = compose(unit(kind), category).parts
    assert (part.role, part.arrangement, part.attach_ids) == (role, Arrangement.SINGLE, (1,))


@pytest.mark.parametrize("category", Category)
def test_roles_are_shown_in_the_order_of_the_table(category: Category) -> None:
    assert [role.name for role in style_of(category).roles] == list(ROLES[category])
    one_of_each = [kinds.split()[0] for kinds in ROLES[category].values()]
    parts = compose(unit(*reversed(one_of_each)), category).parts
    assert [part.role for part in parts] == list(ROLES[category])
    assert wanted_references(unit(*reversed(one_of_each)), category) == tuple(range(len(one_of_each), 0, -1))


@pytest.mark.parametrize("category", [Category.FASHION, Category.EATS])
def test_an_unknown_type_is_left_out_with_a_warning(category: Category) -> None:
    brief = compose(unit("mystery"), category)
    assert brief.parts == ()
    assert brief.warnings == (f'reference 1 left out: type "mystery" is unknown in {category}',)


@pytest.mark.parametrize(
    ("category", "kind", "role", "limit"),
    [
        (Category.FASHION, "model", "model", 1),
        (Category.BEAUTY, "model", "model", 1),
        (Category.CINEMA, "face", "actor", 3),
        (Category.CARTOON, "character", "character", 3),
    ],
)
def test_beyond_a_role_s_limit_the_rest_is_left_out(category: Category, kind: str, role: str, limit: int) -> None:
    many = unit(*[kind] * (limit + 2))
    brief = compose(many, category)
    assert [(part.role, part.attach_ids) for part in brief.parts] == [(role, (i,)) for i in range(1, limit + 1)]
    assert wanted_references(many, category) == tuple(range(1, limit + 1))
    assert brief.warnings == tuple(
        f"reference {i} left out: {category} takes {limit} {role} at most" for i in (limit + 1, limit + 2)
    )


def test_several_pictures_of_a_grid_role_make_one_grid() -> None:
    assert layout(Category.FASHION, "bag", "top", "model", "outer", "bg") == [
        ("background", "single", (5,)),
        ("model", "single", (3,)),
        ("clothing", "grid", (2, 4)),
        ("accessories", "single", (1,)),
    ]
    assert layout(Category.BEAUTY, "lipstick", "mystery") == [("product", "grid", (1, 2))]
    assert layout(Category.CINEMA, "top", "pants", "prop", "bag") == [
        ("clothing", "grid", (1, 2)),
        ("prop", "grid", (3, 4)),
    ]
    assert layout(Category.CARTOON, "prop", "acce") == [("prop", "grid", (1, 2))]


def test_eats_joins_its_pictures_two_by_two() -> None:
    assert layout(Category.EATS, "food", "side", "dish", "prop", "main", "ingredient") == [
        ("food", "pair", (1, 3)),
        ("food", "single", (5,)),
        ("ingredient", "pair", (2, 6)),
        ("prop", "single", (4,)),
    ]


def test_actors_and_characters_have_a_part_each() -> None:
    assert layout(Category.CINEMA, "actor", "face") == [("actor", "single", (1,)), ("actor", "single", (2,))]
    assert layout(Category.CARTOON, "model", "face") == [("character", "single", (1,)), ("character", "single", (2,))]


def test_a_picture_is_wanted_once_and_shown_once_per_role() -> None:
    refs = (
        Reference(attach_id=7, type="top"),
        Reference(attach_id=7, type="outer"),
        Reference(attach_id=7, type="bag"),
    )
    both = unit().model_copy(update={"references": refs})
    assert wanted_references(both, Category.FASHION) == (7,)
    assert [(part.role, part.attach_ids) for part in compose(both, Category.FASHION).parts] == [
        ("clothing", (7,)),
        ("accessories", (7,)),
    ]


def test_unavailable_reference_is_left_out_and_the_rest_renumbered() -> None:
    asked = unit("model", "top", "outer", "bg")
    brief = compose(asked, Category.FASHION, available=[1, 3])
    assert [part.attach_ids for part in brief.parts] == [(1,), (3,)]
    assert brief.parts[1].arrangement is Arrangement.SINGLE
    assert "Image 1 — model." in brief.text
    assert "Image 2 — clothing." in brief.text
    assert "Image 3" not in brief.text
    assert brief.warnings == (
        "reference 4 (background) left out: it could not be fetched",
        "reference 2 (clothing) left out: it could not be fetched",
    )
    assert wanted_references(asked, Category.FASHION) == (4, 1, 2, 3)


@pytest.mark.parametrize(
    ("shot", "kept"),
    [("tight", (1, 2, 5)), ("middle", (1, 2, 3, 5)), ("full", (1, 2, 3, 4, 5)), ("", (1, 2, 3, 4, 5))],
)
def test_a_fashion_shot_leaves_out_what_it_cannot_show(shot: str, kept: tuple[int, ...]) -> None:
    asked = unit("model", "top", "pants", "shoes", "bag", shot=shot)
    assert sorted(wanted_references(asked, Category.FASHION)) == list(kept)
    warnings = compose(asked, Category.FASHION).warnings
    assert len(warnings) == 5 - len(kept)
    assert all("not in the frame" in warning for warning in warnings)


@pytest.mark.parametrize("types", [("pants",), ("shoes", "pants"), ("shoes", "background")])
def test_a_tight_shot_of_nothing_but_trousers_and_shoes_shows_them(types: tuple[str, ...]) -> None:
    asked = unit(*types, shot="tight", prompt="black pants and shoes")
    brief = compose(asked, Category.FASHION)
    assert sorted(wanted_references(asked, Category.FASHION)) == list(range(1, len(types) + 1))
    assert "black pants and shoes" in brief.text
    assert brief.warnings == ("shot tight cannot show any of the references; they are kept and shown by themselves",)


@pytest.mark.parametrize("category", [Category.BEAUTY, Category.CINEMA])
def test_other_categories_have_no_shot_filter(category: Category) -> None:
    asked = unit("model", "pants", "shoes", shot="tight", prompt="pants and shoes")
    assert sorted(wanted_references(asked, category)) == [1, 2, 3]
    assert "pants and shoes" in compose(asked, category).text


def test_unavailable_references_do_not_change_those_asked_for() -> None:
    asked = unit("model", "model")
    chosen = cast(asked, style_of(Category.FASHION), available=[2])
    assert chosen.attach_ids == ()


@pytest.mark.parametrize(
    ("category", "types", "lost"),
    [
        (Category.FASHION, ("model", "top"), 1),
        (Category.FASHION, ("bag", "shoes"), 1),
        (Category.BEAUTY, ("model", "cream"), 1),
        (Category.BEAUTY, ("model", "cream"), 2),
        (Category.BEAUTY, ("cream", "brush"), 1),
        (Category.EATS, ("food", "side"), 1),
        (Category.EATS, ("food", "food"), 1),
        (Category.CINEMA, ("actor", "actor", "prop"), 1),
        (Category.CARTOON, ("character", "prop"), 1),
        (Category.CARTOON, ("character", "character"), 2),
    ],
)
def test_a_lost_reference_does_not_change_the_scene(category: Category, types: tuple[str, ...], lost: int) -> None:
    asked = unit(*types)
    style = style_of(category)
    whole = cast(asked, style)
    partial = cast(asked, style, available=[i for i in range(1, len(types) + 1) if i != lost])
    assert style.scene_for(partial.asked) == style.scene_for(whole.asked)
    with_all = compose(asked, category)
    without = compose(asked, category, available=[i for i in range(1, len(types) + 1) if i != lost])
    for words in ("Nobody is in it", "still life", "Products only"):
        assert (words in without.text) == (words in with_all.text)


@pytest.mark.parametrize(
    ("category", "types", "lost", "essential"),
    [
        (Category.FASHION, ("model", "top"), [1], [True]),
        (Category.FASHION, ("model", "top"), [2], [True]),  # the only product
        (Category.FASHION, ("model", "top", "bag"), [3], [False]),
        (Category.FASHION, ("model", "top", "bag"), [2, 3], [True, True]),  # no product is left
        (Category.FASHION, ("model", "top", "bag", "bg"), [4], [False]),
        (Category.FASHION, ("bag",), [1], [True]),
        (Category.FASHION, ("bag", "shoes"), [1], [False]),
        (Category.BEAUTY, ("model", "cream"), [1], [True]),
        (Category.BEAUTY, ("model", "cream", "brush"), [2], [False]),
        (Category.BEAUTY, ("cream", "bg"), [1], [True]),
        (Category.EATS, ("food", "food"), [2], [True]),
        (Category.EATS, ("food", "side"), [2], [False]),
        (Category.CINEMA, ("actor", "actor"), [2], [True]),
        (Category.CINEMA, ("actor", "top"), [2], [False]),
        (Category.CARTOON, ("character", "prop"), [1], [True]),
        (Category.CARTOON, ("character", "prop"), [2], [False]),
    ],
)
def test_a_lost_reference_of_an_identity_role_is_essential(
    category: Category, types: tuple[str, ...], lost: list[int], essential: list[bool]
) -> None:
    brief = compose(unit(*types), category, available=[i for i in range(1, len(types) + 1) if i not in lost])
    found = sorted(brief.lost, key=lambda reference: reference.attach_id)
    assert [(reference.attach_id, reference.essential) for reference in found] == list(
        zip(lost, essential, strict=True)
    )
