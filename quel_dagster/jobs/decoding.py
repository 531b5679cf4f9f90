"""Decode an untrusted picture: check the limits, then bring it into one standard form (domain.md §5).

Slightly invalid files of phones and editors are repaired when they hold the whole picture: PNG with text chunks that
inflate without end or a broken eXIf, JPEG without its last bytes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from pi_heif.as_plugin import register_heif_opener

# Imported for the plugins they register: Pillow would register them in the first calls of several threads at once.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from quel_dagster.errors import PictureError
from quel_dagster.jobs.colours import foreign_profile, in_srgb
from quel_dagster.jobs.pixel_budget import PIXEL_BUDGET

#: bytes of a reference: a 48-megapixel photograph of a phone has up to 25 MB
MAX_BYTES: Final = 30_000_000
#: pixels decoded at full size: phones take 48 megapixels
MAX_PIXELS: Final = 50_000_000
#: a baseline JPEG is decoded at a fraction, so it may be larger
MAX_JPEG_PIXELS: Final = 200_000_000

#: Pillow's name of each accepted format → its MIME type
MIME_TYPES: Final[Mapping[str, str]] = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # written by phones: a JPEG with further pictures behind it
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}
_FORMATS: Final = tuple(name for name in MIME_TYPES if name != "MPO")  # opened by the JPEG plugin
_FORMAT_NAMES: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
_JPEGS: Final = frozenset({"JPEG", "MPO"})

#: a JPEG of a camera has a dozen scans at most; thousands would keep a decoder busy for hours
_JPEG_SCAN: Final = b"\xff\xda"
_MAX_JPEG_SCANS: Final = 200
_JPEG_END: Final = b"\xff\xd9"
#: rows that a JPEG decoder holds back at the end of its data: one block of 16, and what smooth upsampling looks at
_JPEG_LAST_ROWS: Final = 18
#: the usual progressive JPEG has ten scans; from the eighth on a scan only refines
_JPEG_REFINING_SCAN: Final = 8

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: chunks that no reader of pixels needs, and that may inflate without end
_PNG_TEXT: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})

_TURNS: Final[Mapping[int, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS: Final = frozenset({5, 6, 7, 8})

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

register_heif_opener(thumbnails=False)
# `opened` checks the limits above before a pixel is decoded; Pillow's own would refuse a JPEG of 200 megapixels.
Image.MAX_IMAGE_PIXELS = None


@contextmanager
def opened(data: bytes, max_bytes: int = MAX_BYTES) -> Iterator[ImageFile.ImageFile]:
    """Open a picture and check its limits; invalid bytes raise PictureError, inside the `with` block too."""
    if not data:
        raise PictureError("the file is empty")
    if len(data) > max_bytes:
        raise PictureError(f"the file has {len(data):,} bytes; at most {max_bytes // 10**6} MB are read")
    try:
        with Image.open(io.BytesIO(without_text_chunks(data)), formats=_FORMATS) as image:
            _check_limits(image, data)
            yield image
    except UnidentifiedImageError:
        raise PictureError(f"the file is not a {_FORMAT_NAMES} picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(MAX_PIXELS) from None
    except _BROKEN as error:
        raise PictureError(f"the picture is damaged or cut short ({type(error).__name__}: {error})") from error


def _check_limits(image: Image.Image, data: bytes) -> None:
    # A progressive JPEG needs its coefficients in memory at full size, at every scale.
    shrinks = image.format in _JPEGS and not image.info.get("progressive")
    limit = MAX_JPEG_PIXELS if shrinks else MAX_PIXELS
    if image.width * image.height > limit:
        raise _too_many_pixels(limit)
    if image.format in _JPEGS and data.count(_JPEG_SCAN) > _MAX_JPEG_SCANS:
        raise PictureError("the JPEG has far too many scans to be a photograph; save it again")


def _too_many_pixels(limit: int) -> PictureError:
    return PictureError(f"the picture has more than {limit // 10**6} megapixels; make it smaller")


def decoded_pixels(image: Image.Image) -> int:
    """Return how many pixels loading this picture takes, after `draft`."""
    return image.width * image.height


def drawn(data: bytes, scale: float) -> Image.Image:
    """Return the picture in the standard form, scaled."""
    with opened(data) as image:
        return standard(image, scale)


def standard(image: Image.Image, scale: float) -> Image.Image:
    """Return the first frame as 8-bit RGB in sRGB, upright and scaled; RGBA only where a pixel is transparent."""
    size = scaled(image.size, scale)
    # A JPEG decodes faster at ½, ¼ or ⅛; 1.5 times the size asked for is kept, so that resampling stays clean.
    drafted = image.draft(image.mode, ((3 * size[0] + 1) // 2, (3 * size[1] + 1) // 2)) if scale < 1 else None
    with PIXEL_BUDGET.hold(decoded_pixels(image)):
        image.load()
        turn = orientation(image)
        profile = foreign_profile(image)
        pixels = _eight_bit(image)
        if pixels.size != size:
            box = drafted[1] if drafted else None
            pixels = pixels.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
        pixels = in_srgb(pixels, profile)
        if turn in _TURNS:
            pixels = pixels.transpose(_TURNS[turn])
        if pixels.mode == "RGBA" and pixels.getchannel("A").getextrema()[0] == 255:
            pixels = pixels.convert("RGB")
    pixels.info = {}  # encoders would copy the old profile, which no longer applies
    return pixels


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the size times `scale`, one pixel at least."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def orientation(image: Image.Image) -> int:
    """Return EXIF's orientation; 1, upright, where there is none or it cannot be read."""
    try:
        value: Any = image.getexif().get(ExifTags.Base.Orientation)
    except (*_BROKEN, UserWarning):
        return 1
    return value if isinstance(value, int) else 1


def is_turned(image: Image.Image) -> bool:
    """Return whether EXIF asks for the picture to be turned or flipped."""
    return orientation(image) in _TURNS


def is_animated(image: Image.Image) -> bool:
    """Return whether there are further frames; those of a phone's MPO are not an animation."""
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the picture with 8 bits a channel and no palette, so that it can be resampled."""
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


# --- repairing ---------------------------------------------------------------------------------------


def without_text_chunks(data: bytes) -> bytes:
    """Return a PNG without its text chunks; other bytes as they are."""
    if not data.startswith(_PNG_SIGNATURE) or not any(name in data for name in _PNG_TEXT):
        return data
    kept = [_PNG_SIGNATURE]
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if name not in _PNG_TEXT:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def completed_jpeg(data: bytes) -> bytes | None:
    """Return a JPEG without its last bytes with an end marker, so that it decodes.

    None when it is no such JPEG, or when more than its last rows are missing: those would be grey.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    data_with_end = data.removesuffix(b"\xff") + _JPEG_END
    try:
        with opened(data_with_end) as image:
            if image.info.get("progressive"):
                return data_with_end if data.count(_JPEG_SCAN) >= _JPEG_REFINING_SCAN else None
            if image.width * image.height > MAX_PIXELS:
                return None
            with PIXEL_BUDGET.hold(2 * image.width * image.height):
                image.load()
                return data_with_end if _missing_rows(data, image) <= _JPEG_LAST_ROWS else None
    except PictureError:
        return None


def _missing_rows(data: bytes, filled: Image.Image) -> int:
    """Return how many rows at the bottom `data` alone does not decode; `filled` has them in grey."""
    with opened(data) as image:
        with suppress(OSError):
            image.load()
        image.tile = []  # decoded rows are set, the rest is black
        box = ImageChops.difference(image.convert("RGB"), filled.convert("RGB")).getbbox()
    return filled.height - box[1] if box else 0
