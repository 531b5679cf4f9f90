from __future__ import annotations

import contextlib
import io
import math
import random
import struct
import warnings
import zlib
from base64 import b64decode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageFilter, ImageStat

from quel_dagster.errors import PictureError
from quel_dagster.jobs import decoding, pictures
from quel_dagster.jobs.model import Arrangement, ImagePart, PartLayout
from quel_dagster.jobs.pictures import Picture, load_picture, render_part, thumbnail, to_webp
from quel_dagster.jobs.pixel_budget import PIXELS_IN_FLIGHT, PixelBudget

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 60), (20, 40, 210), (255, 255, 255)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def data_of(part: ImagePart) -> bytes:
    return b64decode(part.base64, validate=True)


def plain(size: tuple[int, int], color: tuple[int, int, int] = RED) -> Image.Image:
    return Image.new("RGB", size, color)


def photo(size: tuple[int, int], seed: int = 1) -> Image.Image:
    """Something with gradients and edges, different for each seed."""
    noise = random.Random(seed)  # noqa: S311 - test data
    image = Image.new("RGB", (6, 6))
    image.putdata([tuple(noise.randrange(256) for _ in range(3)) for _ in range(36)])
    return image.resize(size, Image.Resampling.BICUBIC)


def quarters(size: tuple[int, int]) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right: shows every turn and flip."""
    image = plain(size, WHITE)
    half = size[0] // 2, size[1] // 2
    image.paste(RED, (0, 0, *half))
    image.paste(GREEN, (half[0], 0, size[0], half[1]))
    image.paste(BLUE, (0, half[1], half[0], size[1]))
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference per channel, 0 … 255."""
    assert one.size == other.size
    return max(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean)


def near(color: Any, wanted: tuple[int, int, int], tolerance: int = 8) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(color, wanted, strict=True))


def layout(count: int, arrangement: Arrangement = Arrangement.GRID) -> PartLayout:
    return PartLayout(role="clothing", arrangement=arrangement, attach_ids=tuple(range(count)))


def loaded(images: Sequence[Image.Image | bytes]) -> dict[int, Picture]:
    return {
        number: load_picture(image if isinstance(image, bytes) else encoded(image))
        for number, image in enumerate(images)
    }


def rendered(
    images: Sequence[Image.Image | bytes], aspect_ratio: str, arrangement: Arrangement = Arrangement.GRID
) -> Image.Image:
    part = render_part(layout(len(images), arrangement), loaded(images), aspect_ratio)
    return opened(data_of(part)).convert("RGB")


def shown_alone(data: bytes) -> Image.Image:
    """A picture as a request would show it."""
    return opened(data_of(render_part(layout(1), {0: load_picture(data)}, "16:9"))).convert("RGB")


def with_orientation(image: Image.Image, orientation: int, file_format: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(image, file_format, exif=exif, **({"quality": 95} if file_format == "JPEG" else {}))


# --- what is let in ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "mime_type", "as_is"),
    [
        ("JPEG", "image/jpeg", True),
        ("PNG", "image/png", True),
        ("WEBP", "image/webp", True),
        ("GIF", "image/gif", False),
        ("BMP", "image/bmp", False),
        ("TIFF", "image/tiff", False),
        ("AVIF", "image/avif", False),
    ],
)
def test_every_allowed_format_is_read(file_format: str, mime_type: str, as_is: bool) -> None:
    data = encoded(plain((40, 30)), file_format)
    picture = load_picture(data)
    assert (picture.mime_type, picture.width, picture.height, picture.as_is) == (mime_type, 40, 30, as_is)
    part = render_part(layout(1), {0: picture}, "16:9")
    if as_is:
        assert part == ImagePart.of(data, mime_type)
    else:
        assert part.mime_type == "image/jpeg"
        assert near(opened(data_of(part)).getpixel((20, 15)), RED)


@pytest.mark.parametrize("file_format", ["ICO", "PPM", "TGA", "JPEG2000", "PCX", "EPS", "PDF"])
def test_other_formats_of_pillow_are_refused(file_format: str) -> None:
    with pytest.raises(PictureError, match="not a JPEG, PNG"):
        load_picture(encoded(plain((32, 32)), file_format))


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
        b"<?xml version='1.0'?><svg/>",
        b"<!doctype html><title>404</title>",
        b"{}",
        b"\x00" * 1000,
        b"\xff\xd8\xff",
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    for read in (load_picture, to_webp, thumbnail):
        with pytest.raises(PictureError):
            read(data)


