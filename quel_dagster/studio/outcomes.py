"""What came of the work, as values that travel between ops and become a run's metadata."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from quel_dagster.jobs.model import Category, Job, JobStatus, JobType, PartLayout, Repair, Slot, Unit, Value


class Ticket(Value):
    """The job that a run works on, or the reason why it does not."""

    job_id: UUID
    #: set when the run has nothing to do here: another one is at work
    refused: str | None = None
    job: Job | None = None
    #: the run whose work this one goes on with
    took_over_from: str | None = None
    #: keys of the only units to make; all when empty
    units: tuple[str, ...] = ()
    #: plan and compose, call nobody, change nothing
    dry_run: bool = False


class Moment(Value):
    """One line of a run's story."""

    #: since the run claimed its job
    seconds: float
    step: str
    what: str


class UnitRehearsal(Value):
    """What one unit would be asked of Gemini."""

    unit: Unit
    #: pictures that do not exist yet
    missing: int
    parts: tuple[PartLayout, ...] = ()
    text: str = ""
    #: what would be left out, and references without a row
    warnings: tuple[str, ...] = ()


class Rehearsal(Value):
    """What a run would do, found out without asking Gemini or changing a row."""

    units: tuple[UnitRehearsal, ...]
    #: pictures that would be made, and what they would cost
    pictures: int
    credits: int
    #: what would happen, in words
    verdict: str


class Planned(Value):
    """What a job will make, and who pays for it."""

    job_id: UUID
    category: Category | None = None
    job_type: JobType | None = None
    units: tuple[Unit, ...] = ()
    repairs: tuple[Repair, ...] = ()
    #: planned pictures, and how many of them exist already
    total: int = 0
    made_before: int = 0
    #: who pays, in words; empty when nothing has to be paid
    payer: str = ""
    balance: int | None = None
    #: as in Ticket
    refused: str | None = None
    #: why nothing is made although something is missing: the user cancelled
    stopped: str | None = None
    #: keys of units with missing pictures that this run was told to leave out
    left_out: tuple[str, ...] = ()
    #: set in a dry run: nothing is to be made
    rehearsal: Rehearsal | None = None


class UnitTask(Value):
    """A unit, and the job that it belongs to."""

    job_id: UUID
    unit: Unit


class PictureMade(Value):
    """A picture in the tables."""

    slot: Slot
    attach_id: int
    key: str
    #: made and charged by this run; False when the slot was filled before
    new: bool = True
    #: bytes of the stored WebP, and its pixels
    size: int = 0
    width: int = 0
    height: int = 0
    #: requests to Gemini
    attempts: int = 0
    #: seconds: in Gemini calls, waiting for them (backoff, limits), in the object store, in the transaction
    gemini_seconds: float = 0.0
    waited_seconds: float = 0.0
    #: of those waited, for the quota that all runs share
    quota_seconds: float = 0.0
    storage_seconds: float = 0.0
    database_seconds: float = 0.0
    #: small WebP for the run page, base64
    thumbnail: str | None = None
    #: the payer's balance after the charge
    balance: int | None = None


class PictureFailed(Value):
    """A slot that stayed empty, and why, in one sentence."""

    slot: Slot
    reason: str


class UnitOutcome(Value):
    """What one unit came to."""

    unit: Unit
    #: the run that did it; settle looks again at what an earlier run left missing
    run_id: str
    made: tuple[PictureMade, ...] = ()
    failed: tuple[PictureFailed, ...] = ()
    #: what Gemini was asked with; empty when it was not asked
    parts: tuple[PartLayout, ...] = ()
    text: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    #: of those, fetching references and laying out image parts
    prepare_seconds: float = 0.0
    #: waited for Gemini's quota, summed over all pictures, failed ones included
    quota_seconds: float = 0.0
    #: why nothing was done: another run is at work on the job
    refused: str | None = None


class JobOutcome(Value):
    """How a run left its job."""

    job_id: UUID
    status: JobStatus
    completed: int
    failed: int
    attach_ids: tuple[int, ...]
    error: str | None
    #: pictures and credits of this run alone
    made_now: int
    charged_now: int
    #: the payer in words, and what they had when this run first looked and after its last charge
    payer: str = ""
    balance_before: int | None = None
    balance: int | None
    #: credits per picture
    price: int = 0
    #: when this run claimed the job; the seconds below count from there
    claimed_at: datetime | None = None
    first_picture_seconds: float | None = None
    seconds: float = 0.0
    timeline: tuple[Moment, ...] = ()
