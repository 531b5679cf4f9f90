"""Pictures: checked when they come in, laid out for a request, encoded for the store (domain.md §5, §7).

Pure functions over bytes, safe in worker threads: no Pillow image is shared between two calls. A `Picture` keeps
the bytes it came in, not its pixels: a 40 Mpx photograph is 120 MB decoded, and drawing one at the size of a
request needs a small part of that.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

# Imported for what they register: left to Pillow, the first calls of several threads would all do it at once.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from quel_dagster.errors import PictureError
from quel_dagster.jobs.model import Arrangement, ImagePart, PartLayout

MAX_BYTES: Final = 20_000_000
MAX_PIXELS: Final = 40_000_000

#: a single picture above this is encoded anew: Gemini bounds the size of a whole request
MAX_AS_IS_BYTES: Final = 4_000_000
#: pixels of one part; only 1:1 grids, which keep their own size, and pictures encoded anew come near it
MAX_PART_PIXELS: Final = 16_000_000

#: what grids are fitted to, width × height in pixels (domain.md §5)
REQUEST_SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "4:3": (1152, 896),
    "3:4": (896, 1152),
}
OTHER_REQUEST_SIZE: Final = (1024, 1024)
#: grids for this aspect ratio keep their own size
OWN_SIZE_RATIO: Final = "1:1"

#: Pillow's name of each format that is let in → its MIME type
MIME_TYPES: Final[Mapping[str, str]] = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # what telephones write: a JPEG with further pictures behind it
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}
_FORMATS: Final = tuple(name for name in MIME_TYPES if name != "MPO")  # opened by the JPEG plugin
_FORMAT_NAMES: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
#: what Gemini reads, so that such a picture need not be encoded anew
_GEMINI_FORMATS: Final = frozenset({"JPEG", "MPO", "PNG", "WEBP"})
_GEMINI_MODES: Final = frozenset({"L", "RGB", "RGBA"})

_WEBP_QUALITY: Final = 90
_WEBP_METHOD: Final = 2
_WEBP_MAX_SIDE: Final = 16_383
_THUMBNAIL_QUALITIES: Final = (80, 65, 50, 35, 20)

#: a JPEG has a dozen scans at most; thousands of them are a way to keep a decoder busy for hours
_JPEG_SCAN: Final = b"\xff\xda"
_MAX_JPEG_SCANS: Final = 200

_TURNS: Final[Mapping[int, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})
_WHITE: Final = (255, 255, 255)

#: what Pillow's decoders raise over broken bytes
_BROKEN: Final = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    ArithmeticError,
    EOFError,
    TypeError,
    MemoryError,
    RuntimeError,  # AVIF
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was decoded once from end to end and found good."""

    #: the bytes as they came
    data: bytes = field(repr=False)
    mime_type: str
    #: pixels, upright
    width: int
    height: int
    #: Gemini reads these very bytes, and nothing about them has to be changed
    as_is: bool


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture as it goes into the store (domain.md §7)."""

    #: WebP
    data: bytes = field(repr=False)
    #: pixels
    width: int
    height: int


def load_picture(data: bytes) -> Picture:
    """Check a reference: an allowed format, at most 20 MB and 40 Mpx, and every byte of it decodes.

    Raises:
        PictureError: it is not such a picture; one line says why.
    """
    with _opened(data) as image:
        width, height = image.size
        # At any scale every byte is read; the smallest takes the least time and memory.
        image.draft(image.mode, (1, 1))
        image.load()
        orientation = _orientation(image)
        unchanged = (
            image.format in _GEMINI_FORMATS
            and image.mode in _GEMINI_MODES
            and orientation not in _TURNS
            and not _is_animated(image)
            and _foreign_profile(image) is None
        )
        if orientation in _SIDEWAYS:
            width, height = height, width
        return Picture(
            data=data,
            mime_type=MIME_TYPES[image.format or ""],
            width=width,
            height=height,
            as_is=unchanged and len(data) <= MAX_AS_IS_BYTES,
        )


def render_part(layout: PartLayout, pictures: Mapping[int, Picture], aspect_ratio: str) -> ImagePart:
    """One image part of a request (domain.md §5); references without a picture are left out.

    A single picture goes as it is where Gemini can read it. Several are pasted centred into a grid whose cells are as
    large as the largest of them, which is then fitted to the size of the request, padded with white.

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
        return ImagePart(data=picture.data, mime_type=picture.mime_type)
    scale = _part_scale(picture.width * picture.height)
    return _encoded_part(_on_white(_drawn(picture.data, scale)))


def to_webp(data: bytes) -> StoredPicture:
    """A picture as Gemini returned it, in any format, as WebP of quality 90 (domain.md §7), upright, in sRGB.

    Raises:
        PictureError: it is not a picture, or is larger than 20 MB or 40 Mpx.
    """
    image = _drawn(data)
    if max(image.size) > _WEBP_MAX_SIDE:
        raise PictureError(f"the picture is {_shown_size(image)}, and WebP ends at {_WEBP_MAX_SIDE} pixels a side")
    return StoredPicture(_webp(image, _WEBP_QUALITY, _WEBP_METHOD), image.width, image.height)


