"""One job for its readers: rows, pictures, payer, refunds; for `quel status`, `quel show`, the page and dry runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ConfigDict
from sqlalchemy import text

from quel_dagster.adapters.database.connection import Connection
from quel_dagster.adapters.database.kinds import CATEGORY
from quel_dagster.adapters.database.records import REFUND, JobColumns, Made, Payer, Refund
from quel_dagster.adapters.database.rows import answer, read, read_of_job
from quel_dagster.jobs.model import Job, JobStatus, Slot, Value

#: One job as it is read for planning, without claiming it.
_FIND_JOB = text(
    """
    select j.job_id, j.production_id, j.job_type, coalesce(j.job_status::text, 'pending') as job_status,
           j.total_images, j.job_input_data::text as input_text,
           coalesce(j.quel_member_id, p.quel_member_id) as member_id,
           j.org_id, coalesce(j.quel_production_path, p.quel_production_path) as production_path, j.created_at,
           j.stage_index
    from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where j.job_id = :job_id
    """
)
#: One job as `quel status` shows it, with what it was charged.
_JOB_REPORT = text(
    f"""
    select j.job_id, j.production_id, j.job_type, coalesce(j.job_status::text, 'pending') as status, j.total_images,
           coalesce(j.completed_images, 0) as completed_images, coalesce(j.failed_images, 0) as failed_images,
           j.generated_attach_ids, j.error_message, coalesce(j.retry_count, 0) as retry_count,
           j.created_at, j.started_at, j.completed_at, j.org_id,
           coalesce(j.quel_member_id, p.quel_member_id) as member_id,
           {CATEGORY} as category,
           p.production_status::text as production_status, p.attach_ids as production_attach_ids,
           (select coalesce(-sum(c.amount), 0)::bigint from public.quel_credits c
            where c.transaction_type = 'DEDUCT'
              and c.attach_idx in (select attach_id from quel_dagster.attach_ids(j.generated_attach_ids))) as credits
    from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where j.job_id = any(cast(:job_ids as uuid[]))
    """  # noqa: S608  nothing of outside is in it
)
#: The pictures of a job in slot order, those of another worker first, each with its attach row and its charge.
_JOB_PICTURES = text(
    """
    select i.attach_id, i.unit, i.number, a.attach_file_path as key, a.attach_file_size as size,
           c.amount, c.balance_after, c.org_id,
           (select sum(u.usd)::float8 from quel_dagster.picture_usage u
            where u.job_id = j.job_id and u.attach_id = i.attach_id) as usd
    from public.quel_production_jobs j
    cross join lateral quel_dagster.job_pictures_v1(j.job_id, j.generated_attach_ids) i
    left join public.quel_attach a on a.attach_id = i.attach_id
    left join public.quel_credits c on c.attach_idx = i.attach_id and c.transaction_type = 'DEDUCT'
    where j.job_id = :job_id order by i.place
    """
)
#: All data of one job, as JSON: whole rows, payer, lease.
_JOB_FILE = text(
    """
    select to_jsonb(j) as job, to_jsonb(p) as production,
           (select o.org_name from public.quel_organization o where o.org_id = j.org_id) as organization_name,
           (select m.quel_name from public.quel_member m where m.quel_member_id = payer.member_id) as member_name,
           to_jsonb(payer) as payer,
           (select to_jsonb(l) || jsonb_build_object(
                'seconds_left', round(extract(epoch from l.expires_at - clock_timestamp())::numeric, 1))
            from quel_dagster.job_lease l where l.job_id = j.job_id) as lease,
           (select c.seen_at from quel_dagster.job_cancel c where c.job_id = j.job_id) as cancel_kept_at,
           (select c.actor from quel_dagster.job_cancel c where c.job_id = j.job_id) as cancel_actor,
           array(select r.recovered_at from quel_dagster.job_recovery r where r.job_id = j.job_id
                 order by r.recovered_at) as recovered_at
    from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    cross join lateral quel_dagster.payer_v1(j.job_id) payer
    where j.job_id = :job_id
    """
)
#: Why slots of these runs stayed empty, as their generate steps recorded it; oldest first.
_FAILURES = text(
    """
    select (failed #>> '{slot,unit}')::int as unit, (failed #>> '{slot,number}')::int as number,
           failed ->> 'reason' as reason
    from quel_dagster.op_output o
    cross join lateral jsonb_array_elements(
        case jsonb_typeof(o.value -> 'failed') when 'array' then o.value -> 'failed' else '[]' end) failed
    where o.run_id = any(cast(:run_ids as text[])) order by o.created_at
    """
)
_REFUND = text("select quel_dagster.refund_v1(:attach_id, :reason) as answer")


class JobReport(Value):
    """One job as `quel status` shows it, with what it was charged."""

    job_id: UUID
    production_id: UUID
    job_type: str
    status: JobStatus
    total_images: int
    completed_images: int
    failed_images: int
    #: as in the row: any JSON value
    generated_attach_ids: Any
    error_message: str | None
    retry_count: int
    created_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    org_id: UUID | None
    member_id: UUID | None
    category: str
    production_status: str | None
    production_attach_ids: Any
    credits: int

    @property
    def seconds_at_work(self) -> float | None:
        """Return the seconds from entering processing to the end."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()


class StoredPicture(Value):
    """Where a picture lies, and what was paid for it."""

    #: storage key; None: quel_attach has no such row
    key: str | None
    size: int | None
    #: of its ledger row, negative; None: it was not charged
    amount: int | None
    balance_after: int | None
    org_id: UUID | None
    #: what its calls cost at Gemini
    usd: float | None


class JobPicture(Made, StoredPicture):
    """A generated picture of a job, with its attach row and its charge."""


class WholeRow(Value):
    """A row with every column that its table has; only those that are read have a name here."""

    model_config = ConfigDict(extra="allow")


class WholeJob(WholeRow):
    """A row of quel_production_jobs."""

    job_id: UUID
    job_type: str
    total_images: int
    completed_images: int | None
    failed_images: int | None
    error_message: str | None
    retry_count: int | None
    estimated_credits: int | None
    created_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    job_input_data: Any


class WholeProduction(WholeRow):
    """A row of quel_production_photo."""

    production_id: UUID
    production_name: str | None
    production_status: str | None
    #: any JSON value
    attach_ids: Any


class LeaseNow(WholeRow):
    """A row of job_lease."""

    run_id: str
    worker: str
    #: negative once it has expired
    seconds_left: float

    @property
    def live(self) -> bool:
        return self.seconds_left > 0


class JobFile(Value):
    """All data of one job."""

    job: WholeJob
    production: WholeProduction
    #: of the job's `org_id`
    organization_name: str | None
    #: of the payer's member
    member_name: str | None
    payer: Payer
    lease: LeaseNow | None
    cancel_kept_at: datetime | None
    #: the operator who cancelled the job; None: the user, or it was not cancelled
    cancel_actor: str | None
    recovered_at: tuple[datetime, ...]


class SlotFailure(Value):
    """Why a run left a slot empty."""

    unit: int
    number: int
    reason: str


class Jobs:
    """What operators' tools, the gallery and dry runs ask."""

    def __init__(self, database: Connection) -> None:
        self._database = database

    async def find_job(self, job_id: UUID) -> Job:
        """Return one job, without claiming it.

        Raises:
            JobNotFoundError: no such row.
        """
        return (await read_of_job(self._database, JobColumns, _FIND_JOB, job_id)).job

    async def report(self, job_ids: Sequence[UUID]) -> dict[UUID, JobReport]:
        """Return what `quel status` shows, for the ids that exist."""
        rows = await read(self._database, JobReport, _JOB_REPORT, job_ids=list(job_ids))
        return {row.job_id: row for row in rows}

    async def pictures(self, job_id: UUID) -> list[JobPicture]:
        """Return the generated pictures of a job in slot order, those of another worker first."""
        return await read(self._database, JobPicture, _JOB_PICTURES, job_id=job_id)

    async def filled(self, job_id: UUID) -> list[tuple[int, Slot | None]]:
        """Return attach id and slot of every picture of a job, as `jobs.slots.filled_slots` takes them."""
        return [(picture.attach_id, picture.slot) for picture in await self.pictures(job_id)]

    async def job_file(self, job_id: UUID) -> JobFile:
        """Return all data of a job.

        Raises:
            JobNotFoundError: no such row.
        """
        return await read_of_job(self._database, JobFile, _JOB_FILE, job_id)

    async def failures(self, run_ids: Iterable[str]) -> list[SlotFailure]:
        """Return why slots of these runs stayed empty, oldest first."""
        return await read(self._database, SlotFailure, _FAILURES, run_ids=list(run_ids))

    async def refund(self, attach_id: int, *, reason: str) -> Refund:
        """Refund the credits of one picture, at most once; the picture stays in its job (domain.md §8)."""
        return await answer(self._database, REFUND, _REFUND, attach_id=attach_id, reason=reason)
