"""Draw the pictures of the stand-in Gemini, so that a mistake in planning is visible.

A picture shows the request: the numbered reference pictures with the roles that the text gives them, the
aspect ratio as its own shape, and the key phrases of the text (kind of picture, camera, effect, first words of the
user's prompt). The backdrop is the background reference, blurred, or a ground in the colours of the kind of scene.

A picture takes some tens of milliseconds of CPU; the same request always gives the same picture.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pylopdf_fonts_ko
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

#: size of Gemini's picture for an aspect ratio, width × height in pixels
CANVAS_SIZES: Mapping[str, tuple[int, int]] = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "4:3": (1152, 896),
    "3:4": (896, 1152),
    "3:2": (1248, 832),
    "2:3": (832, 1248),
    "5:4": (1152, 896),
    "4:5": (896, 1152),
    "21:9": (1536, 672),
    "4:1": (2048, 512),
    "1:4": (512, 2048),
    "8:1": (2944, 368),
    "1:8": (368, 2944),
}


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """The fields of a request to `generateContent` that a drawing shows."""

    text: str
    #: encoded reference pictures, in order
    references: tuple[bytes, ...]
    aspect_ratio: str


# --- reading the text ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phrases:
    """The key phrases of a composed text; empty where it has none."""

    #: first clause of the opening: what kind of picture this is
    opening: str
    #: role of each numbered reference, by its number from 1
    roles: Mapping[int, str]
    #: label and first clause of each line about the camera
    camera: tuple[tuple[str, str], ...]
    effect: str
    #: the user's own words
    prompt: str
    #: the user's negative prompt
    negative: str

    @classmethod
    def of(cls, text: str) -> Phrases:
        """Read a text of sections under headings in capitals; any other text is all prompt."""
        heads = re.split(r"^([A-Z][A-Z ]+)$", text, flags=re.MULTILINE)
        sections = dict(zip(heads[1::2], heads[2::2], strict=True))
        if not sections:
            return cls("", {}, (), "", text.strip(), "")
        brief = sections.get("BRIEF", "").strip()
        camera = (line.partition(": ") for line in sections.get("CAMERA", "").strip().splitlines())
        negative = re.search(r"^- Also[^:]*: (.+)$", sections.get("AVOID", ""), re.MULTILINE)
        return cls(
            opening=_clause(heads[0]),
            roles={
                int(number): role.strip()
                for number, role in re.findall(
                    r"^Image (\d+)[ :(—–-]+([^,.:)]+)", sections.get("REFERENCE IMAGES", ""), re.M
                )
            },
            camera=tuple((label, _clause(words)) for label, colon, words in camera if colon),
            effect=_clause(sections.get("EFFECT", "")),
            prompt=brief.partition("\n")[2].strip() or brief,
            negative=negative[1] if negative else "",
        )


def _clause(text: str) -> str:
    """Return the first clause of a text."""
    return re.split(r"[.;:,](?:\s|$)|\s[—–]\s", text.strip(), maxsplit=1)[0].strip()


# --- colours of the kinds of scene -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ground:
    """The colours of a picture without a background reference."""

    #: words of the opening that call for it
    words: tuple[str, ...]
    top: str
    bottom: str
    accent: str


GROUNDS: Mapping[str, Ground] = {
    "film": Ground(("film", "cinema", "movie"), "#16242f", "#4a3a33", "#e0a458"),
    "cartoon": Ground(("cartoon", "comic", "drawing", "illustration", "animation"), "#8bd3f7", "#fdf1c7", "#ef476f"),
    "food": Ground(("food", "dish", "plate", "meal", "table"), "#7a5236", "#c79a6b", "#f2c14e"),
    "beauty": Ground(("beauty", "cosmetic", "skin", "make-up", "product"), "#f7e3df", "#dcb6b0", "#b5495b"),
    "fashion": Ground(("fashion", "garment", "clothing"), "#e9e4dc", "#a9a096", "#c2572b"),
}


def _ground_for(phrases: Phrases) -> Ground:
    said = (phrases.opening or phrases.prompt).lower()
    return next((g for g in GROUNDS.values() if any(word in said for word in g.words)), GROUNDS["fashion"])


# --- drawing ---------------------------------------------------------------------------------------------

_INK, _PAPER = "#17181c", "#ffffff"


def draw(request: PictureRequest) -> bytes:
    """Draw the picture for a request, as PNG."""
    phrases = Phrases.of(request.text)
    thumbnails = [_thumbnail(picture) for picture in request.references]
    ground = _ground_for(phrases)
    canvas = _backdrop(request.aspect_ratio, phrases, thumbnails, ground)
    width, height = canvas.size
    pen = ImageDraw.Draw(canvas, "RGBA")
    margin = round(min(width, height) * 0.04)
    top = _header(pen, request, phrases, margin)
    bottom = _footer(pen, phrases, ground, (width, height), margin)
    _cards(canvas, pen, thumbnails, phrases, ground, (margin, top + margin, width - margin, bottom - margin))
    out = io.BytesIO()
    canvas.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _backdrop(
    aspect_ratio: str, phrases: Phrases, thumbnails: Sequence[Image.Image | None], ground: Ground
) -> Image.Image:
    size = CANVAS_SIZES.get(aspect_ratio, CANVAS_SIZES["1:1"])
    for number, role in phrases.roles.items():
        place = thumbnails[number - 1] if number <= len(thumbnails) else None
        if place is not None and role == "background":
            small = ImageOps.fit(place, (size[0] // 48, size[1] // 48))
            return small.resize(size, Image.Resampling.BICUBIC)
    return _gradient(size, ground).copy()


@lru_cache(64)
def _gradient(size: tuple[int, int], ground: Ground) -> Image.Image:
    ramp = ImageOps.colorize(Image.linear_gradient("L"), ground.top, ground.bottom)
    canvas = ramp.resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas, "RGBA")
    width, height = size
    pen.ellipse([-0.2 * width, height * 0.74, 1.2 * width, height * 1.7], fill="#ffffff1e")
    pen.ellipse([width * 0.62, -0.35 * height, width * 1.25, height * 0.6], fill="#ffffff16")
    return canvas


def _header(pen: ImageDraw.ImageDraw, request: PictureRequest, phrases: Phrases, margin: int) -> int:
    """Draw kind and camera at the top left, aspect ratio at the top right; return the lower edge."""
    width, height = CANVAS_SIZES.get(request.aspect_ratio, CANVAS_SIZES["1:1"])
    unit = min(width, height) / 100
    ratio = f"{request.aspect_ratio}  ·  {width} x {height}"
    small, large = _font(3.0 * unit, phrases.opening), _font(3.7 * unit, str(phrases.camera))
    x, y = margin, margin
    tag = _pill(pen, (width - margin, y), ratio, small, _PAPER, "#000000a0", right=True)
    room = width - 2 * margin
    if phrases.opening:
        _pill(pen, (x, y), _cut(phrases.opening, small, tag - x - 2 * margin), small, _PAPER, "#000000a0")
    y += round(6.4 * unit)
    effect = (("Effect", phrases.effect),) if phrases.effect else ()
    for label, words in (*phrases.camera, *effect):
        _pill(pen, (x, y), _cut(f"{label.upper()}   {words}", large, room - 4 * unit), large, _INK, "#ffffffe0")
        y += round(7.2 * unit)
    return y


def _footer(pen: ImageDraw.ImageDraw, phrases: Phrases, ground: Ground, size: tuple[int, int], margin: int) -> int:
    """Draw the user's words over the lower edge; return the upper edge of their panel."""
    width, height = size
    unit = min(width, height) / 100
    font, small = _font(3.7 * unit, phrases.prompt), _font(2.8 * unit, phrases.negative)
    room = width - 4 * margin
    lines = [(line, font, _PAPER) for line in _wrapped(f"“{phrases.prompt}”", font, room, most=3)]
    if phrases.negative:
        lines.append((_cut(f"without: {phrases.negative}", small, room), small, "#ffd9cf"))
    step = round(5.0 * unit)
    upper = height - margin - len(lines) * step - margin
    pen.rounded_rectangle([margin, upper, width - margin, height - margin], margin / 2, fill="#0d0e12c8")
    pen.rectangle([margin, upper + margin * 0.6, margin + unit, height - margin * 1.6], fill=ground.accent)
    for i, (line, face, colour) in enumerate(lines):
        pen.text((2 * margin, upper + margin / 2 + (i + 0.5) * step), line, fill=colour, font=face, anchor="lm")
    return upper