def thumbnail(data: bytes, *, longest_side: int = 256, max_bytes: int = 12_000) -> bytes:
    """A small WebP for the UI: at most `longest_side` pixels and `max_bytes` bytes.

    Raises:
        PictureError: it is not a picture.
    """
    with _opened(data) as image:
        small = _standard(image, min(1.0, longest_side / max(image.size)))
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
    """Paste and fit in one go.

    The rule is: paste at full size, then scale the grid. The scale is known beforehand, so each picture is decoded and
    scaled on its own and pasted where it would have ended up: the same picture, without a canvas of all pixels.
    """
    rows = math.ceil(len(pictures) / columns)
    cell_width = max(picture.width for picture in pictures)
    cell_height = max(picture.height for picture in pictures)
    width, height = columns * cell_width, rows * cell_height
    if aspect_ratio == OWN_SIZE_RATIO:
        scale = _part_scale(width * height)
        canvas_size = _scaled((width, height), scale)
    else:
        canvas_size = REQUEST_SIZES.get(aspect_ratio, OTHER_REQUEST_SIZE)
        scale = min(canvas_size[0] / width, canvas_size[1] / height)
    left = (canvas_size[0] - width * scale) / 2
    top = (canvas_size[1] - height * scale) / 2

    canvas = Image.new("RGB", canvas_size, _WHITE)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        shown = _drawn(picture.data, scale)
        x = left + (column + 0.5) * cell_width * scale - shown.width / 2
        y = top + (row + 0.5) * cell_height * scale - shown.height / 2
        canvas.paste(shown, (round(x), round(y)), shown if shown.mode == "RGBA" else None)
    return canvas


def _part_scale(pixels: int) -> float:
    """How much a part that keeps its own size is scaled: not at all up to `MAX_PART_PIXELS`."""
    return min(1.0, math.sqrt(MAX_PART_PIXELS / pixels))


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGB", image.size, _WHITE)
    canvas.paste(image, mask=image)
    return canvas


# --- decoding ----------------------------------------------------------------------------------------


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture with its header read and its limits checked; broken bytes raise PictureError, in the block too."""
    if not data:
        raise PictureError("the file is empty")
    if len(data) > MAX_BYTES:
        raise PictureError(f"the file has {len(data):,} bytes; at most {MAX_BYTES // 10**6} MB are read")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_limits(image, data)
            yield image
    except UnidentifiedImageError:
        raise PictureError(f"the file is not a {_FORMAT_NAMES} picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"the picture has more than {MAX_PIXELS // 10**6} megapixels; make it smaller") from None
    except _BROKEN as error:
        raise PictureError(f"the picture is damaged or cut short ({type(error).__name__}: {error})") from error


def _check_limits(image: Image.Image, data: bytes) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if image.format in {"JPEG", "MPO"} and data.count(_JPEG_SCAN) > _MAX_JPEG_SCANS:
        raise PictureError("the JPEG has far too many scans to be a photograph; save it anew")


def _drawn(data: bytes, scale: float = 1.0) -> Image.Image:
    with _opened(data) as image:
        return _standard(image, scale)


def _standard(image: Image.Image, scale: float) -> Image.Image:
    """The first frame as RGB or RGBA of 8 bits in sRGB, upright and scaled; RGBA only where something shows through."""
    size = _scaled(image.size, scale)
    # A JPEG decodes at ½, ¼ or ⅛ for less; twice the size wanted is left for good resampling.
    drafted = image.draft(image.mode, (2 * size[0], 2 * size[1])) if scale < 1 else None
    image.load()
    orientation = _orientation(image)
    profile = _foreign_profile(image)
    pixels = _eight_bit(image)
    if pixels.size != size:
        box = drafted[1] if drafted else None
        pixels = pixels.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
    pixels = _in_srgb(pixels, profile)
    if orientation in _TURNS:
        pixels = pixels.transpose(_TURNS[orientation])
    if pixels.mode == "RGBA" and pixels.getchannel("A").getextrema()[0] == 255:
        pixels = pixels.convert("RGB")
    pixels.info = {}  # encoders would copy a profile from here that no longer holds
    return pixels


def _orientation(image: Image.Image) -> int:
    value: Any = image.getexif().get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) else 1


def _is_animated(image: Image.Image) -> bool:
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Eight bits a channel and no palette, so that it can be resampled."""
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip at 255 instead of scaling
        brightest: Any = image.getextrema()[1]
        tops = (65_535,) if image.mode.startswith("I;16") else (1, 255, 65_535)
        white = next((top for top in tops if brightest <= top), brightest)
        return image.convert("F").point(lambda value: value * (255 / white)).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in {"L", "RGB", "CMYK", "LAB"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _foreign_profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The colour profile, unless there is none, it is sRGB, or it cannot be read."""
    raw = image.info.get("icc_profile")
    if not raw:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(raw))
        return None if "sRGB" in ImageCms.getProfileDescription(profile) else profile
    except (ImageCms.PyCMSError, OSError):
        return None


def _in_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile | None) -> Image.Image:
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    if profile is not None:
        try:
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
        except ImageCms.PyCMSError:
            pass  # a profile of another kind of picture (RGB on grey): without it the colours are nearly right
        else:
            if converted is not None:
                return converted
    return image if image.mode == mode else image.convert(mode)


# --- encoding ----------------------------------------------------------------------------------------


def _encoded_part(image: Image.Image) -> ImagePart:
    """How a drawn part travels; docs/decisions/imaging.md has the figures."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return ImagePart(data=buffer.getvalue(), mime_type="image/jpeg")


def _webp(image: Image.Image, quality: int, method: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=method)
    return buffer.getvalue()


def _shown_size(image: Image.Image) -> str:
    return f"{image.width}×{image.height}"