def test_an_empty_file_is_named_so() -> None:
    with pytest.raises(PictureError, match="empty"):
        load_picture(b"")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.85])
def test_a_truncated_file_is_refused(file_format: str, kept: float) -> None:
    whole = encoded(photo((300, 200)), file_format)
    with pytest.raises(PictureError) as refusal:
        load_picture(whole[: int(len(whole) * kept)])
    assert "\n" not in str(refusal.value)


def test_a_truncated_progressive_jpeg_is_refused() -> None:
    whole = encoded(photo((300, 200)), "JPEG", progressive=True)
    with pytest.raises(PictureError, match="cut short"):
        load_picture(whole[: int(len(whole) * 0.6)])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lost", [1, 2, 3, 20])
def test_a_jpeg_without_its_last_bytes_is_used(lost: int, progressive: bool) -> None:
    whole = encoded(photo((600, 400)), "JPEG", progressive=progressive, quality=92)
    picture = load_picture(whole[:-lost])
    assert (picture.width, picture.height) == (600, 400)
    shown = opened(data_of(render_part(layout(1), {0: picture}, "16:9")))
    above = (0, 0, 600, 380)
    assert difference(shown.crop(above), opened(whole).crop(above)) < 2


@pytest.mark.parametrize(("name", "size"), [("phone.heic", (96, 64)), ("phone-sideways.heic", (64, 96))])
def test_a_heic_photograph_is_used(name: str, size: tuple[int, int]) -> None:
    picture = load_picture((Path(__file__).parent / "pictures" / name).read_bytes())
    assert (picture.mime_type, picture.width, picture.height, picture.as_is) == ("image/heic", *size, False)
    part = render_part(layout(1), {0: picture}, "16:9")
    shown = opened(data_of(part))
    assert (part.mime_type, shown.size) == ("image/jpeg", size)
    blue = (20, 10) if size == (96, 64) else (54, 20)  # the upper left quarter, turned to the right
    assert near(shown.getpixel(blue), (20, 60, 200), 12)


def test_a_heic_file_that_is_cut_short_is_refused() -> None:
    whole = (Path(__file__).parent / "pictures" / "phone.heic").read_bytes()
    for kept in (0.5, 0.9):
        with pytest.raises(PictureError):
            load_picture(whole[: int(len(whole) * kept)])


def png_with(*chunks: bytes, size: tuple[int, int] = (40, 30)) -> bytes:
    """A PNG with these chunks after its header."""
    plain_png = encoded(plain(size))
    return plain_png[:33] + b"".join(chunks) + plain_png[33:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"eXIf", bytes.fromhex("0008000201120003")),  # Pillow issue 5528
        chunk(b"eXIf", b"MM\x00\x2a\xff\xff\xff\xff"),
        chunk(b"zTXt", b"raw\x00\x00" + zlib.compress(bytes(5_000_000))),  # Pillow issue 8363
        chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + zlib.compress(bytes(5_000_000))),
        chunk(b"tEXt", b"Comment\x00" + b"x" * 70_000) * 40,
    ],
    ids=["eXIf", "eXIf offset", "zTXt", "iTXt", "tEXt"],
)
def test_a_png_with_broken_metadata_is_used(extra: bytes) -> None:
    picture = load_picture(png_with(extra))
    assert (picture.width, picture.height) == (40, 30)
    assert near(shown_alone(png_with(extra)).convert("RGB").getpixel((20, 15)), RED)
    assert near(opened(to_webp(png_with(extra)).data).convert("RGB").getpixel((20, 15)), RED)


def test_a_48_megapixel_jpeg_is_decoded_at_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (8064, 6048), 90), "JPEG", quality=60)
    held: list[int] = []
    monkeypatch.setattr(decoding, "PIXEL_BUDGET", budget := Recording(held))
    monkeypatch.setattr(pictures, "PIXEL_BUDGET", budget)
    picture = load_picture(data)
    part = render_part(layout(1), {0: picture}, "16:9")
    assert (picture.width, picture.height, picture.as_is) == (8064, 6048, False)
    shown = opened(data_of(part))
    assert shown.width * shown.height <= pictures.MAX_PART_PIXELS
    assert max(held) <= 8064 * 6048 / 4


