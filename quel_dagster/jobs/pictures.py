"""Check reference pictures, lay them out for a request, encode pictures for the store (domain.md §5, §7).

Pure functions over bytes, safe in worker threads: no Pillow image is shared between two calls. A `Picture` keeps
its encoded bytes, not its pixels: a 40 Mpx photograph is 120 MB decoded, and drawing one at the size of a
request needs a small part of that.

Not here: decoding and its limits (`decoding`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from PIL import Image

from quel_dagster.errors import PictureError
from quel_dagster.jobs.ai_mark import XMP
from quel_dagster.jobs.colours import foreign_profile
from quel_dagster.jobs.decoding import (
    MIME_TYPES,
    SIDEWAYS,
    completed_jpeg,
    decoded_pixels,
    drawn,
    is_animated,
    is_turned,
    opened,
    orientation,
    scaled,
    standard,
    without_text_chunks,
)
from quel_dagster.jobs.model import Arrangement, ImagePart, PartLayout
from quel_dagster.jobs.pixel_budget import PIXEL_BUDGET

#: bytes of a picture from Gemini
MAX_RESULT_BYTES: Final = 64_000_000

#: bytes; a single picture above this is re-encoded, because Gemini limits the size of a whole request
MAX_AS_IS_BYTES: Final = 4_000_000
#: pixels of one part; only 1:1 grids, which keep their own size, and re-encoded pictures come near it
MAX_PART_PIXELS: Final = 4_000_000

#: size of a fitted grid, width × height in pixels (domain.md §5)
REQUEST_SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "4:3": (1152, 896),
    "3:4": (896, 1152),
}
OTHER_REQUEST_SIZE: Final = (1024, 1024)
#: grids for this aspect ratio keep their own size
OWN_SIZE_RATIO: Final = "1:1"

#: formats and modes that Gemini reads, so that such a picture is not re-encoded
_GEMINI_FORMATS: Final = frozenset({"JPEG", "MPO", "PNG", "WEBP"})
_GEMINI_MODES: Final = frozenset({"L", "RGB", "RGBA"})

_WEBP_QUALITY: Final = 90
_WEBP_METHOD: Final = 2
_WEBP_MAX_SIDE: Final = 16_383
#: pixels of the longest side, and bytes, of a thumbnail
THUMBNAIL_SIDE: Final = 256
THUMBNAIL_BYTES: Final = 12_000
_THUMBNAIL_QUALITIES: Final = (80, 65, 50, 35, 20)

_WHITE: Final = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that decodes from end to end, as checked once."""

    #: the bytes as received, repaired if they were slightly invalid
    data: bytes = field(repr=False)
    mime_type: str
    #: pixels, upright
    width: int
    height: int
    #: Gemini reads these bytes unchanged
    as_is: bool


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture as it is stored (domain.md §7)."""

    #: WebP
    data: bytes = field(repr=False)
    #: pixels
    width: int
    height: int
    #: small WebP for the UI
    thumbnail: bytes = field(repr=False)


def load_picture(data: bytes) -> Picture:
    """Check a reference: an allowed format, within the limits of `decoding`, and all of it decodes.

    Raises:
        PictureError: it is not such a picture; one line says why.
    """
    try:
        return _checked(data)
    except PictureError:
        completed = completed_jpeg(data)
        if completed is None:
            raise
    return _checked(completed)


def _checked(data: bytes) -> Picture:
    data = without_text_chunks(data)
    with opened(data) as image:
        width, height = image.size
        # At any scale every byte is read; the smallest takes the least time and memory.
        image.draft(image.mode, (1, 1))
        with PIXEL_BUDGET.hold(decoded_pixels(image)):
            image.load()
        unchanged = (
            image.format in _GEMINI_FORMATS
            and image.mode in _GEMINI_MODES
            and not is_turned(image)
            and not is_animated(image)
            and foreign_profile(image) is None
        )
        if orientation(image) in SIDEWAYS:
            width, height = height, width
        return Picture(
            data=data,
            mime_type=MIME_TYPES[image.format or ""],
            width=width,
            height=height,
            as_is=unchanged and len(data) <= MAX_AS_IS_BYTES and width * height <= MAX_PART_PIXELS,
        )


def render_part(layout: PartLayout, pictures: Mapping[int, Picture], aspect_ratio: str) -> ImagePart:
    """Return one image part of a request (domain.md §5); references without a picture are left out.

    A single picture is sent unchanged if Gemini can read it. Several are pasted centred into a grid with cells as large
    as the largest picture; the grid is then fitted to the size of the request and padded with white.

    Raises:
        PictureError: none of the references has a picture.
    """
    shown = [pictures[attach_id] for attach_id in layout.attach_ids if attach_id in pictures]
    if not shown:
        raise PictureError(f"none of the {layout.role} references has a picture")
    if len(shown) > 1:
        columns = 2 if layout.arrangement is Arrangement.PAIR else math.ceil(math.sqrt(len(shown)))
        return _encoded_part(_grid(shown, columns, aspect_ratio))
    [picture] = shown
    if picture.as_is:
        return ImagePart.of(picture.data, picture.mime_type)
    scale = _part_scale(picture.width * picture.height)
    return _encoded_part(_on_white(drawn(picture.data, scale)))


def to_webp(data: bytes) -> StoredPicture:
    """Encode Gemini's picture, of any format, as WebP of quality 90 (domain.md §7), upright, in sRGB.

    The result carries the mark "made by AI".

    Raises:
        PictureError: it is not a picture, or is larger than 64 MB or 50 megapixels.
    """
    with opened(data, MAX_RESULT_BYTES) as image:
        if max(image.size) > _WEBP_MAX_SIDE:
            raise PictureError(f"the picture is {_shown_size(image)}, and WebP ends at {_WEBP_MAX_SIDE} pixels a side")
        with PIXEL_BUDGET.hold(decoded_pixels(image)):
            upright = standard(image, 1.0)
            encoded = _webp(upright, _WEBP_QUALITY, _WEBP_METHOD, xmp=XMP)
            size = scaled(upright.size, min(1.0, THUMBNAIL_SIDE / max(upright.size)))
            small = upright.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
            return StoredPicture(encoded, upright.width, upright.height, _within(THUMBNAIL_BYTES, small))


def thumbnail(data: bytes, *, longest_side: int = THUMBNAIL_SIDE, max_bytes: int = THUMBNAIL_BYTES) -> bytes:
    """Return a small WebP for the UI: at most `longest_side` pixels and `max_bytes` bytes.

    Raises:
        PictureError: it is not a picture.
    """
    with opened(data) as image:
        return _within(max_bytes, standard(image, min(1.0, longest_side / max(image.size))))


def _within(max_bytes: int, small: Image.Image) -> bytes:
    """Return a WebP of at most `max_bytes` bytes, of lower quality or fewer pixels if necessary."""
    while True:
        for quality in _THUMBNAIL_QUALITIES:
            encoded = _webp(small, quality, method=4)
            if len(encoded) <= max_bytes:
                return encoded
        if small.size == (1, 1):
            raise PictureError(f"no thumbnail fits into {max_bytes} bytes")
        small = small.resize((max(1, small.width // 2), max(1, small.height // 2)), Image.Resampling.LANCZOS)


# --- layout ------------------------------------------------------------------------------------------


def _grid(pictures: list[Picture], columns: int, aspect_ratio: str) -> Image.Image:
    """Paste the pictures into a fitted grid.

    The rule is: paste at full size, then scale the grid. The scale is known beforehand, so each picture is decoded,
    scaled and pasted at its final position: the same result without a full-size canvas.
    """
    rows = math.ceil(len(pictures) / columns)
    cell_width = max(picture.width for picture in pictures)
    cell_height = max(picture.height for picture in pictures)
    width, height = columns * cell_width, rows * cell_height
    if aspect_ratio == OWN_SIZE_RATIO:
        scale = _part_scale(width * height)
        canvas_size = scaled((width, height), scale)
    else:
        canvas_size = REQUEST_SIZES.get(aspect_ratio, OTHER_REQUEST_SIZE)
        scale = min(canvas_size[0] / width, canvas_size[1] / height)
    left = (canvas_size[0] - width * scale) / 2
    top = (canvas_size[1] - height * scale) / 2

    canvas = Image.new("RGB", canvas_size, _WHITE)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        shown = drawn(picture.data, scale)
        x = left + (column + 0.5) * cell_width * scale - shown.width / 2
        y = top + (row + 0.5) * cell_height * scale - shown.height / 2
        canvas.paste(shown, (round(x), round(y)), shown if shown.mode == "RGBA" else None)
    return canvas


def _part_scale(pixels: int) -> float:
    """Return the scale of a part that keeps its own size: 1 up to `MAX_PART_PIXELS` pixels."""
    return min(1.0, math.sqrt(MAX_PART_PIXELS / pixels))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGB", image.size, _WHITE)
    canvas.paste(image, mask=image)
    return canvas


# --- encoding ----------------------------------------------------------------------------------------


def _encoded_part(image: Image.Image) -> ImagePart:
    """Encode a drawn part for the request; the figures are in docs/decisions/imaging.md."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    return ImagePart.of(buffer.getvalue(), "image/jpeg")


def _webp(image: Image.Image, quality: int, method: int, *, xmp: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=method, xmp=xmp)
    return buffer.getvalue()


def _shown_size(image: Image.Image) -> str:
    return f"{image.width}×{image.height}"
