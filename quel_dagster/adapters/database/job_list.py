"""List and find jobs, for `quel list` and the page at /quel.

Each query goes through an index of the web app's tables (domain.md §2) or is limited in rows.
Not here: one job's file (`jobs`), what was made in a span of time (`throughput`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.kinds import CATEGORY
from quel_dagster.adapters.database.rows import read
from quel_dagster.adapters.database.store import Database
from quel_dagster.jobs.model import Category, JobStatus, Value

#: A job that ended within a span was written at most this many days before it: `completed_at` has no index.
LONGEST_JOB_DAYS = 7
OPEN = (JobStatus.PENDING, JobStatus.PROCESSING)
#: Maximum of jobs that a name or an id prefix finds, and a search on the page.
MOST_NAMED, MOST_SEARCHED = 6, 50

_JOBS = text(
    f"""
    with jobs as (
        select j.job_id, j.production_id, j.job_type, coalesce(j.job_status::text, 'pending') as status,
               coalesce(j.job_status::text, 'pending') = 'completed' and coalesce(j.failed_images, 0) > 0 as partial,
               j.total_images, coalesce(j.completed_images, 0) as completed_images,
               coalesce(j.failed_images, 0) as failed_images, j.created_at, j.started_at, j.completed_at,
               j.error_message, j.org_id, p.production_name, coalesce(j.quel_member_id, p.quel_member_id) as member_id,
               {CATEGORY} as category
        from public.quel_production_jobs j
        join public.quel_production_photo p using (production_id)
        where (cast(:job_ids as uuid[]) is null or j.job_id = any(cast(:job_ids as uuid[])))
          and (cast(:since as timestamptz) is null
               or (greatest(j.created_at, j.completed_at) >= cast(:since as timestamptz)
                   and j.created_at >= cast(:since as timestamptz) - make_interval(days => {LONGEST_JOB_DAYS})))
          and (cast(:ended_since as timestamptz) is null
               or (j.completed_at >= cast(:ended_since as timestamptz)
                   and j.created_at >= cast(:ended_since as timestamptz) - make_interval(days => {LONGEST_JOB_DAYS})))
          and (cast(:statuses as text[]) is null
               or j.job_status = any(cast(cast(:statuses as text[]) as public.job_status_enum[]))
               or (j.job_status is null and 'pending' = any(cast(:statuses as text[])))
               or (cast(:or_partial as boolean) and j.job_status = 'completed' and j.failed_images > 0))
    )
    select jobs.*, m.quel_name as member_name, m.quel_email as member_email, o.org_name,
           l.worker, l.run_id
    from jobs
    left join public.quel_member m on m.quel_member_id = jobs.member_id
    left join public.quel_organization o on o.org_id = jobs.org_id
    left join quel_dagster.job_lease l on l.job_id = jobs.job_id and l.expires_at > clock_timestamp()
    where (cast(:category as text) is null or category = cast(:category as text))
      and (cast(:member_id as uuid) is null or member_id = cast(:member_id as uuid))
      and (cast(:org_id as uuid) is null or jobs.org_id = cast(:org_id as uuid))
      and (cast(:reason as text) is null
           or position(lower(cast(:reason as text)) in lower(coalesce(error_message, ''))) > 0)
    order by created_at desc, job_id limit :most
    """  # noqa: S608  the parts are constants of this module
)
_JOBS_BETWEEN = text(
    "select job_id from public.quel_production_jobs "
    "where job_id between cast(:first as uuid) and cast(:last as uuid) order by created_at desc limit :most"
)
_JOBS_OF_PRODUCTIONS = text(
    """
    select j.job_id from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where p.production_id between cast(:first as uuid) and cast(:last as uuid)
    order by j.created_at desc limit :most
    """
)
#: load_job's value names the job of a run; a run at work is in the lease too
_JOBS_OF_RUNS = text(
    """
    select distinct job_id from (
        select cast(value ->> 'job_id' as uuid) as job_id from quel_dagster.op_output
        where run_id like cast(:run as text) || '%' and value ? 'job_id'
        union all
        select job_id from quel_dagster.job_lease where run_id like cast(:run as text) || '%'
    ) found limit :most
    """
)
_JOBS_NAMED = text(
    """
    select j.job_id from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where lower(p.production_name) = lower(cast(:name as text))
    order by j.created_at desc limit :most
    """
)
_SEARCH_PRODUCTIONS = text(
    """
    select j.job_id from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where position(lower(cast(:word as text)) in lower(coalesce(p.production_name, ''))) > 0
    order by j.created_at desc limit :most
    """
)


class JobRow(Value):
    """A job in a list."""

    job_id: UUID
    production_id: UUID
    job_type: str
    status: str
    #: completed, with pictures missing
    partial: bool
    total_images: int
    completed_images: int
    failed_images: int
    created_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    error_message: str | None
    category: str
    production_name: str | None
    member_id: UUID | None
    member_name: str | None
    member_email: str | None
    org_id: UUID | None
    org_name: str | None
    #: of a live lease
    worker: str | None
    run_id: str | None

    @property
    def outcome(self) -> str:
        """Return the status; `partial` for a completed job without all pictures."""
        return "partial" if self.partial else self.status

    @property
    def member(self) -> str:
        return self.member_name or self.member_email or str(self.member_id or "")


class Filter(Value):
    """A filter of jobs; a field that is None matches every job."""

    #: empty: jobs of any status
    statuses: tuple[JobStatus, ...] = ()
    job_ids: tuple[UUID, ...] | None = None
    #: completed jobs with pictures missing, beside those statuses
    or_partial: bool = False
    category: Category | None = None
    member_id: UUID | None = None
    org_id: UUID | None = None
    #: created or ended since
    since: datetime | None = None
    #: ended since
    ended_since: datetime | None = None
    #: part of the error message, in any case
    reason: str | None = None


async def matching_jobs(database: Database, wanted: Filter, *, most: int) -> list[JobRow]:
    """Return the jobs that match, newest first."""
    return await read(
        database,
        JobRow,
        _JOBS,
        job_ids=None if wanted.job_ids is None else list(wanted.job_ids),
        statuses=[status.value for status in wanted.statuses] if wanted.statuses or wanted.or_partial else None,
        or_partial=wanted.or_partial,
        category=wanted.category.value if wanted.category else None,
        member_id=wanted.member_id,
        org_id=wanted.org_id,
        since=wanted.since,
        ended_since=wanted.ended_since,
        reason=wanted.reason,
        most=most,
    )


async def job_rows(database: Database, job_ids: Sequence[UUID]) -> list[JobRow]:
    """Return these jobs in this order; ids without a row are left out."""
    found = {
        row.job_id: row for row in await matching_jobs(database, Filter(job_ids=tuple(job_ids)), most=len(job_ids))
    }
    return [found[job_id] for job_id in job_ids if job_id in found]


async def jobs_by_id(database: Database, beginning: str, *, most: int = MOST_NAMED) -> list[UUID]:
    """Return jobs with this prefix of the id, else those of productions with this prefix; newest first."""
    first, last = uuid_range(beginning)
    for question in (_JOBS_BETWEEN, _JOBS_OF_PRODUCTIONS):
        if found := [row.job_id for row in await database.ask(question, first=first, last=last, most=most)]:
            return found
    return []


async def jobs_by_run(database: Database, beginning: str) -> list[UUID]:
    """Return the jobs of runs with this prefix of the run id, as far as schema quel_dagster holds them."""
    return [row.job_id for row in await database.ask(_JOBS_OF_RUNS, run=beginning, most=MOST_NAMED)]


async def jobs_by_name(database: Database, name: str) -> list[UUID]:
    """Return the jobs of productions with exactly this name, newest first."""
    return [row.job_id for row in await database.ask(_JOBS_NAMED, name=name, most=MOST_NAMED)]


async def search_productions(database: Database, word: str) -> list[UUID]:
    """Return the jobs of productions with this word in the name, newest first."""
    return [row.job_id for row in await database.ask(_SEARCH_PRODUCTIONS, word=word, most=MOST_SEARCHED)]


def is_beginning_of_uuid(word: str) -> bool:
    """Return whether this is a UUID or at least its first four digits."""
    digits = word.replace("-", "")
    return 4 <= len(digits) <= 32 and all(c in "0123456789abcdefABCDEF" for c in digits)


def uuid_range(beginning: str) -> tuple[UUID, UUID]:
    """Return the first and the last UUID that begin so."""
    digits = beginning.replace("-", "")
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
