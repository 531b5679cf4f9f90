"""The gallery: results as one HTML file that opens from disk, each picture beside its request.

Not here: the page (`page.html`), the rows and objects (`reader`).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from quel_dagster.errors import PictureError
from quel_dagster.jobs.pictures import thumbnail


@dataclass(frozen=True, slots=True)
class GalleryReference:
    """A reference picture that a unit was given."""

    attach_id: int
    type: str
    #: encoded picture in any format; None: could not be fetched
    picture: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryPicture:
    """A picture and its request."""

    #: encoded picture in any format; None: the slot is empty
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
    #: credits charged for this picture
    credits: int = 0
    #: why there is no picture, or what was left out of its request
    notes: tuple[str, ...] = ()

    @property
    def camera(self) -> str:
        """Return angle, shot and effect in one line; empty when none was given."""
        effect = "" if self.fx in {"", "none"} else f"fx {self.fx}"
        return " · ".join(part for part in (self.angle, self.shot, effect) if part)

    @property
    def facts(self) -> tuple[tuple[str, object], ...]:
        """Return the lines below the picture: name and value; one without a value is not shown."""
        return (
            ("camera", self.camera),
            ("unit", self.unit),
            ("slot", self.slot),
            ("attach", self.attach_id),
            ("credits", str(self.credits)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryJob:
    """A job and its pictures, in result order."""

    job_id: str
    label: str
    job_type: str
    category: str
    status: str
    #: the payer, such as "organization Atelier Nord"
    payer: str
    total_images: int
    pictures: tuple[GalleryPicture, ...]
    #: total of credits charged
    credits: int = 0
    seconds: float | None = None
    error_message: str = ""
    #: URL of the run's page
    run_url: str | None = None

    @property
    def made(self) -> int:
        """Return the number of pictures that there are."""
        return sum(picture.picture is not None for picture in self.pictures)

    @property
    def facts(self) -> tuple[str, ...]:
        """Return the parts of the line below the heading; empty ones are not shown."""
        return (
            self.job_type,
            f"{self.made} of {self.total_images} pictures",
            f"{self.credits} credits",
            f"paid by {self.payer}",
            "" if self.seconds is None else f"{self.seconds:.1f} s",
        )


def write_gallery(path_html: Path, jobs: Sequence[GalleryJob], *, title: str) -> None:
    """Write one self-contained HTML file: no network, no other files, no script.

    Pictures are embedded as small WebP.
    """
    templates = Environment(
        loader=PackageLoader("quel_dagster.pipeline.gallery", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = templates.get_template("page.html").render(
        title=title,
        jobs=jobs,
        made=sum(job.made for job in jobs),
        credits=sum(job.credits for job in jobs),
        small=cache(_data_uri),
        is_link=_is_link,
    )
    # Users' pictures and prompts: readable only for the operator who requested them.
    descriptor = os.open(path_html, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)  # also when the file already existed
        file.write(page)


def _is_link(url: str | None) -> bool:
    return urlsplit(url or "").scheme in {"http", "https"}


def _data_uri(picture: bytes | None, side: int) -> str:
    """Return a picture for the page, its longest side in pixels; empty when there is none that decodes."""
    try:
        small = thumbnail(picture or b"", longest_side=side, max_bytes=200 * side)
    except PictureError:
        return ""
    return f"data:image/webp;base64,{base64.b64encode(small).decode()}"