class Recording(PixelBudget):
    """A budget that keeps what was asked of it."""

    def __init__(self, held: list[int]) -> None:
        super().__init__(PIXELS_IN_FLIGHT)
        self.asked = held

    @contextlib.contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        self.asked.append(pixels)
        with super().hold(pixels):
            yield


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_broken_bytes_raise_nothing_but_a_picture_error(file_format: str) -> None:
    whole = encoded(photo((60, 40)), file_format)
    fault = random.Random(file_format)  # noqa: S311 - test data
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(fault.choice([1, 3, 10])):
            broken[fault.randrange(len(broken))] = fault.randrange(256)
        for read in (load_picture, to_webp, thumbnail):
            with contextlib.suppress(PictureError), warnings.catch_warnings(action="ignore"):
                read(bytes(broken))


def test_more_than_the_limit_of_bytes_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(plain((8, 8))) + bytes(decoding.MAX_BYTES)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("was opened"))
    with pytest.raises(PictureError, match="30 MB"):
        load_picture(data)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes: a decompression bomb as far as its header goes."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(8000, 6251), (12_000, 9000), (40_000, 40_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("read", [load_picture, to_webp, thumbnail])
def test_more_than_50_megapixels_are_refused_before_decoding(size: tuple[int, int], read: Any) -> None:
    with pytest.raises(PictureError, match="50 megapixels"):
        read(png_header(*size))


