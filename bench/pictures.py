"""What pictures cost: encoders for request parts and results, and a whole request part against the naive rule.

    python bench/pictures.py [PHOTO…]

Without photographs a drawn picture with detail on every scale stands in. Prints CPU milliseconds of one thread (best
of five), kilobytes, PSNR in dB against the pixels that went in, and ratios to the naive way.
"""

from __future__ import annotations

import io
import math
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageStat

from quel_dagster.jobs.model import Arrangement, PartLayout
from quel_dagster.jobs.pictures import load_picture, render_part, to_webp

REQUEST_SIZE = (1344, 768)
REFERENCE_SIZE = (1536, 2048)
ENCODERS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG"},
    "PNG, run-length filter": {"format": "PNG", "compress_type": zlib.Z_RLE},
    "WebP lossless, method 0": {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
    "WebP q95, method 0": {"format": "WEBP", "quality": 95, "method": 0},
    "WebP q90, method 2": {"format": "WEBP", "quality": 90, "method": 2},
    "WebP q90, method 4": {"format": "WEBP", "quality": 90, "method": 4},
    "JPEG q95, 4:4:4": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "JPEG q95, 4:2:0": {"format": "JPEG", "quality": 95, "subsampling": 2},
}


def drawn_picture(size: tuple[int, int]) -> Image.Image:
    """Gradients with noise on every scale, so that no encoder has it too easy."""
    bands = []
    for turn in range(3):
        band = Image.linear_gradient("L").rotate(90 * turn).resize(size)
        for octave in range(3, 8):
            side = 2**octave
            noise = Image.effect_noise((side, side), 160 / octave).resize(size, Image.Resampling.BICUBIC)
            band = Image.blend(band, noise, 0.25)
        bands.append(band)
    return Image.merge("RGB", bands)


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, **options)
    return buffer.getvalue()


def cpu_ms(call: Callable[[], object], rounds: int = 5) -> float:
    def once() -> float:
        begun = time.thread_time()
        call()
        return time.thread_time() - begun

    return min(once() for _ in range(rounds)) * 1000


def psnr(one: Image.Image, other: Image.Image) -> float:
    statistics = ImageStat.Stat(ImageChops.difference(one, other))
    error = sum(statistics.sum2) / (one.width * one.height * 3)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def naive_part(references: list[bytes]) -> bytes:
    """The rule as it is written down: paste everything at full size, scale the grid, encode a PNG."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in references]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    grid = Image.new("RGB", (columns * width, rows * height), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        grid.paste(picture, (column * width + (width - picture.width) // 2, row * height))
    scale = min(REQUEST_SIZE[0] / grid.width, REQUEST_SIZE[1] / grid.height)
    fitted = grid.resize((round(grid.width * scale), round(grid.height * scale)), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", REQUEST_SIZE, "white")
    canvas.paste(fitted, ((canvas.width - fitted.width) // 2, (canvas.height - fitted.height) // 2))
    return encoded(canvas, format="PNG")


def main(paths: list[str]) -> None:
    sources = {Path(path).name: Image.open(path).convert("RGB") for path in paths}
    sources = sources or {"drawn picture": drawn_picture(REFERENCE_SIZE)}

    for name, source in sources.items():
        image = source.resize(REQUEST_SIZE, Image.Resampling.LANCZOS)
        print(f"\n{name} at {image.width}×{image.height}\n{'encoder':<26}{'CPU ms':>8}{'kB':>8}{'dB':>8}")
        for encoder, options in ENCODERS.items():
            data = encoded(image, **options)
            loss = psnr(image, Image.open(io.BytesIO(data)).convert("RGB"))
            spent = cpu_ms(partial(encoded, image, **options))
            print(f"{encoder:<26}{spent:>8.0f}{len(data) / 1000:>8.0f}{loss:>8.1f}")

    source = next(iter(sources.values())).resize(REFERENCE_SIZE, Image.Resampling.LANCZOS)
    print(f"\nfour references of {source.width}×{source.height} in one part")
    print(f"{'references':<12}{'naive ms':>10}{'ours ms':>10}{'ratio':>8}{'check ms':>10}")
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(source, format=kind)
        layout = PartLayout(role="clothing", arrangement=Arrangement.GRID, attach_ids=(1, 2, 3, 4))
        pictures = dict.fromkeys(layout.attach_ids, load_picture(data))
        naive = cpu_ms(partial(naive_part, [data] * 4), 3)
        ours = cpu_ms(partial(render_part, layout, pictures, "16:9"), 3)
        check = cpu_ms(partial(load_picture, data), 3)
        print(f"{kind:<12}{naive:>10.0f}{ours:>10.0f}{naive / ours:>7.1f}×{check:>10.0f}")

    answer = encoded(source.resize(REQUEST_SIZE), format="PNG")
    stored = to_webp(answer)
    print(f"\nresult: PNG of {len(answer) / 1000:.0f} kB → WebP of {len(stored.data) / 1000:.0f} kB", end=" ")
    print(f"and its thumbnail in {cpu_ms(lambda: to_webp(answer)):.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1:])
