"""Jobs that no run works on: finding them, recording their recoveries, ending them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.connection import Connection
from quel_dagster.adapters.database.kinds import FOREIGN_KIND
from quel_dagster.adapters.database.records import SETTLE, JobDescription, Refusal, Settled
from quel_dagster.adapters.database.rows import answer, read
from quel_dagster.jobs.model import JobStatus

_END_ABANDONED_JOB = text(
    "select quel_dagster.end_abandoned_job_v2(:job_id, cast(:run_ids as text[]), :status, :error) as answer"
)
#: Jobs of this project that wait or are at work; the user may cancel them.
_OPEN_JOBS = text(
    f"""
    select j.job_id from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where j.job_status in ('pending', 'processing') and {FOREIGN_KIND} is null
    order by j.created_at limit 10000
    """  # noqa: S608  nothing of outside is in it
)
#: Jobs of this project that need a run: pending for long, or processing under an expired lease.
#: A job in processing without any lease row belongs to the older worker.
_STRANDED_JOBS = text(
    f"""
    select j.job_id from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    left join quel_dagster.job_lease l using (job_id)
    where ((j.job_status = 'pending' and l.job_id is null
           and greatest(j.created_at, j.updated_at) < now() - make_interval(secs => :seconds))
       or (j.job_status in ('pending', 'processing')
           and l.expires_at < clock_timestamp() - make_interval(secs => :grace)))
      and {FOREIGN_KIND} is null
    order by j.created_at limit :most
    """  # noqa: S608  nothing of outside is in it
)
#: Of those of these jobs that PostgreSQL refused to write: its words, and how often the job was pushed again for such a
#: reason within 72 hours.
_REFUSALS = text(
    "select l.job_id, l.trouble, (select count(*) from quel_dagster.job_recovery r where r.job_id = l.job_id "
    "and r.reason is not null and r.recovered_at > clock_timestamp() - interval '72 hours') as times "
    "from quel_dagster.job_lease l where l.job_id = any(cast(:job_ids as uuid[])) and l.trouble is not null"
)
_FORGET_RECOVERIES = text("delete from quel_dagster.job_recovery where job_id = :job_id")
_COUNT_RECOVERY = text("select quel_dagster.count_recovery_v2(:job_id, cast(:reason as text)) as answer")
#: For the queue sensor: which of the claimed ids exist, and the values of their runs' tags.
_DESCRIBE_JOBS = text(
    f"""
    select j.job_id, j.production_id, j.job_type, j.job_status::text as job_status, j.total_images,
           coalesce(j.quel_member_id, p.quel_member_id) as member_id, j.org_id,
           coalesce(j.quel_production_path, p.quel_production_path) as production_path,
           {FOREIGN_KIND} as foreign_kind
    from public.quel_production_jobs j
    join public.quel_production_photo p using (production_id)
    where j.job_id = any(cast(:job_ids as uuid[]))
    """  # noqa: S608  nothing of outside is in it
)


class Recovery:
    """What the sensors and the sweep ask and do."""

    def __init__(self, database: Connection) -> None:
        self._database = database

    async def end_abandoned(
        self, job_id: UUID, *, status: JobStatus, error: str, run_ids: Iterable[str] = ()
    ) -> Settled | None:
        """End an open job without a live run. Return None when it has ended, is missing, or another run works on it.

        Args:
            status: `failed` or `cancelled`; a user's cancel and the pictures really there have the last word.
            run_ids: dead runs; their leases do not count.
        """
        found = await answer(
            self._database,
            SETTLE,
            _END_ABANDONED_JOB,
            job_id=job_id,
            run_ids=list(run_ids),
            status=status.value,
            error=error,
        )
        return found if isinstance(found, Settled) else None

    async def open_jobs(self) -> list[UUID]:
        """Return the jobs that wait or are at work, oldest first, at most 10,000."""
        return [row.job_id for row in await self._database.ask(_OPEN_JOBS)]

    async def stranded_jobs(self, *, pending_seconds: float, grace_seconds: float, most: int = 500) -> list[UUID]:
        """Return open jobs without a live lease; the caller checks whether one waits in a queue.

        Args:
            pending_seconds: how long a job may be pending before it is suspicious.
            grace_seconds: how long after a lease ran out its job is left to run retries.
        """
        rows = await self._database.ask(_STRANDED_JOBS, seconds=pending_seconds, grace=grace_seconds, most=most)
        return [row.job_id for row in rows]

    async def refusals(self, job_ids: Sequence[UUID]) -> dict[UUID, Refusal]:
        """Return those of these jobs with a row that PostgreSQL refused to write in the last run on it."""
        rows = await read(self._database, Refusal, _REFUSALS, job_ids=list(job_ids))
        return {row.job_id: row for row in rows}

    async def forget_recoveries(self, job_id: UUID) -> None:
        """Let a job that was given up be recovered again as often as a new one."""
        await self._database.ask(_FORGET_RECOVERIES, job_id=job_id)

    async def note_recovery(self, job_id: UUID, refused: str | None = None) -> None:
        """Record that a stranded job is pushed again.

        Args:
            refused: PostgreSQL's words, if it refused to write the job's row; without, the recovery counts for nothing.
        """
        await self._database.answer(_COUNT_RECOVERY, job_id=job_id, reason=refused)

    async def describe_jobs(self, job_ids: Sequence[UUID]) -> dict[UUID, JobDescription]:
        """Return the values of the run tags, for the ids that exist."""
        rows = await read(self._database, JobDescription, _DESCRIBE_JOBS, job_ids=list(job_ids))
        return {row.job_id: row for row in rows}
