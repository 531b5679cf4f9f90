"""What a job is, once read: the values that the rooms of this project hand to each other.

Frozen pydantic models, so that they travel between Dagster ops as JSON. No I/O, no Dagster.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
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
    """One row of quel_production_jobs, as far as making its pictures needs it."""

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


class Repair(Value):
    """One thing in `job_input_data` that was read leniently (domain.md §4)."""

    #: where, such as `stages[1].quantity`
    path: str
    #: what was found and how it was read, one clause: `"two" is not a number; read as not given`
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

    `(index, number)` with number 0 … quantity - 1 is the *slot* of a picture in its job.
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


class Plan(Value):
    """What a job will make: exactly `total` pictures over its units (domain.md §4)."""

    job_id: UUID
    category: Category
    job_type: JobType
    #: `userId` of the input when it is a UUID, unchecked against the member table
    claimed_user_id: UUID | None
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
    """One image part of a request: which references it shows, and how."""

    role: str
    arrangement: Arrangement
    attach_ids: tuple[int, ...] = Field(min_length=1)


class Brief(Value):
    """Everything Gemini is asked for one picture of a unit, before any byte is touched."""

    #: in the order shown to the model; the text numbers them from 1
    parts: tuple[PartLayout, ...]
    text: str
    aspect_ratio: str
    #: what was left out and why, one line each
    warnings: tuple[str, ...] = ()


class ImagePart(Value):
    """An encoded image part of a Gemini request."""

    data: bytes
    mime_type: str


class Slot(Value):
    """A picture's place in its job; what makes every rerun idempotent."""

    unit: int = Field(ge=0)
    number: int = Field(ge=0)

    def __str__(self) -> str:
        return f"u{self.unit:04d}_p{self.number:04d}"


class Attach(Value):
    """Where a stored picture lies: the two columns of quel_attach that may hold its key (domain.md §5)."""

    attach_id: int
    file_path: str | None
    directory: str | None
