"""What was made since a moment, and by which workers, for `quel stats` and the page at /quel.

Not here: counts for Prometheus and the daily summary (`figures`), credits (`ledger`).
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.job_list import LONGEST_JOB_DAYS
from quel_dagster.adapters.database.rows import read, read_one
from quel_dagster.adapters.database.store import Database
from quel_dagster.jobs.model import Value

#: Rows of quel_attach that are read, newest first, to count the pictures of the last minutes.
_NEWEST_ATTACHES = 20_000

#: Jobs that ended in a span, in one row.
_ENDED = text(
    f"""
    select count(*) filter (where status = 'completed' and failed = 0) as completed,
           count(*) filter (where status = 'completed' and failed > 0) as partial,
           count(*) filter (where status = 'failed') as failed,
           count(*) filter (where status in ('cancelled', 'user_cancelled')) as cancelled,
           coalesce(sum(made), 0)::bigint as pictures,
           coalesce(sum(failed) filter (where status in ('completed', 'failed')), 0)::bigint as missing,
           percentile_cont(0.5) within group (order by waited) as p50_to_start,
           percentile_cont(0.95) within group (order by waited) as p95_to_start,
           percentile_cont(0.5) within group (order by worked) as p50_at_work,
           percentile_cont(0.5) within group (order by total) as p50_to_end,
           percentile_cont(0.95) within group (order by total) as p95_to_end
    from (
        select job_status::text as status, coalesce(completed_images, 0) as made, coalesce(failed_images, 0) as failed,
               extract(epoch from started_at - created_at)::float8 as waited,
               extract(epoch from completed_at - started_at)::float8 as worked,
               extract(epoch from completed_at - created_at)::float8 as total
        from public.quel_production_jobs
        where created_at >= cast(:since as timestamptz) - make_interval(days => {LONGEST_JOB_DAYS})
          and completed_at >= cast(:since as timestamptz)
    ) ended
    """  # noqa: S608
)
_REASONS = text(
    f"""
    select error_message as message, count(*) as jobs
    from public.quel_production_jobs
    where created_at >= cast(:since as timestamptz) - make_interval(days => {LONGEST_JOB_DAYS})
      and completed_at >= cast(:since as timestamptz)
      and error_message is not null and job_status in ('completed', 'failed')
    group by error_message order by count(*) desc limit 2000
    """  # noqa: S608
)
_PICTURES_SINCE = text(
    f"""
    select count(*) as pictures
    from (select created_at, attach_file_path from public.quel_attach
          order by attach_id desc limit {_NEWEST_ATTACHES}) newest
    where created_at >= cast(:since as timestamptz) and attach_file_path like 'generated-images/%'
    """  # noqa: S608
)
_WORKERS = text(
    """
    select l.worker, array_agg(l.job_id order by l.claimed_at) as job_ids, min(l.claimed_at) as since
    from quel_dagster.job_lease l where l.expires_at > clock_timestamp() group by l.worker order by l.worker
    """
)


class Ended(Value):
    """The results of the jobs that ended in a span of time."""

    completed: int
    #: completed with pictures missing
    partial: int
    failed: int
    cancelled: int
    pictures: int
    missing: int
    #: seconds from written to begun, from begun to ended, and from written to ended
    p50_to_start: float | None
    p95_to_start: float | None
    p50_at_work: float | None
    p50_to_end: float | None
    p95_to_end: float | None

    @property
    def jobs(self) -> int:
        return self.completed + self.partial + self.failed + self.cancelled


class Worker(Value):
    """A process that holds leases now."""

    worker: str
    job_ids: tuple[UUID, ...]
    since: datetime


async def ended(database: Database, since: datetime) -> Ended:
    """Return the results of the jobs that ended since then."""
    return await read_one(database, Ended, _ENDED, since=since)


async def messages(database: Database, since: datetime) -> list[tuple[str, int]]:
    """Return the error messages of jobs that ended since then, with how many jobs each, the commonest first."""
    return [(row.message, row.jobs) for row in await database.ask(_REASONS, since=since)]


async def pictures_since(database: Database, since: datetime) -> int:
    """Return how many pictures were stored since then, of the newest 20,000 attachments."""
    return int((await database.ask(_PICTURES_SINCE, since=since))[0].pictures)


async def workers(database: Database) -> list[Worker]:
    """Return the processes that hold live leases, with their jobs."""
    return await read(database, Worker, _WORKERS)
