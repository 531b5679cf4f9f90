"""The stand-in's pictures show what the request held."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageChops

from quel_dagster.jobs.composing import compose
from quel_dagster.jobs.model import Category, Reference, Unit
from quel_dagster.sandbox import drawing
from quel_dagster.sandbox.drawing import CANVAS_SIZES, Phrases, PictureRequest, draw


def encoded(colour: str, size: tuple[int, int] = (200, 260)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def drawn(text: str = "A walk.", references: tuple[bytes, ...] = (), aspect_ratio: str = "16:9") -> Image.Image:
    with Image.open(io.BytesIO(draw(PictureRequest(text, references, aspect_ratio)))) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def shows(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    """Whether a good part of the picture has this colour."""
    counts = image.getcolors(image.width * image.height) or []
    return sum(count for count, found in counts if found == colour) > 2_000  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("aspect_ratio", CANVAS_SIZES)
def test_a_picture_has_the_shape_that_was_asked_for(aspect_ratio: str) -> None:
    image = drawn(aspect_ratio=aspect_ratio)
    width, height = map(int, aspect_ratio.split(":"))
    assert image.size == CANVAS_SIZES[aspect_ratio]
    assert image.width / image.height == pytest.approx(width / height, rel=0.04)


def test_every_reference_is_shown() -> None:
    image = drawn(references=(encoded("red"), encoded("lime"), encoded("blue")))
    assert all(shows(image, colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    assert not shows(drawn(references=(encoded("red"),)), (0, 0, 255))


def test_a_reference_that_does_not_decode_is_shown_as_broken() -> None:
    assert ImageChops.difference(drawn(references=(b"no picture",)), drawn()).getbbox()


def test_the_same_request_gives_the_same_bytes_and_another_another() -> None:
    request = PictureRequest("A walk.", (encoded("red"),), "4:3")
    assert draw(request) == draw(request)
    assert draw(request) != draw(PictureRequest("A run.", (encoded("red"),), "4:3"))
    assert draw(request) != draw(PictureRequest("A walk.", (encoded("blue"),), "4:3"))


@pytest.mark.parametrize("count", [0, 1, 2, 5, 9, 16])
@pytest.mark.parametrize("aspect_ratio", ["9:16", "21:9", "1:1"])
def test_any_number_of_references_fits(count: int, aspect_ratio: str) -> None:
    drawn(references=tuple(encoded("red", (50 + 40 * i, 90)) for i in range(count)), aspect_ratio=aspect_ratio)


@pytest.mark.parametrize("text", ["", "x" * 20_000, "word " * 4_000, "바지 👖 ünï\n\nCAMERA\n\nBRIEF\n", "A B\n" * 900])
def test_any_text_can_be_drawn(text: str) -> None:
    drawn(text)


def test_the_key_phrases_of_a_composed_text_are_found() -> None:
    unit = Unit(
        index=0,
        key="combo0",
        quantity=1,
        prompt="They run down the hill",
        negative_prompt="rain, fog",
        aspect_ratio="16:9",
        angle="three-quarter",
        shot="bust",
        fx="impact",
        references=(Reference(attach_id=1, type="character"), Reference(attach_id=2, type="bg")),
    )
    phrases = Phrases.of(compose(unit, Category.CARTOON).text)
    assert phrases.prompt == "They run down the hill"
    assert phrases.negative == "rain, fog"
    assert phrases.roles == {1: "character", 2: "background"}
    assert [label for label, _ in phrases.camera] == ["Angle", "Framing"]
    assert "three-quarter" in phrases.camera[0][1]
    assert "bust" in phrases.camera[1][1]
    assert "impact" in phrases.effect.lower()
    assert phrases.opening


def test_a_text_of_another_form_is_all_prompt() -> None:
    assert Phrases.of(" Paint a boat. ") == Phrases("", {}, (), "", "Paint a boat.", "")


@pytest.mark.parametrize("letter", ["가", "운", "화", "ㅎ", "漢", "é"])
def test_korean_letters_are_drawn_and_not_boxes(letter: str) -> None:
    font = drawing._font(40, letter)
    missing = font.getmask("\U000f0000")  # private use: no font has it
    drawn = font.getmask(letter)
    assert drawn.getbbox() is not None
    assert bytes(drawn) != bytes(missing)
