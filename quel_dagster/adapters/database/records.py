"""The parameters and results of `Database`, and the answers of the SQL functions, as values.

An answer is JSON; its `outcome` says which of the values it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from pydantic import Field, TypeAdapter

from quel_dagster.jobs.json_text import read_json
from quel_dagster.jobs.kinds import ForeignKind
from quel_dagster.jobs.model import Category, Job, JobStatus, Slot, Value


class Made(Value):
    """A picture that the job already has."""

    attach_id: int
    #: of its slot; None for a picture of the older worker
    unit: int | None
    number: int | None

    @property
    def slot(self) -> Slot | None:
        return None if self.unit is None or self.number is None else Slot(unit=self.unit, number=self.number)


class OutputPlace(NamedTuple):
    """The names of one output of one step of one run."""

    run_id: str
    step_key: str
    output: str
    #: of a dynamic output; else empty
    mapping_key: str = ""


class JobColumns(Value):
    """The columns of a job that making its pictures needs."""

    job_id: UUID
    production_id: UUID
    job_type: str
    job_status: JobStatus
    total_images: int
    #: `job_input_data` as PostgreSQL holds it: Python's reader refuses some of it
    input_text: str
    member_id: UUID | None
    org_id: UUID | None
    production_path: str | None
    created_at: datetime | None
    stage_index: int | None

    @property
    def job(self) -> Job:
        """Return the job with its input decoded."""
        fields = dict(self)
        return Job(input_data=read_json(fields.pop("input_text")), **fields)


CancelledBy = Literal["user", "operator"]


class Claim(Value):
    """A lease on a job, and the job as read under the lock."""

    outcome: Literal["claimed"]
    token: int
    #: the run that held an expired or inherited lease, if any
    took_over_from: str | None
    #: canceller of the job before this claim
    cancelled_by: CancelledBy | None
    #: consecutive deaths of worker processes with this job, without another picture
    deaths: int
    #: so many that the job is given up
    poisoned: bool
    columns: JobColumns = Field(alias="job")
    #: in slot order, pictures of another worker first
    made: tuple[Made, ...]

    @cached_property
    def job(self) -> Job:
        return self.columns.job


class Held(Value):
    """Another run holds the lease."""

    outcome: Literal["held"]
    holder: str
    worker: str


class NotClaimed(Value):
    """missing: no such job; probation: another suspected job is tried alone."""

    outcome: Literal["missing", "probation"]


CLAIM: TypeAdapter[Claim | Held | NotClaimed] = TypeAdapter(
    Annotated[Claim | Held | NotClaimed, Field(discriminator="outcome")]
)


#: Why a job may not be made, by `payer_v1`'s `problem` (domain.md §8); filled with the payer's fields.
_PAYER_PROBLEMS: Mapping[str, str] = {
    "no_member": "The job names no member, so no one can be charged",
    "unknown_member": "Member {member_id} of the job is not in quel_member, so no one can be charged",
    "member_inactive": "Member {member_id} is {status}; nothing is made for a member who is not active",
    "unknown_organization": "Organization {org_id} of the job is not in quel_organization",
    "organization_deleted": "Organization {org_id} of the job is deleted; it pays for nothing",
    "organization_inactive": "Organization {org_id} of the job is {status}; only an active one pays",
    "not_in_organization": "Member {member_id} neither owns organization {org_id} nor is an active member of it",
}


class Payer(Value):
    """The payer of a job's pictures, with the balance (`payer_v1`, domain.md §8)."""

    #: in the ledger's `user_id`; None when the job names no member
    member_id: UUID | None
    #: set for the job of an organization, which is then the only possible payer
    org_id: UUID | None = None
    #: credits now
    balance: int | None = None
    #: a key of the table above; None when this payer may be charged
    problem: str | None = None
    #: the status that is in the way
    status: str | None = None

    @property
    def name(self) -> str:
        """Return `organization <id>` or `member <id>`; empty when there is no member."""
        if self.org_id:
            return f"organization {self.org_id}"
        return f"member {self.member_id}" if self.member_id else ""

    @property
    def refusal(self) -> str | None:
        """Return why nothing may be charged, as a clause; None when the payer may be charged."""
        if self.problem is None:
            return None
        return _PAYER_PROBLEMS[self.problem].format(**self.model_dump())


