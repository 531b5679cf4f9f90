"""The values of a job that the packages of this project exchange.

Frozen pydantic models, which Dagster ops pass on as JSON. No I/O, no Dagster.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class Value(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobType(StrEnum):
    """`quel_production_jobs.job_type` (domain.md §2)."""

    SINGLE_BATCH = "single_batch"
    PIPELINE_STAGE = "pipeline_stage"
    SIMPLE_GENERAL = "simple_general"
    SIMPLE_PORTRAIT = "simple_portrait"


class Category(StrEnum):
    """`quel_production_path` (domain.md §5)."""

    FASHION = "fashion"
    BEAUTY = "beauty"
    EATS = "eats"
    CINEMA = "cinema"
    CARTOON = "cartoon"

    @classmethod
    def of_path(cls, path: str | None) -> Category:
        """Return the category of a `quel_production_path`; a missing or unknown one is read as fashion (domain.md §4).

        Every place that shows, tags or counts a job's category uses this rule, or the same one in SQL
        (`adapters/database/kinds.py`).
        """
        return cls.named(path) or cls.FASHION

    @classmethod
    def named(cls, path: str | None) -> Category | None:
        """Return the category that a path names, ignoring case; None when it names none."""
        return next((category for category in cls if category.value == (path or "").strip().lower()), None)


class JobStatus(StrEnum):
    """`job_status_enum`; the production has the same without `cancelled` (domain.md §2, §3)."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    USER_CANCELLED = "user_cancelled"

    @property
    def ended(self) -> bool:
        return self not in {JobStatus.PENDING, JobStatus.PROCESSING}


class Job(Value):
    """One row of quel_production_jobs, with the columns that making its pictures needs."""

    job_id: UUID
    production_id: UUID
    #: as written by the web app; an unknown one is read as single_batch when the job is planned
    job_type: str
    job_status: JobStatus
    total_images: int
    #: `job_input_data` as it came from the browser; any JSON value
    input_data: Any
    #: `quel_member_id` of the job, else of its production
    member_id: UUID | None
    org_id: UUID | None
    #: `quel_production_path` of the job, else of its production
    production_path: str | None
    created_at: datetime | None = None
    stage_index: int | None = None

    @property
    def category(self) -> Category:
        """Return the category that is made."""
        return Category.of_path(self.production_path)


class Repair(Value):
    """One value of `job_input_data` that was read leniently (domain.md §4)."""

    #: path of the value, such as `stages[1].quantity`
    path: str
    #: the value found and how it was read, one clause: `"two" is not a number; read as not given`
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class Reference(Value):
    """One picture that the user put into a unit: `{attachId, type}`."""

    attach_id: int
    #: lower case, stripped; `none` when missing
    type: str


class Unit(Value):
    """One stage or combination: the unit of parallel work, and one Dagster step.

    `(index, number)` with number 0 … quantity - 1 is the *slot* of a picture.
    """

    #: 0 … n-1 in result order (stage_index order for pipeline stages)
    index: int
    #: the step's mapping key: letters, digits and underscores only, unique in the job, reads well in the UI
    #: (`stage0`, `combo2_side_full`, `general`, `portrait1`)
    key: str
    quantity: int = Field(ge=1)
    prompt: str
    negative_prompt: str = ""
    aspect_ratio: str
    #: angle and shot as the category understands them; free text for cinema stages; empty when not given
    angle: str = ""
    shot: str = ""
    #: cartoon effect of a combination
    fx: str = "none"
    #: eats: keep the look of the dish
    pre_edited: bool = False
    references: tuple[Reference, ...] = ()
    #: as the web app gave it, for display
    stage_index: int | None = None

    @property
    def camera(self) -> str:
        """Return angle, shot and effect in one line, for display."""
        return " · ".join(part for part in (self.angle, self.shot, self.fx) if part and part != "none") or "default"


class Plan(Value):
    """The units of a job, which make exactly `total` pictures (domain.md §4)."""

    job_id: UUID
    category: Category
    job_type: JobType
    units: tuple[Unit, ...]
    repairs: tuple[Repair, ...] = ()

    @property
    def total(self) -> int:
        return sum(unit.quantity for unit in self.units)


class Arrangement(StrEnum):
    """How the pictures of one image part are laid out."""

    SINGLE = "single"
    GRID = "grid"
    PAIR = "pair"


class PartLayout(Value):
    """One image part of a request: its references and their arrangement."""

    role: str
    arrangement: Arrangement
    attach_ids: tuple[int, ...] = Field(min_length=1)


class LostReference(Value):
    """A reference that was asked for and is not available."""

    attach_id: int
    role: str
    #: the unit fails without it, because its picture would show something else (domain.md §5)
    essential: bool


class Brief(Value):
    """The request for one picture of a unit, before the references are read."""

    #: in the order shown to the model; the text numbers them from 1
    parts: tuple[PartLayout, ...]
    text: str
    aspect_ratio: str
    #: one line per reference or word left out, with the reason
    warnings: tuple[str, ...] = ()
    lost: tuple[LostReference, ...] = ()


class ImagePart(Value):
    """An image part of a Gemini request, encoded as the request carries it."""

    mime_type: str
    base64: str

    @classmethod
    def of(cls, data: bytes, mime_type: str) -> Self:
        """Return the part of an encoded picture."""
        return cls(mime_type=mime_type, base64=b64encode(data).decode("ascii"))


class Slot(Value):
    """The unit and number of a picture in its job. A rerun fills only free slots."""

    unit: int = Field(ge=0)
    number: int = Field(ge=0)

    def __str__(self) -> str:
        return f"u{self.unit:04d}_p{self.number:04d}"


class Attach(Value):
    """The two columns of a quel_attach row that may hold the storage key (domain.md §5)."""

    attach_id: int
    file_path: str | None
    directory: str | None
