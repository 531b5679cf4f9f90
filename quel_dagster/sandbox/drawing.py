"""The pictures that the stand-in Gemini answers with: drawn so that a mistake in planning is seen at a glance.

A picture shows what the request held: the numbered reference pictures it got, the aspect ratio as its own shape,
and the key phrases of the text (camera, first words of the user's prompt). Flat drawing with Pillow, cheap on
purpose: tens of milliseconds of CPU, the same request always gives the same picture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

#: width × height in pixels of what Gemini makes of an aspect ratio (domain.md §5 and Gemini's further ratios)
CANVAS_SIZES = {
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
}


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """What a request to `generateContent` asks for, as far as a drawing shows it."""

    text: str
    #: encoded reference pictures, in order
    references: tuple[bytes, ...]
    aspect_ratio: str


def draw(request: PictureRequest) -> bytes:
    """The picture for a request, as PNG."""
    width, height = CANVAS_SIZES.get(request.aspect_ratio, CANVAS_SIZES["1:1"])
    canvas = Image.new("RGB", (width, height), "#d8cfc4")
    pen = ImageDraw.Draw(canvas)
    pen.text((40, 40), request.text[:60], fill="black", font=ImageFont.load_default(32))
    out = io.BytesIO()
    canvas.save(out, "PNG", compress_level=1)
    return out.getvalue()