def _cards(  # noqa: PLR0917  what to draw, with what, and where
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    thumbnails: Sequence[Image.Image | None],
    phrases: Phrases,
    ground: Ground,
    box: tuple[int, int, int, int],
) -> None:
    """Draw the references as numbered cards, as large as the box allows."""
    left, top, right, bottom = box
    unit = min(canvas.size) / 100
    count = len(thumbnails)
    if count == 0:
        words = "no reference pictures"
        font = _font(4 * unit)
        pen.text(((left + right) / 2, (top + bottom) / 2), words, fill=ground.accent, font=font, anchor="mm")
        return
    columns = max(range(1, count + 1), key=lambda n: min((right - left) / n, (bottom - top) / math.ceil(count / n)))
    rows = math.ceil(count / columns)
    caption, border = round(5 * unit), round(1.2 * unit)
    cell_width, cell_height = (right - left) / columns, (bottom - top) / rows
    font, badge = _font(2.9 * unit), _font(3.4 * unit)
    for i, thumbnail in enumerate(thumbnails):
        in_row = min(columns, count - i // columns * columns)
        x = (left + right) / 2 + (i % columns - in_row / 2 + 0.5) * cell_width
        y = top + (i // columns + 0.5) * cell_height
        room = (cell_width - 4 * border - 2 * unit, cell_height - caption - 4 * border)
        picture = ImageOps.contain(
            thumbnail or _unreadable(), (max(8, round(room[0])), max(8, round(room[1]))), Image.Resampling.BILINEAR
        )
        w, h = picture.size
        card = [x - w / 2 - border, y - (h + caption) / 2 - border, x + w / 2 + border, y + (h + caption) / 2 + border]
        pen.rounded_rectangle([card[0] + unit, card[1] + unit, card[2] + unit, card[3] + unit], border, "#00000046")
        pen.rounded_rectangle(card, border, fill=_PAPER)
        canvas.paste(picture, (round(card[0] + border), round(card[1] + border)))
        role = _cut(phrases.roles.get(i + 1, "reference"), font, w)
        pen.text((x, card[3] - border - caption / 2), role, fill=_INK, font=font, anchor="mm")
        pen.ellipse(
            [card[0] - 2.4 * unit, card[1] - 2.4 * unit, card[0] + 3.4 * unit, card[1] + 3.4 * unit], fill=ground.accent
        )
        pen.text((card[0] + unit / 2, card[1] + unit / 2), str(i + 1), fill=_PAPER, font=badge, anchor="mm")


def _pill(  # noqa: PLR0917  a place, a text and its looks
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    ink: str,
    fill: str,
    *,
    right: bool = False,
) -> float:
    """Draw a label on a rounded ground; `corner` is its upper left or upper right one. Return its left edge."""
    height, pad = font.size * 1.55, font.size * 0.6
    width = font.getlength(text) + 2 * pad
    x, y = (corner[0] - width if right else corner[0]), corner[1]
    pen.rounded_rectangle([x, y, x + width, y + height], height / 2, fill=fill)
    pen.text((x + pad, y + height / 2), text, fill=ink, font=font, anchor="lm")
    return x


# --- letters ---------------------------------------------------------------------------------------------

#: Pillow's own font has ASCII and these; anything else, such as Korean, is set in Noto Sans KR
_OWN_LETTERS = "·–“”‘’…°"


def _font(size: float, text: str = "") -> ImageFont.FreeTypeFont:
    return _sized_font(round(size), any(not c.isascii() and c not in _OWN_LETTERS for c in text))


@lru_cache(64)
def _sized_font(size: int, korean: bool) -> ImageFont.FreeTypeFont:
    if korean:
        return ImageFont.truetype(pylopdf_fonts_ko.sans_path(), size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101  Pillow is built with FreeType
    return font


def _cut(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """Return `text` cut to one line no wider than `room` pixels."""
    text = " ".join(text[:300].split(" ")).replace("\n", " ")
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, room: float, *, most: int) -> list[str]:
    """Return `text` in at most `most` lines no wider than `room` pixels."""
    words = text[:600].split()
    lines: list[str] = []
    while words and len(lines) < most:
        taken = 1
        while taken < len(words) and font.getlength(" ".join(words[: taken + 1])) <= room:
            taken += 1
        if len(lines) == most - 1:
            taken = len(words)
        lines.append(_cut(" ".join(words[:taken]), font, room))
        words = words[taken:]
    return lines


# --- references ------------------------------------------------------------------------------------------

_THUMBNAIL = 480
_CACHED_THUMBNAILS = 256
_thumbnails: OrderedDict[bytes, Image.Image | None] = OrderedDict()
_thumbnails_lock = threading.Lock()


def _thumbnail(data: bytes) -> Image.Image | None:
    """Return a small version of an encoded picture, None if it is not one. Cached: requests repeat references."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    with _thumbnails_lock:
        if digest in _thumbnails:
            _thumbnails.move_to_end(digest)
            return _thumbnails[digest]
    thumbnail = _decoded(data)
    with _thumbnails_lock:
        _thumbnails[digest] = thumbnail
        while len(_thumbnails) > _CACHED_THUMBNAILS:
            _thumbnails.popitem(last=False)
    return thumbnail


def _decoded(data: bytes) -> Image.Image | None:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.draft("RGB", (_THUMBNAIL, _THUMBNAIL))
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


@lru_cache(1)
def _unreadable() -> Image.Image:
    """Draw a crossed field in place of a reference that does not decode."""
    field = Image.new("RGB", (240, 240), "#f3d6d6")
    pen = ImageDraw.Draw(field)
    pen.line([(0, 0), (240, 240)], fill="#c0392b", width=8)
    pen.line([(0, 240), (240, 0)], fill="#c0392b", width=8)
    return field
