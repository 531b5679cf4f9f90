"""The gallery opens from disk, shows the requests, and trusts no text of a user."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from quel_dagster.pipeline.gallery.contact_sheet import write_contact_sheet
from quel_dagster.pipeline.gallery.page import GalleryJob, GalleryPicture, GalleryReference, write_gallery

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"


def webp(width: int = 80, height: int = 60, colour: str = "teal") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "WEBP")
    return out.getvalue()


def picture(**changes: Any) -> GalleryPicture:
    values: dict[str, Any] = {
        "picture": webp(),
        "slot": "u0001_p0002",
        "attach_id": 39100,
        "category": "fashion",
        "unit": "combo1_side_full",
        "angle": "side",
        "shot": "full",
        "fx": "none",
        "aspect_ratio": "3:4",
        "prompt": "A walk by the river",
        "negative_prompt": "umbrellas",
        "references": (GalleryReference(39070, "model", webp()), GalleryReference(39071, "top", None)),
        "credits": 20,
        "notes": ("reference 39071 left out",),
    }
    return GalleryPicture(**{**values, **changes})


def job(**changes: Any) -> GalleryJob:
    values: dict[str, Any] = {
        "job_id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
        "label": "Lookbook",
        "job_type": "single_batch",
        "category": "fashion",
        "status": "completed",
        "payer": "organization Atelier",
        "total_images": 3,
        "pictures": (picture(), picture(picture=None)),
        "credits": 20,
        "seconds": 4.25,
        "run_url": "http://127.0.0.1:3000/runs/r1",
    }
    return GalleryJob(**{**values, **changes})


class Page(HTMLParser):
    """The elements and the text of a page, as a browser parses it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gallery.html"


def test_it_shows_what_was_asked_for(path: Path) -> None:
    write_gallery(path, [job()], title="Results")
    text = " ".join(Page(path).text)
    for words in (
        "Results",
        "1 jobs · 1 pictures · 20 credits",
        "Lookbook",
        "single_batch · 1 of 3 pictures · 20 credits · paid by organization Atelier · 4.2 s",
        "completed",
        "side · full",
        "3:4",
        "A walk by the river",
        "umbrellas",
        "u0001_p0002",
        "39100",
        "combo1_side_full",
        "model",
        "reference 39071 left out",
        "no picture",
    ):
        assert words in text, words
    assert "http://127.0.0.1:3000/runs/r1" in Page(path).attributes("href")


def test_an_effect_is_part_of_the_camera() -> None:
    assert picture(fx="speed-lines").camera == "side · full · fx speed-lines"
    assert picture(fx="none", angle="").camera == "full"


def test_it_needs_no_other_file_and_no_network(path: Path) -> None:
    write_gallery(path, [job()], title="Results")
    page = Page(path)
    sources = page.attributes("src")
    assert len(sources) == 3, "one picture, one reference on each of two cards"
    for source in sources:
        head, _, data = source.partition(",")
        assert head == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.load()
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    assert "default-src 'none'" in " ".join(page.attributes("content"))


def test_pictures_are_embedded_small(path: Path) -> None:
    write_gallery(path, [job(pictures=(picture(picture=webp(3000, 2000)),))], title="Results")
    data = Page(path).attributes("src")[0].partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (560, 373)


def test_everything_is_escaped(path: Path) -> None:
    evil = picture(
        slot=EVIL,
        category=EVIL,
        unit=EVIL,
        angle=EVIL,
        shot=EVIL,
        fx=EVIL,
        aspect_ratio=EVIL,
        prompt=EVIL,
        negative_prompt=EVIL,
        references=(GalleryReference(1, EVIL, webp()), GalleryReference(2, EVIL, b"no picture")),
        notes=(EVIL,),
    )
    names = ("job_id", "label", "job_type", "category", "status", "payer", "error_message", "run_url")
    write_gallery(path, [job(pictures=(evil,), **dict.fromkeys(names, EVIL))], title=EVIL)
    page = Page(path)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not page.attributes("onerror")
    assert all(source.startswith("data:image/webp;base64,") for source in page.attributes("src"))
    assert sum(EVIL in text for text in page.text) >= 15, "what was typed is shown as it was typed"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//elsewhere/x", None])
def test_only_web_addresses_become_links(url: str | None, path: Path) -> None:
    write_gallery(path, [job(run_url=url)], title="Results")
    assert Page(path).attributes("href") == []


def test_a_picture_that_does_not_decode_is_no_picture(path: Path, tmp_path: Path) -> None:
    broken = picture(picture=b"RIFF nothing", references=())
    write_gallery(path, [job(pictures=(broken,))], title="Results")
    assert Page(path).attributes("src") == []
    write_contact_sheet(tmp_path / "sheet.png", [broken])


def test_no_jobs_make_an_empty_page(path: Path) -> None:
    write_gallery(path, [], title="Results")
    assert "0 jobs · 0 pictures · 0 credits" in " ".join(Page(path).text)


def test_the_contact_sheet_shows_every_picture_in_order(tmp_path: Path) -> None:
    colours = ["red", "lime", "blue", "yellow", "cyan", "magenta", "white"]
    pictures = [picture(picture=webp(300, 200, colour)) for colour in colours]
    write_contact_sheet(tmp_path / "sheet.png", pictures)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        seen = [(r > 128, g > 128, b > 128) for r, g, b in _cells(sheet.convert("RGB"), len(pictures))]
    wanted = [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in colours]
    assert seen == [tuple(channel > 128 for channel in colour) for colour in wanted]  # type: ignore[union-attr]


def _cells(sheet: Image.Image, count: int) -> list[tuple[int, int, int]]:
    """The colour in the middle of each cell: cells of 300 × 200, gaps of 24, captions of 56 pixels."""
    columns = (sheet.width - 24) // 324
    places = ((24 + i % columns * 324 + 150, 24 + i // columns * 280 + 100) for i in range(count))
    return [sheet.getpixel(place) for place in places]  # type: ignore[misc]


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_a_contact_sheet_of_any_length(count: int, tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "sheet.png", [picture(picture=None)] * count)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 0


@pytest.mark.parametrize("before", [None, 0o644])
def test_the_page_is_readable_only_by_its_owner(tmp_path: Path, before: int | None) -> None:
    page = tmp_path / "page.html"
    if before:
        page.touch(before)
    write_gallery(page, [], title="x")
    assert page.stat().st_mode & 0o777 == 0o600