def test_a_jpeg_beyond_200_megapixels_is_refused() -> None:
    data = bytearray(encoded(Image.new("L", (64, 64)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 16_000, 16_000)
    with pytest.raises(PictureError, match="200 megapixels"):
        load_picture(bytes(data))


def test_a_progressive_jpeg_beyond_50_megapixels_is_refused() -> None:
    data = bytearray(encoded(Image.new("L", (64, 64)), "JPEG", progressive=True))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 8_000, 8_000)
    with pytest.raises(PictureError, match="50 megapixels"):
        load_picture(bytes(data))


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    whole = encoded(photo((64, 64)), "JPEG", progressive=True)
    last_scan = whole.rindex(b"\xff\xda")
    many = whole[:last_scan] + whole[last_scan:-2] * 2000 + whole[-2:]
    with pytest.raises(PictureError, match="scans"):
        load_picture(many)


# --- odd pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int, file_format: str) -> None:
    upright = quarters((160, 96))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    data = with_orientation(stored, orientation, file_format)
    picture = load_picture(data)
    assert (picture.width, picture.height) == upright.size
    assert picture.as_is == (orientation == 1 and file_format != "TIFF")
    assert difference(shown_alone(data), upright) < 3
    assert difference(opened(to_webp(data).data), upright) < 3
    # beside another, and scaled
    pair = rendered([data, plain((160, 96), BLUE)], "16:9", Arrangement.PAIR)
    assert near(pair.getpixel((20, pair.height // 2 - 150)), RED)
    assert near(pair.getpixel((600, pair.height // 2 - 150)), GREEN)
    assert near(pair.getpixel((20, pair.height // 2 + 150)), BLUE)


def test_cmyk_is_shown_in_its_colours() -> None:
    data = encoded(plain((64, 48)).convert("CMYK"), "JPEG", quality=95)
    assert not load_picture(data).as_is
    assert near(shown_alone(data).getpixel((30, 20)), RED, 12)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(file_format: str) -> None:
    ramp = Image.new("I;16", (256, 8))
    ramp.putdata([x * 257 for _ in range(8) for x in range(256)])
    data = encoded(ramp, file_format)
    assert not load_picture(data).as_is
    shown = shown_alone(data)
    for x in (0, 64, 128, 192, 255):
        assert near(shown.getpixel((x, 4)), (x, x, x), 3)


@pytest.mark.parametrize("scale", [1.0, 255.0, 65_535.0, 1e6])
def test_floats_are_scaled_to_what_they_can_mean(scale: float) -> None:
    ramp = Image.new("F", (256, 8))
    ramp.putdata([x / 255 * scale for _ in range(8) for x in range(256)])
    shown = shown_alone(encoded(ramp, "TIFF"))
    assert near(shown.getpixel((128, 4)), (128, 128, 128), 3)


def test_a_black_float_picture_is_black() -> None:
    assert shown_alone(encoded(Image.new("F", (8, 8)), "TIFF")).getpixel((4, 4)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA"])
def test_palette_bilevel_and_grey(mode: str) -> None:
    image = Image.new("RGB", (64, 64), "black")
    image.paste(WHITE, (32, 0, 64, 64))
    data = encoded(image.convert(mode))
    assert load_picture(data).as_is == (mode == "L")
    shown = shown_alone(data)
    assert near(shown.getpixel((10, 30)), (0, 0, 0))
    assert near(shown.getpixel((50, 30)), WHITE)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_shines_through_is_white_in_a_grid(mode: str) -> None:
    cut_out = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    cut_out.paste((*RED, 255), (16, 16, 48, 48))
    data = encoded(cut_out.convert(mode) if mode != "P" else cut_out.quantize(8))
    grid = rendered([data, data], "1:1")
    assert near(grid.getpixel((4, 4)), WHITE)
    assert near(grid.getpixel((32, 32)), RED, 12)


def test_of_an_animation_the_first_frame_is_shown() -> None:
    frames = [plain((48, 32), color) for color in (GREEN, RED, BLUE)]
    for file_format in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
        assert not load_picture(data).as_is, file_format
        assert near(shown_alone(data).getpixel((20, 10)), GREEN), file_format


def test_of_a_telephones_multi_picture_jpeg_the_first_is_sent_as_it_is() -> None:
    data = encoded(plain((48, 32), GREEN), "MPO", save_all=True, append_images=[plain((48, 32), RED)])
    picture = load_picture(data)
    assert (picture.mime_type, picture.as_is) == ("image/jpeg", True)
    assert near(opened(to_webp(data).data).getpixel((20, 10)), GREEN)


def linear_rgb_profile() -> bytes:
    """Return an sRGB profile with straight lines as tone curves: converting from it changes the colours visibly."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(struct.unpack_from(">I", raw, 128)[0]):
        tag, offset, _ = struct.unpack_from(">4sII", raw, 132 + 12 * number)
        if tag in {b"rTRC", b"gTRC", b"bTRC"}:
            assert raw[offset : offset + 4] == b"para"
            raw[offset + 8 : offset + 10] = b"\x00\x00"  # gamma only …
            raw[offset + 12 : offset + 16] = struct.pack(">i", 1 << 16)  # … of 1.0
    return bytes(raw).replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be"))


def test_a_colour_profile_is_converted_to_srgb() -> None:
    data = encoded(plain((32, 32), (128, 128, 128)), "PNG", icc_profile=linear_rgb_profile())
    assert not load_picture(data).as_is
    # linear 0.5 is 188 in sRGB
    assert near(shown_alone(data).getpixel((16, 16)), (188, 188, 188), 3)
    stored = opened(to_webp(data).data)
    assert near(stored.getpixel((16, 16)), (188, 188, 188), 3)
    assert "icc_profile" not in stored.info


def test_an_srgb_profile_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert load_picture(encoded(plain((32, 32)), icc_profile=srgb)).as_is
    renamed = srgb.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    assert load_picture(encoded(plain((32, 32)), icc_profile=renamed)).as_is


def test_a_profile_that_only_calls_itself_srgb_is_converted() -> None:
    named = linear_rgb_profile().replace("line".encode("utf-16-be"), "sRGB".encode("utf-16-be"))
    data = encoded(plain((32, 32), (128, 128, 128)), "PNG", icc_profile=named)
    assert not load_picture(data).as_is
    assert near(shown_alone(data).getpixel((16, 16)), (188, 188, 188), 3)


@pytest.mark.parametrize("profile", [b"no profile at all", linear_rgb_profile()])
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes) -> None:
    data = encoded(Image.new("L", (32, 32), 100), "JPEG", icc_profile=profile)
    assert near(shown_alone(data).convert("RGB").getpixel((16, 16)), (100, 100, 100), 3)


def test_single_picture_too_large_for_a_request_is_re_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_AS_IS_BYTES", 10_000)
    monkeypatch.setattr(pictures, "MAX_PART_PIXELS", 300 * 200)
    data = encoded(Image.effect_noise((600, 400), 80))
    part = render_part(layout(1), {0: load_picture(data)}, "16:9")
    assert opened(data_of(part)).size == (300, 200)


# --- layout ------------------------------------------------------------------------------------------


def naive_grid(images: Sequence[Image.Image], aspect_ratio: str, columns: int | None = None) -> Image.Image:
    """domain.md §5 word for word: paste at full size, then fit."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    cell = max(image.width for image in images), max(image.height for image in images)
    grid = Image.new("RGB", (columns * cell[0], rows * cell[1]), WHITE)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        centred = (cell[0] - image.width) // 2, (cell[1] - image.height) // 2
        grid.paste(image, (column * cell[0] + centred[0], row * cell[1] + centred[1]))
    sizes = {"16:9": (1344, 768), "9:16": (768, 1344), "4:3": (1152, 896), "3:4": (896, 1152)}
    if aspect_ratio == "1:1":
        return grid
    size = sizes.get(aspect_ratio, (1024, 1024))
    scale = min(size[0] / grid.width, size[1] / grid.height)
    fitted = grid.resize((round(grid.width * scale), round(grid.height * scale)), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", size, WHITE)
    canvas.paste(fitted, ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2))
    return canvas


def same_but_for_half_a_pixel(shown: Image.Image, wanted: Image.Image) -> bool:
    """Compare pictures: half a pixel of displacement shows at the edge of a cell, and almost nothing elsewhere."""
    without_edges = ImageChops.difference(shown, wanted).filter(ImageFilter.MinFilter(5))
    return difference(shown, wanted) < 1.5 and max(high for _, high in without_edges.getextrema()) < 16


UNEQUAL = [(750, 1000), (600, 400), (180, 700), (700, 180)]


@pytest.mark.parametrize("aspect_ratio", ["1:1", "16:9", "9:16", "4:3", "3:4", "3:2"])
def test_a_grid_is_fitted_to_the_size_of_the_request(aspect_ratio: str) -> None:
    images = [photo(size, seed) for seed, size in enumerate(UNEQUAL)]
    shown = rendered(images, aspect_ratio)
    assert same_but_for_half_a_pixel(shown, naive_grid(images, aspect_ratio))


@pytest.mark.parametrize(
    "sizes",
    [
        [(700, 900), (640, 480)],
        [(300, 300), (200, 350), (333, 111)],
        [(320, 240)] * 5,
        [(200 + 30 * n, 400 - 20 * n) for n in range(10)],
    ],
    ids=lambda sizes: f"{len(sizes)} pictures",
)
def test_a_grid_equals_pasting_first_and_fitting_afterwards(sizes: list[tuple[int, int]]) -> None:
    images = [photo(size, seed) for seed, size in enumerate(sizes)]
    assert same_but_for_half_a_pixel(rendered(images, "16:9"), naive_grid(images, "16:9"))


def test_jpegs_decoded_at_a_fraction_look_the_same() -> None:
    images = [photo((2400, 3200), 1), photo((2401, 1603), 2), photo((1111, 3000), 3)]
    files = [encoded(image, "JPEG", quality=95, subsampling=0) for image in images]
    assert same_but_for_half_a_pixel(rendered(files, "16:9"), naive_grid(images, "16:9"))


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(2, 2, 1), (3, 2, 2), (4, 2, 2), (5, 3, 2), (9, 3, 3), (10, 4, 3)]
)
def test_a_grid_has_ceil_of_the_root_columns(count: int, columns: int, rows: int) -> None:
    assert rendered([plain((20, 10))] * count, "1:1").size == (columns * 20, rows * 10)


def test_cells_are_as_large_as_the_largest_picture_and_pictures_centred() -> None:
    grid = rendered([plain((100, 20), RED), plain((20, 60), BLUE)], "1:1")
    assert grid.size == (200, 60)
    assert near(grid.getpixel((50, 30)), RED, 12)
    assert near(grid.getpixel((50, 8)), WHITE)
    assert near(grid.getpixel((150, 5)), BLUE, 12)
    assert near(grid.getpixel((120, 30)), WHITE)


def test_a_pair_stands_side_by_side() -> None:
    pair = rendered([plain((100, 100), RED), plain((100, 100), BLUE)], "16:9", Arrangement.PAIR)
    assert pair.size == (1344, 768)
    assert near(pair.getpixel((336, 384)), RED)
    assert near(pair.getpixel((1008, 384)), BLUE)
    assert near(pair.getpixel((336, 20)), WHITE)


def test_references_without_a_picture_are_left_out() -> None:
    known = {1: load_picture(encoded(plain((30, 30)), "JPEG"))}
    part = render_part(layout(3), known, "16:9")
    assert data_of(part) == known[1].data
    with pytest.raises(PictureError, match="clothing"):
        render_part(layout(1), known, "16:9")


def test_a_huge_grid_that_keeps_its_own_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PART_PIXELS", 200 * 100)
    grid = rendered([plain((400, 400), RED), plain((400, 400), BLUE)], "1:1")
    assert grid.size == (200, 100)
    assert near(grid.getpixel((50, 50)), RED)
    assert near(grid.getpixel((150, 50)), BLUE)


# --- results -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_any_answer_becomes_webp(file_format: str) -> None:
    image = photo((400, 300))
    stored = to_webp(encoded(image, file_format, **({"quality": 95} if file_format == "JPEG" else {})))
    kept = opened(stored.data)
    assert (kept.format, kept.size, kept.mode) == ("WEBP", (400, 300), "RGB")
    assert (stored.width, stored.height) == (400, 300)
    assert difference(kept, image) < (12 if file_format == "GIF" else 3)


def test_the_quality_is_90() -> None:
    image = Image.effect_noise((400, 300), 60).convert("RGB")
    size = len(to_webp(encoded(image)).data)
    assert len(encoded(image, "WEBP", quality=85, method=2)) < size < len(encoded(image, "WEBP", quality=95, method=2))


def test_a_truncated_answer_is_refused() -> None:
    whole = encoded(photo((300, 200)))
    with pytest.raises(PictureError, match="cut short"):
        to_webp(whole[: len(whole) // 2])


def test_alpha_is_kept_only_where_something_shines_through() -> None:
    assert opened(to_webp(encoded(Image.new("RGBA", (20, 20), (*RED, 255)))).data).mode == "RGB"
    assert opened(to_webp(encoded(Image.new("RGBA", (20, 20), (*RED, 100)))).data).mode == "RGBA"


def test_wider_than_webp_can_be_is_refused() -> None:
    with pytest.raises(PictureError, match="16384×8"):
        to_webp(encoded(Image.new("L", (16_384, 8))))


@pytest.mark.parametrize("size", [(1344, 768), (768, 1344), (100, 50), (3000, 3)])
def test_a_thumbnail_is_small_and_like_the_picture(size: tuple[int, int]) -> None:
    image = photo(size)
    data = encoded(image, "JPEG")
    for small in (thumbnail(data), to_webp(data).thumbnail):
        shown = opened(small)
        assert shown.format == "WEBP"
        assert max(shown.size) == min(256, max(size))
        assert len(small) <= 12_000
        assert difference(shown, image.resize(shown.size)) < 6


@pytest.mark.parametrize("max_bytes", [12_000, 3_000, 400, 100])
def test_a_thumbnail_keeps_its_bytes_even_for_noise(max_bytes: int) -> None:
    noise = Image.merge("RGB", [Image.effect_noise((600, 600), 200)] * 3)
    assert len(thumbnail(encoded(noise), max_bytes=max_bytes)) <= max_bytes


def test_a_thumbnail_that_cannot_fit_is_an_error() -> None:
    with pytest.raises(PictureError, match="10 bytes"):
        thumbnail(encoded(plain((8, 8))), max_bytes=10)


def test_many_threads_come_to_the_same_bytes() -> None:
    files = [encoded(photo((500, 400), seed), "JPEG") for seed in range(4)]
    known = loaded(files)

    def work(_: int) -> tuple[bytes, bytes, bytes]:
        return data_of(render_part(layout(4), known, "16:9")), to_webp(files[0]).data, to_webp(files[1]).thumbnail

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, range(8)))) == 1
