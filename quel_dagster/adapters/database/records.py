"""What `Database` answers with, and what it is given: rows in the words of the project."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import Field

from quel_dagster.jobs.model import Job, JobStatus, Value


class Made(Value):
    """A picture that the job already has; `key` is None when its quel_attach row is gone."""

    attach_id: int
    key: str | None


class Claim(Value):
    """A lease on a job, and the job as it stood under the lock."""

    token: int
    #: the run that held an expired or inherited lease, if any
    took_over_from: str | None
    #: the user had cancelled before
    cancelled: bool
    job: Job
    #: in the order of `generated_attach_ids`
    made: tuple[Made, ...]


class Payer(Value):
    """Who pays for a job's pictures (domain.md §8)."""

    #: always in the ledger's `user_id`
    member_id: UUID
    #: set while an active organization pays
    org_id: UUID | None
    balance: int

    @property
    def name(self) -> str:
        return f"organization {self.org_id}" if self.org_id else f"member {self.member_id}"


class Committed(Value):
    """A picture in the tables. `taken` when the slot was filled before, and nothing was charged now."""

    attach_id: int
    completed: int
    taken: bool = False
    #: after the charge; None when taken
    balance: int | None = None


class Settled(Value):
    """How a job ended."""

    status: JobStatus
    completed: int
    failed: int
    attach_ids: tuple[int, ...]
    error: str | None


class JobDescription(Value):
    """What a run is tagged with."""

    job_id: UUID
    production_id: UUID
    job_type: str
    job_status: str | None
    total_images: int
    member_id: UUID | None
    org_id: UUID | None
    production_path: str | None


class NewJob(Value):
    """A production and its job, as the web app would insert them."""

    job_type: str
    total_images: int
    input_data: Any
    path: str | None = Field(default=None, description="quel_production_path")
    member_id: UUID | None = None
    org_id: UUID | None = None
    name: str | None = None
    stage_count: int = 1
