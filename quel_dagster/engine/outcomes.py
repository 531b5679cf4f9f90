"""Results of the work, as values that ops exchange and run metadata is made from."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from quel_dagster.jobs.model import Category, Job, JobStatus, JobType, PartLayout, Repair, Slot, Unit, Value


class ClaimedJob(Value):
    """The job that a run works on, or the reason why it does not work on it."""

    job_id: UUID
    #: set when this run has nothing to do because another run holds the job
    refused: str | None = None
    job: Job | None = None
    #: the run that this run takes over from
    took_over_from: str | None = None
    #: keys of the units to make; empty: all
    units: tuple[str, ...] = ()
    #: plan and compose only: no calls, no changed rows
    dry_run: bool = False


class Moment(Value):
    """One line of a run's timeline."""

    #: since the run claimed its job
    seconds: float
    step: str
    what: str


class UnitRehearsal(Value):
    """The request that one unit would send to Gemini."""

    unit: Unit
    #: pictures that do not exist yet
    missing: int
    parts: tuple[PartLayout, ...] = ()
    text: str = ""
    #: references that would be left out, and those without a row
    warnings: tuple[str, ...] = ()


class Rehearsal(Value):
    """What a run would do, found without calling Gemini or changing a row."""

    units: tuple[UnitRehearsal, ...]
    #: pictures that would be made, and their price in credits
    pictures: int
    credits: int
    #: the expected result, in one sentence
    verdict: str


class Planned(Value):
    """The pictures that a job will make, and its payer."""

    job_id: UUID
    category: Category | None = None
    job_type: JobType | None = None
    units: tuple[Unit, ...] = ()
    repairs: tuple[Repair, ...] = ()
    #: planned pictures, and how many of them exist already
    total: int = 0
    made_before: int = 0
    #: description of the payer; empty when there is nothing to pay
    payer: str = ""
    balance: int | None = None
    #: as in ClaimedJob
    refused: str | None = None
    #: why nothing is made although pictures are missing: the user cancelled
    stopped: str | None = None
    #: keys of units with missing pictures that this run's config leaves out
    left_out: tuple[str, ...] = ()
    #: set in a dry run
    rehearsal: Rehearsal | None = None


class UnitTask(Value):
    """A unit and the job it belongs to."""

    job_id: UUID
    unit: Unit


class PictureMade(Value):
    """A committed picture."""

    slot: Slot
    attach_id: int
    key: str
    #: made and charged by this run; False when the slot was already filled
    new: bool = True
    #: bytes of the stored WebP, and its size in pixels
    size: int = 0
    width: int = 0
    height: int = 0
    #: number of requests to Gemini, and the model that made the picture
    attempts: int = 0
    model: str = ""
    #: usage at Gemini: USD (None: unknown), tokens
    usd: float | None = None
    input_tokens: int = 0
    image_tokens: int = 0
    text_tokens: int = 0
    #: remarks for the run page: another model than chosen, another aspect ratio than requested
    notes: tuple[str, ...] = ()
    #: seconds: in Gemini calls, between calls (backoff, limits), in the object store, in the transaction
    gemini_seconds: float = 0.0
    waited_seconds: float = 0.0
    #: the part of `waited_seconds` spent on the quota that all runs share
    quota_seconds: float = 0.0
    storage_seconds: float = 0.0
    database_seconds: float = 0.0
    #: small WebP for the run page, base64
    thumbnail: str | None = None
    #: the payer's balance after the charge
    balance: int | None = None


class PictureFailed(Value):
    """A slot that stayed empty, and the reason in one sentence."""

    slot: Slot
    reason: str
    #: not attempted, because the job was stopped for this reason
    stopped: bool = False
    #: USD for calls that returned no picture
    usd: float = 0.0


class UnitOutcome(Value):
    """The result of one unit."""

    unit: Unit
    #: the run that produced this result; settle retries what an earlier run left missing
    run_id: str
    made: tuple[PictureMade, ...] = ()
    failed: tuple[PictureFailed, ...] = ()
    #: the request to Gemini; empty when there was none
    parts: tuple[PartLayout, ...] = ()
    text: str = ""
    warnings: tuple[str, ...] = ()
    #: references that the pictures were made without, and why, one clause each
    lost_references: tuple[str, ...] = ()
    seconds: float = 0.0
    #: the part of `seconds` spent on fetching references and laying out image parts
    prepare_seconds: float = 0.0
    #: seconds spent waiting for Gemini's quota, summed over all pictures, failed ones included
    quota_seconds: float = 0.0
    #: why nothing was done: another run holds the job
    refused: str | None = None


class JobOutcome(Value):
    """The state in which a run left its job."""

    job_id: UUID
    status: JobStatus
    completed: int
    failed: int
    attach_ids: tuple[int, ...]
    error: str | None
    #: pictures and credits of this run only
    made_now: int
    charged_now: int
    #: description of the payer, and its balance when this run began and after its last charge
    payer: str = ""
    balance_before: int | None = None
    balance: int | None
    #: credits per picture
    price: int = 0
    #: when this run claimed the job; the durations below count from there
    claimed_at: datetime | None = None
    first_picture_seconds: float | None = None
    seconds: float = 0.0
    timeline: tuple[Moment, ...] = ()
