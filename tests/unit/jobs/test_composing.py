"""The text of a request carries out every rule of domain.md §6."""

from __future__ import annotations

import re

import pytest

from quel_dagster.jobs.categories import wording
from quel_dagster.jobs.categories.category import Scene
from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.composing import compose, without_camera_opening
from quel_dagster.jobs.model import Brief, Category, Reference, Unit


def brief(
    category: Category,
    *types: str,
    angle: str = "",
    shot: str = "",
    prompt: str = "at dusk",
    negative_prompt: str = "",
    fx: str = "none",
    pre_edited: bool = False,
) -> Brief:
    references = tuple(Reference(attach_id=i, type=kind) for i, kind in enumerate(types, start=1))
    unit = Unit(
        index=0,
        key="u",
        quantity=1,
        prompt=prompt,
        negative_prompt=negative_prompt,
        aspect_ratio="9:16",
        angle=angle,
        shot=shot,
        fx=fx,
        pre_edited=pre_edited,
        references=references,
    )
    return compose(unit, category)


def scene(category: Category, name: str) -> Scene:
    return next(scene for scene in style_of(category).scenes if scene.name == name)


def section(composed: Brief, head: str) -> str:
    found = re.search(rf"^{head}\n(.*?)(?=\n\n[A-Z ]+\n|\Z)", composed.text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


# --- for every category ------------------------------------------------------------------------------


@pytest.mark.parametrize("category", Category)
def test_the_order_of_the_text(category: Category) -> None:
    composed = brief(category, "background", "model", angle="front", shot="full", negative_prompt="fog, cars")
    heads = re.findall(r"^([A-Z ]{4,})$", composed.text, re.MULTILINE)
    without_extras = [head for head in heads if head != "STYLING"]
    assert without_extras == ["REFERENCE IMAGES", "CAMERA", "RULES", "BRIEF", "AVOID"]
    assert section(composed, "BRIEF") == f"{wording.BRIEF}\nat dusk"
    assert section(composed, "AVOID").endswith("Also, as the client puts it: fog, cars")
    assert composed.aspect_ratio == "9:16"
    assert composed.warnings == ()


@pytest.mark.parametrize("category", Category)
def test_every_text_says_what_must_not_happen(category: Category) -> None:
    avoid = section(brief(category), "AVOID").lower()
    for word in ("split screen", "collage", "border", "floating"):
        assert word in avoid
    assert re.search("people|doubles|characters", avoid)
    assert "as the client puts it" not in avoid


@pytest.mark.parametrize("category", Category)
def test_a_background_is_reinterpreted_and_takes_the_place_of_the_setting(category: Category) -> None:
    with_place, without = brief(category, "bg"), brief(category)
    assert "reinterpret" in section(with_place, "REFERENCE IMAGES").lower()
    assert section(with_place, "SETTING") == ""
    assert "names no place" in section(without, "SETTING")


@pytest.mark.parametrize("category", Category)
def test_every_angle_and_shot_has_its_own_words(category: Category) -> None:
    style = style_of(category)
    for style_scene in style.scenes:
        assert len(set(style_scene.camera.angles.values())) == len(style.angles)
        assert len(set(style_scene.camera.shots.values())) == len(style.shots)
    for angle in style.angles:
        for shot in style.shots:
            camera = section(brief(category, "model", angle=angle, shot=shot), "CAMERA")
            chosen = style.scenes[0].camera
            together = chosen.together.get((angle, shot))
            assert camera == together or (chosen.angles[angle] in camera and chosen.shots[shot] in camera)


@pytest.mark.parametrize("category", Category)
def test_the_default_combination_is_known_everywhere(category: Category) -> None:
    assert brief(category, angle="front", shot="full").warnings == ()


@pytest.mark.parametrize("category", Category)
def test_without_a_camera_the_brief_decides(category: Category) -> None:
    assert section(brief(category), "CAMERA") == wording.OPEN_CAMERA


@pytest.mark.parametrize("category", [category for category in Category if category is not Category.CINEMA])
def test_an_unknown_camera_is_passed_on_in_the_user_s_words_with_a_warning(category: Category) -> None:
    composed = brief(category, angle="through a keyhole", shot="{count} up")
    assert section(composed, "CAMERA") == "Angle: through a keyhole\nFraming: {count} up"
    assert [warning.split(" is none of ")[0] for warning in composed.warnings] == [
        'angle "through a keyhole"',
        'framing "{count} up"',
    ]


def test_spelling_of_a_camera_does_not_matter() -> None:
    usual = brief(Category.EATS, "food", angle="45-degree", shot="hero-shot").text
    assert brief(Category.EATS, "food", angle="45 Degree", shot="Hero_Shot").text == usual
    assert brief(Category.EATS, "food", angle="45°", shot="HERO").text == usual


def test_braces_in_the_user_s_words_are_left_alone() -> None:
    composed = brief(Category.CARTOON, "model", prompt="{count} {0} {x}", negative_prompt="{y}")
    assert "{count} {0} {x}" in composed.text
    assert "{y}" in composed.text


def test_parts_are_numbered_in_order_and_say_how_many_pictures_they_join() -> None:
    text = brief(Category.EATS, "food", "food", "food", "prop", "prop", "bg").text
    assert [line.split(". ")[0] for line in text.splitlines() if re.match(r"Image \d", line)] == [
        "Image 1 — food 1 of 2, two pictures side by side",
        "Image 2 — food 2 of 2",
        "Image 3 — prop, two pictures side by side",
        "Image 4 — background",
    ]
    assert (
        "Image 1 — clothing, three pictures on one sheet. The three garments"
        in brief(Category.FASHION, "top", "outer", "pants").text
    )


# --- fashion -----------------------------------------------------------------------------------------


def test_fashion_with_a_model_dresses_exactly_one_person() -> None:
    composed = brief(Category.FASHION, "model", "top", "bag")
    assert composed.text.startswith("A fashion photograph of one person")
    assert "bone structure" in section(composed, "REFERENCE IMAGES")
    assert "wears every garment" in section(composed, "RULES")
    assert "Extra people" in section(composed, "AVOID")


@pytest.mark.parametrize("types", [("top", "bag"), ("shoes", "product", "bg"), ("outer", "pants")])
def test_fashion_products_without_a_model_show_no_people(types: tuple[str, ...]) -> None:
    composed = brief(Category.FASHION, *types, angle="front", shot="full")
    assert composed.text.startswith("A product photograph of exactly two pieces")
    assert "Products only: nobody is in it, nor any part of anybody" in composed.text
    assert section(composed, "AVOID").startswith("- People and any part of them: a model, a face, hands")
    for word in ("head to toe", "crown of the head", "shoulders", "wears"):
        assert word not in section(composed, "CAMERA") + section(composed, "RULES")


@pytest.mark.parametrize("types", [("bag",), ("top", "background"), ("none",)])
def test_exactly_one_fashion_product_is_shown_alone(types: tuple[str, ...]) -> None:
    composed = brief(Category.FASHION, *types)
    assert "exactly one piece: the one in the reference image, alone" in composed.text
    assert "Nobody is in it" in composed.text


@pytest.mark.parametrize(
    ("shot", "says"),
    [("tight", "Head and upper chest"), ("middle", "From the head down to mid-thigh"), ("full", "at least 85 %")],
)
def test_fashion_shots(shot: str, says: str) -> None:
    assert says in section(brief(Category.FASHION, "model", shot=shot), "CAMERA")


@pytest.mark.parametrize(
    ("angle", "says"),
    [("front", "front"), ("side", "side"), ("profile", "formal portrait"), ("back", "the face is not seen")],
)
def test_fashion_angles(angle: str, says: str) -> None:
    assert says in section(brief(Category.FASHION, "model", angle=angle), "CAMERA")


def test_back_and_tight_together_frame_at_the_shoulder_blades() -> None:
    camera = section(brief(Category.FASHION, "model", angle="back", shot="tight"), "CAMERA")
    assert "down to the shoulder blades and ends there" in camera
    assert "upper chest" not in camera
    assert camera.count("Angle") == 1


def test_tight_shot_omits_legs_and_shoes() -> None:
    prompt = "하얀 셔츠, 청바지를 입고 운동화는 편하게, white jeans and Boots, tighten the scarf"
    composed = brief(Category.FASHION, "model", "top", "pants", "shoes", shot="tight", prompt=prompt)
    assert section(composed, "BRIEF").splitlines()[-1] == "하얀 셔츠, 입고 편하게, white and, tighten the scarf"
    assert "words left out of the prompt: a tight shot cannot show them" in composed.warnings
    assert not re.search(r"\b(shoes|feet|pants|legs|ground)\b", composed.text, re.IGNORECASE)


def test_middle_shot_omits_shoes_only() -> None:
    composed = brief(Category.FASHION, "model", shot="middle", prompt="blue jeans, 바지를 입고, red shoes, 구두를 신고")
    assert section(composed, "BRIEF").splitlines()[-1] == "blue jeans, 바지를 입고, red, 신고"


def test_full_shot_omits_nothing() -> None:
    composed = brief(Category.FASHION, "model", shot="full", prompt="red shoes and jeans")
    assert section(composed, "BRIEF").splitlines()[-1] == "red shoes and jeans"


def test_a_prompt_of_nothing_but_filtered_words_leaves_no_empty_brief() -> None:
    composed = brief(Category.FASHION, "model", shot="tight", prompt="청바지, shoes")
    assert "BRIEF" not in composed.text


# --- beauty ------------------------------------------------------------------------------------------


def test_beauty_with_model_and_product_grounds_the_product() -> None:
    composed = brief(Category.BEAUTY, "model", "lipstick")
    rules = section(composed, "RULES")
    for word in ("held or it rests", "never floats", "True scale", "lit again with the scene"):
        assert word in rules
    assert "this very person" in section(composed, "REFERENCE IMAGES")
    assert "label" in section(composed, "REFERENCE IMAGES")


@pytest.mark.parametrize(("types", "count"), [(("cream",), "one product"), (("cream", "brush", "x"), "three products")])
def test_beauty_products_alone_are_counted_without_people(types: tuple[str, ...], count: str) -> None:
    composed = brief(Category.BEAUTY, *types)
    assert f"exactly {count}" in composed.text.splitlines()[0]
    assert section(composed, "AVOID").startswith("- People and any part of them")


def test_beauty_with_a_model_alone_is_a_portrait() -> None:
    assert brief(Category.BEAUTY, "model").text.startswith("A beauty portrait of one person")


# --- eats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", ["overhead", "45-degree", "macro", "front", "side", "profile", "back"])
@pytest.mark.parametrize("shot", ["full-plate", "hero-shot", "detail", "context"])
def test_eats_knows_its_cameras(angle: str, shot: str) -> None:
    assert brief(Category.EATS, "food", angle=angle, shot=shot).warnings == ()


def test_a_dish_that_is_pre_edited_keeps_its_look_and_another_is_styled_freely() -> None:
    kept, free = (brief(Category.EATS, "food", pre_edited=pre_edited) for pre_edited in (True, False))
    assert "Keep it" in section(kept, "STYLING")
    assert "Refine only" in section(kept, "STYLING")
    assert "Style the food freely" in section(free, "STYLING")
    assert "differ" in section(free, "STYLING")


def test_dishes_are_counted() -> None:
    assert "of three dishes" in brief(Category.EATS, "food", "dish", "main").text


# --- cinema ------------------------------------------------------------------------------------------


def test_a_cinema_camera_is_free_text() -> None:
    camera = section(brief(Category.CINEMA, "actor", angle="Low Angle", shot="ECU"), "CAMERA")
    assert camera.startswith("Angle: Low Angle — the lens well below the eyes")
    assert "Framing: ECU — one detail fills the frame" in camera
    free = brief(Category.CINEMA, "actor", angle="Crane, descending", shot="Two shot")
    assert section(free, "CAMERA") == "Angle: Crane, descending\nFraming: Two shot"
    assert free.warnings == ()


def test_a_cinema_prompt_does_not_repeat_its_camera() -> None:
    composed = brief(Category.CINEMA, angle="Eye Level", shot="ECU", prompt="Eye Level, ECU. She reads.")
    assert section(composed, "BRIEF").splitlines()[-1] == "She reads."


def test_only_cinema_removes_the_opening() -> None:
    composed = brief(Category.FASHION, angle="front", shot="full", prompt="Front, full. She reads.")
    assert section(composed, "BRIEF").splitlines()[-1] == "Front, full. She reads."


@pytest.mark.parametrize(
    ("prompt", "rest"),
    [
        ("Eye Level, ECU. She reads.", "She reads."),
        ("  eye  level , ecu: she reads", "she reads"),
        ("EYE LEVEL ECU — She reads", "She reads"),
        ("Eye Level, ECU", ""),
        ("Eye Level, ECUador at night", "Eye Level, ECUador at night"),
        ("ECU, Eye Level. She reads.", "ECU, Eye Level. She reads."),
        ("Eye Level. She reads, ECU.", "Eye Level. She reads, ECU."),
        ("She reads. Eye Level, ECU.", "She reads. Eye Level, ECU."),
        ("Low Angle, ECU. She reads.", "Low Angle, ECU. She reads."),
        ("Eye Level, ECU. Eye Level, ECU. Twice.", "Eye Level, ECU. Twice."),
    ],
)
def test_the_opening_is_removed_only_when_it_is_the_same_two(prompt: str, rest: str) -> None:
    assert without_camera_opening(prompt, "Eye Level", "ECU") == rest


@pytest.mark.parametrize(("angle", "shot"), [("", "ECU"), ("Eye Level", ""), ("", "")])
def test_half_a_camera_removes_nothing(angle: str, shot: str) -> None:
    assert without_camera_opening("Eye Level, ECU. x", angle, shot) == "Eye Level, ECU. x"


def test_camera_words_are_no_patterns() -> None:
    assert without_camera_opening("(a+)+, [x]. y", "(a+)+", "[x]") == "y"


def test_cinema_is_one_unified_still_of_the_actors_shown() -> None:
    composed = brief(Category.CINEMA, "actor", "face")
    assert "One unified film still" in section(composed, "RULES")
    assert "exactly two actors" in composed.text
    assert "Image 2 — actor 2 of 2." in composed.text


# --- cartoon -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", ["front", "three-quarter", "side", "low-angle", "high-angle"])
@pytest.mark.parametrize("shot", ["portrait", "bust", "full-body"])
def test_cartoon_knows_its_cameras(angle: str, shot: str) -> None:
    assert brief(Category.CARTOON, "character", angle=angle, shot=shot).warnings == ()


@pytest.mark.parametrize(("number", "words"), [(1, "one character"), (2, "two characters"), (3, "three characters")])
def test_cartoon_says_how_many_characters(number: int, words: str) -> None:
    composed = brief(Category.CARTOON, *["character"] * number)
    assert f"exactly {words}" in composed.text.splitlines()[0]
    assert "on model" in section(composed, "REFERENCE IMAGES")
    assert "Scene light on everything" in section(composed, "RULES")


@pytest.mark.parametrize("fx", ["speed-lines", "impact", "aura", "emotion"])
def test_cartoon_effects(fx: str) -> None:
    composed = brief(Category.CARTOON, "character", fx=fx)
    assert section(composed, "EFFECT").lower().startswith(fx.replace("-", " "))
    assert composed.warnings == ()


@pytest.mark.parametrize("fx", ["none", "", "None"])
def test_no_effect_is_no_section(fx: str) -> None:
    composed = brief(Category.CARTOON, "character", fx=fx)
    assert "EFFECT" not in composed.text
    assert composed.warnings == ()


@pytest.mark.parametrize("category", [Category.CARTOON, Category.FASHION])
def test_an_unknown_effect_is_left_out_with_a_warning(category: Category) -> None:
    composed = brief(category, "model", fx="explosion")
    assert "explosion" not in composed.text
    assert composed.warnings[0].startswith('effect "explosion" left out')


# --- scenes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("category", Category)
def test_every_scene_has_a_mix_on_the_page_that_shows_it(category: Category) -> None:
    style = style_of(category)
    openings = [brief(category, *types).text.splitlines()[0] for types in style.mixes.values()]
    for style_scene in style.scenes:
        start = style_scene.opening.split("{count}")[0]
        assert any(opening.startswith(start) for opening in openings), style_scene.name
