"""The contact sheet: all pictures in order as one PNG, each with a caption."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from quel_dagster.errors import PictureError
from quel_dagster.jobs.pictures import thumbnail
from quel_dagster.pipeline.gallery.page import GalleryPicture

_CELL, _GAP, _CAPTION = 300, 24, 56
_PAGE_COLOUR, _INK, _SOFT = "#f5f3ef", "#1d1c1a", "#6f6a62"


def write_contact_sheet(path_png: Path, pictures: Sequence[GalleryPicture]) -> None:
    """Write all pictures in order on one sheet, each with a caption."""
    columns = max(1, min(6, math.ceil(math.sqrt(1.4 * len(pictures)))))
    cells = [_small(item.picture) for item in pictures]
    rows = [range(at, min(at + columns, len(pictures))) for at in range(0, len(pictures), columns)]
    heights = [max(cell.height if cell else _CELL // 2 for cell in (cells[i] for i in row)) for row in rows]
    size = (columns * (_CELL + _GAP) + _GAP, sum(heights) + len(rows) * (_CAPTION + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAGE_COLOUR)
    pen = ImageDraw.Draw(sheet)
    y = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            middle = _GAP + column * (_CELL + _GAP) + _CELL // 2
            cell = cells[i]
            if cell is None:
                pen.rectangle([middle - _CELL // 2, y, middle + _CELL // 2, y + height], outline=_SOFT)
                pen.text((middle, y + height / 2), "no picture", _SOFT, _font(18), anchor="mm")
            else:
                sheet.paste(cell, (middle - cell.width // 2, y + height - cell.height))
            for line, (text, colour, letters) in enumerate(_caption(pictures[i])):
                pen.text((middle, y + height + 18 + 22 * line), text, colour, _font(letters), anchor="mm")
        y += height + _CAPTION + _GAP
    sheet.save(path_png, "PNG")


def _small(picture: bytes | None) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(thumbnail(picture or b"", longest_side=_CELL, max_bytes=100_000)))
    except PictureError:
        return None


def _caption(item: GalleryPicture) -> Iterator[tuple[str, str, int]]:
    first = " · ".join(part for part in (item.category, item.camera) if part)
    types = ", ".join(reference.type for reference in item.references)
    second = " · ".join(part for part in (item.aspect_ratio, types) if part)
    for text, colour, size in ((first, _INK, 17), (second, _SOFT, 14)):
        yield _cut(text, _font(size)), colour, size


def _cut(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Cut `text` to one line as wide as a cell."""
    line = " ".join(text.split())[:120]
    while font.getlength(line) > _CELL:
        line = line.rstrip("…")[:-1].rstrip() + "…"
    return line


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101  Pillow is built with FreeType
    return font
