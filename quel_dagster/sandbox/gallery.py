"""Results on one page: an HTML gallery that opens from disk, and a contact sheet as one PNG.

Every picture stands beside what it was asked for, so that a mistake in planning is seen at a glance.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError


@dataclass(frozen=True, slots=True)
class GalleryReference:
    """A reference picture that a unit was given."""

    attach_id: int
    type: str
    #: encoded picture in any format; None: could not be had
    picture: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryPicture:
    """A picture, and what it was asked for."""

    #: encoded picture in any format; None: this slot has no picture
    picture: bytes | None
    #: `str(Slot)`
    slot: str
    attach_id: int | None
    category: str
    #: key of the unit, such as `combo2_side_full`
    unit: str = ""
    angle: str = ""
    shot: str = ""
    fx: str = "none"
    aspect_ratio: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    references: tuple[GalleryReference, ...] = ()
    #: charged for this picture
    credits: int = 0
    #: why there is no picture, or what was left out
    notes: tuple[str, ...] = ()

    @property
    def camera(self) -> str:
        """Angle, shot and effect in one line; empty when none was given."""
        effect = "" if self.fx in {"", "none"} else f"fx {self.fx}"
        return " · ".join(part for part in (self.angle, self.shot, effect) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryJob:
    """A job and its pictures, in result order."""

    job_id: str
    label: str
    job_type: str
    category: str
    status: str
    #: who paid, such as "organization Atelier Nord"
    payer: str
    total_images: int
    pictures: tuple[GalleryPicture, ...]
    #: charged in all
    credits: int = 0
    seconds: float | None = None
    error_message: str = ""
    #: the run's page
    run_url: str | None = None


# --- HTML ------------------------------------------------------------------------------------------------

_SHOWN, _REFERENCE_SHOWN = 560, 96  # longest sides in pixels, before a screen of double density shrinks them


def write_gallery(path_html: Path, jobs: Sequence[GalleryJob], *, title: str) -> None:
    """Write one HTML file that needs nothing else: no network, no other files, no script.

    Pictures are embedded as small WebP.
    """
    thumbnails: dict[tuple[bytes, int], str] = {}

    def embedded(picture: bytes | None, side: int) -> str:
        if picture is None:
            return ""
        if (picture, side) not in thumbnails:
            thumbnails[picture, side] = _data_uri(picture, side)
        return thumbnails[picture, side]

    def reference(item: GalleryReference) -> str:
        name = f"{escape(item.type)} · {item.attach_id}"
        source = embedded(item.picture, _REFERENCE_SHOWN)
        image = f'<img src="{source}" alt="">' if source else '<span class="none">?</span>'
        return f'<li title="{name}">{image}<span>{escape(item.type)}</span></li>'

    def card(item: GalleryPicture) -> str:
        source = embedded(item.picture, _SHOWN)
        name = " · ".join(part for part in (item.category, item.camera) if part)
        image = f'<img src="{source}" alt="{escape(name)}">' if source else '<div class="missing">no picture</div>'
        facts = (
            ("camera", item.camera),
            ("unit", item.unit),
            ("slot", item.slot),
            ("attach", "" if item.attach_id is None else str(item.attach_id)),
            ("credits", str(item.credits)),
        )
        rows = "".join(f"<div><dt>{key}</dt><dd>{escape(value)}</dd></div>" for key, value in facts if value)
        references = "".join(reference(given) for given in item.references)
        negative = f'<p class="without">without: {escape(item.negative_prompt)}</p>' if item.negative_prompt else ""
        notes = "".join(f'<p class="note">{escape(note)}</p>' for note in item.notes)
        return (
            f'<article class="card"><figure>{image}</figure><div class="text">'
            f'<p class="tags"><b>{escape(item.category)}</b><b>{escape(item.aspect_ratio)}</b></p>'
            f'<p class="prompt">{escape(item.prompt)}</p>{negative}'
            f"{f'<ul>{references}</ul>' if references else ''}{notes}<dl>{rows}</dl></div></article>"
        )

    def section(job: GalleryJob) -> str:
        made = sum(picture.picture is not None for picture in job.pictures)
        seconds = "" if job.seconds is None else f"{job.seconds:.1f} s"
        facts = (
            job.job_type,
            f"{made} of {job.total_images} pictures",
            f"{job.credits} credits",
            f"paid by {job.payer}",
            seconds,
        )
        run = f'<a href="{escape(job.run_url)}">run</a>' if job.run_url and _is_link(job.run_url) else ""
        error = f'<p class="error">{escape(job.error_message)}</p>' if job.error_message else ""
        return (
            f'<section class="{escape(job.category)}"><header><h2>{escape(job.label)}</h2>'
            f'<span class="status {escape(job.status)}">{escape(job.status.replace("_", " "))}</span>{run}'
            f"<p>{' · '.join(escape(fact) for fact in facts if fact)}</p><code>{escape(job.job_id)}</code></header>"
            f'{error}<div class="cards">{"".join(card(picture) for picture in job.pictures)}</div></section>'
        )

    made = sum(picture.picture is not None for job in jobs for picture in job.pictures)
    summary = f"{len(jobs)} jobs · {made} pictures · {sum(job.credits for job in jobs)} credits"
    path_html.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Whatever a prompt holds, this page runs nothing and fetches nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<header class="page"><h1>{escape(title)}</h1><p>{summary}</p></header>'
        f"<main>{''.join(section(job) for job in jobs)}</main></body></html>\n",
        encoding="utf-8",
    )


def _is_link(url: str) -> bool:
    return urlsplit(url).scheme in {"http", "https"}


def _data_uri(picture: bytes, side: int) -> str:
    small = _small(picture, (side, side))
    if small is None:
        return ""
    out = io.BytesIO()
    small.save(out, "WEBP", quality=82, method=2)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _small(picture: bytes, size: tuple[int, int]) -> Image.Image | None:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.draft("RGB", size)
            return ImageOps.contain(image.convert("RGB"), size, Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, ValueError):
        return None


_STYLE = """
:root{color-scheme:light dark;--bg:#f5f3ef;--card:#fff;--ink:#1d1c1a;--soft:#6f6a62;--line:#e4dfd6;--accent:#b4532a}
@media (prefers-color-scheme:dark){:root{--bg:#161513;--card:#201f1c;--ink:#f0ece4;--soft:#a59e92;--line:#35322d;
--accent:#e58a5c}}
*{box-sizing:border-box;margin:0}
body{background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
padding:clamp(16px,4vw,56px)}
main,.page{max-width:1480px;margin:0 auto}
.page{margin-bottom:40px}
h1{font-size:clamp(26px,4vw,40px);letter-spacing:-.02em;line-height:1.15}
.page p,section header p,code{color:var(--soft)}
section{margin-bottom:56px}
section header{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 12px;border-top:1px solid var(--line);
padding:18px 0 16px}
section header p{flex-basis:100%}
h2{font-size:22px;letter-spacing:-.01em}
code{font:12px ui-monospace,Menlo,Consolas,monospace}
a{color:var(--accent);text-underline-offset:3px}
.status{font-size:12px;font-weight:600;padding:1px 10px;border-radius:99px;background:#8883;white-space:nowrap}
.status.completed{background:#2f9e5b26;color:#23834a}
.status.failed{background:#d6453d26;color:#d6453d}
.error,.note{border-left:3px solid #d6453d;padding:2px 12px;margin-bottom:14px;overflow-wrap:anywhere}
.note{border-color:#d9a13c;font-size:13px;color:var(--soft);margin:10px 0 0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr));gap:22px}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;overflow:hidden;display:flex;
flex-direction:column}
figure{background:#8881;display:grid;place-items:center;min-height:160px}
figure img{display:block;width:100%;max-height:460px;object-fit:contain}
.tags{display:flex;gap:6px;margin-bottom:8px}
.tags b{font-size:12px;font-weight:600;background:#8882;border-radius:99px;padding:1px 10px}
.tags b:empty{display:none}
.missing,.none{color:var(--soft)}
.text{padding:16px;display:flex;flex-direction:column;flex:1}
.prompt{overflow-wrap:anywhere;display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:5;overflow:hidden}
.without{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
ul{list-style:none;padding:0;margin:12px 0 0;display:flex;flex-wrap:wrap;gap:8px}
li{width:58px;text-align:center;font-size:11px;color:var(--soft)}
li span{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
li img,li .none{width:58px;height:58px;border-radius:8px;object-fit:cover;object-position:50% 15%;
display:block;line-height:58px;background:#8882}
dl{display:grid;gap:2px;padding-top:14px;font-size:13px}
dl div{display:flex;gap:10px}
dt{color:var(--soft);width:56px;flex:none}
dd{overflow-wrap:anywhere}
@media print{body{padding:0}.card{break-inside:avoid}}
"""


# --- contact sheet ---------------------------------------------------------------------------------------

_CELL, _GAP, _CAPTION = 300, 24, 56
_PAGE_COLOUR, _INK, _SOFT = "#f5f3ef", "#1d1c1a", "#6f6a62"


def write_contact_sheet(path_png: Path, pictures: Sequence[GalleryPicture]) -> None:
    """Write all pictures, in their order, on one sheet with a caption each."""
    columns = max(1, min(6, math.ceil(math.sqrt(1.4 * len(pictures)))))
    cells = [_small(item.picture, (_CELL, _CELL)) if item.picture else None for item in pictures]
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


def _caption(item: GalleryPicture) -> Iterator[tuple[str, str, int]]:
    first = " · ".join(part for part in (item.category, item.camera) if part)
    types = ", ".join(reference.type for reference in item.references)
    second = " · ".join(part for part in (item.aspect_ratio, types) if part)
    for text, colour, size in ((first, _INK, 17), (second, _SOFT, 14)):
        yield _cut(text, _font(size)), colour, size


def _cut(text: str, font: ImageFont.FreeTypeFont) -> str:
    """`text` on one line as wide as a cell."""
    line = " ".join(text.split())[:120]
    while font.getlength(line) > _CELL:
        line = line.rstrip("…")[:-1].rstrip() + "…"
    return line


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101  Pillow is built with FreeType
    return font