class Begun(Value):
    """The job is in `processing`."""

    outcome: Literal["begun"]
    payer: Payer


class Cancelled(Value):
    """The job was cancelled."""

    outcome: Literal["cancelled"]
    by: CancelledBy


class NotPaid(Value):
    """The payer may not be charged (no_payer), or has too few credits (insufficient)."""

    outcome: Literal["no_payer", "insufficient"]
    payer: Payer


class NotProcessing(Value):
    """The job's row left `processing`."""

    outcome: Literal["not_processing"]
    status: str | None


class LeaseLost(Value):
    """Another run holds the lease, or the slot."""

    outcome: Literal["lease_lost"]


#: After one of these the job makes no more pictures.
Stopped = Cancelled | NotPaid | NotProcessing | LeaseLost
BEGIN: TypeAdapter[Begun | Stopped] = TypeAdapter(Annotated[Begun | Stopped, Field(discriminator="outcome")])


class Reserved(Value):
    """A slot for which Gemini may be called; the payer's balance covers it."""

    outcome: Literal["reserved"] = "reserved"
    payer: Payer


class Taken(Value):
    """A slot that has its picture already."""

    outcome: Literal["taken"] = "taken"
    attach_id: int


class Wait(Value):
    """The payer's credits are reserved for other pictures that are being made now."""

    outcome: Literal["wait"] = "wait"
    payer: Payer


RESERVE: TypeAdapter[Reserved | Taken | Wait | Stopped] = TypeAdapter(
    Annotated[Reserved | Taken | Wait | Stopped, Field(discriminator="outcome")]
)


class Stored(Value):
    """The picture was written and charged."""

    outcome: Literal["stored"]
    attach_id: int
    completed: int
    balance: int
    payer: Payer


class TakenBefore(Value):
    """The slot was filled before; nothing was written."""

    outcome: Literal["taken"]
    attach_id: int
    completed: int
    object_key: str


class Full(Value):
    """The job has all its pictures; nothing was written."""

    outcome: Literal["full"]


COMMIT: TypeAdapter[Stored | TakenBefore | Full | Stopped] = TypeAdapter(
    Annotated[Stored | TakenBefore | Full | Stopped, Field(discriminator="outcome")]
)


class Committed(Value):
    """A stored picture. `taken`: the slot was filled before, and nothing was charged now."""

    attach_id: int
    completed: int
    #: of the object that the slot names
    key: str
    taken: bool = False
    #: after the charge; None when taken
    balance: int | None = None


class Settled(Value):
    """The result of ending a job."""

    outcome: Literal["settled"] = "settled"
    status: JobStatus
    completed: int
    failed: int
    attach_ids: tuple[int, ...]
    error: str | None


class NotSettled(Value):
    """The job was not ended. held: a run works on it; elsewhere: another worker on the same list does."""

    outcome: Literal["lease_lost", "missing", "ended", "held", "elsewhere"]
    status: str | None = None
    holder: str | None = None
    worker: str | None = None


SETTLE: TypeAdapter[Settled | NotSettled] = TypeAdapter(Annotated[Settled | NotSettled, Field(discriminator="outcome")])


class Refusal(Value):
    """PostgreSQL refused to write a job's row in the last run on it."""

    job_id: UUID
    #: PostgreSQL's words
    trouble: str
    #: how often the job was pushed again for such a reason within 72 hours
    times: int


class Refund(Value):
    """The result of a refund."""

    outcome: Literal["refunded", "refunded_before", "not_charged"]
    #: credits given back
    amount: int = 0
    #: of the payer afterwards; None unless refunded now
    balance: int | None = None
    #: of the earlier refund
    at: datetime | None = None


REFUND = TypeAdapter(Refund)


class JobDescription(Value):
    """The values of a run's tags."""

    job_id: UUID
    production_id: UUID
    job_type: str
    job_status: str | None
    total_images: int
    member_id: UUID | None
    org_id: UUID | None
    production_path: str | None
    #: the older worker's kind that the row is of; None for a row that is for this project
    foreign_kind: ForeignKind | None = None

    @property
    def category(self) -> Category:
        """The category that is made."""
        return Category.of_path(self.production_path)


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
