"""The state of an installation: the numbers of `quel stats` and of the first page at /quel.

Every system may be unreachable; what only it knows is then None, and `unknown` gives the reason.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic import Field
from redis import RedisError

from quel_dagster.adapters.database import throughput
from quel_dagster.adapters.database.figures import backlog
from quel_dagster.adapters.database.job_list import OPEN, Filter, JobRow, matching_jobs
from quel_dagster.adapters.database.ledger import Money, credits_since
from quel_dagster.adapters.database.throughput import Ended, Worker
from quel_dagster.adapters.database.usage import SpanUsage, usage_of_span
from quel_dagster.adapters.intake import intake_pauses
from quel_dagster.adapters.queue import AGAIN, QUEUE
from quel_dagster.adapters.queue_entries import job_id_of
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.console.connections import Connections
from quel_dagster.errors import QuelError
from quel_dagster.jobs.model import Value
from quel_dagster.platform.tags import JOB_ID_TAG

#: period for the rate of pictures per minute
RATE_MINUTES = 10
#: maximum of open jobs listed
MOST_OPEN = 200
#: placeholders of `reasons` for numbers and ids
_PLACEHOLDERS = re.compile(r"\b(?:N|ID)\b|…")
#: maximum of queued runs read for the order of service
_MOST_RUNS = 1_000


class Reason(Value):
    """Why pictures are missing, and the number of jobs with that reason."""

    reason: str
    jobs: int

    @property
    def searchable(self) -> str:
        """The longest part of the reason that occurs literally in its jobs' messages."""
        return max(_PLACEHOLDERS.split(self.reason), key=len).strip()


class InRedis(Value):
    """The lists of job ids."""

    waiting: int
    becoming_runs: int
    dead_letters: int
    paused: str | None


class Runs(Value):
    """Runs that have not ended."""

    waiting: int
    at_work: int
    #: job ids of the queued runs, longest waiting first
    order: tuple[UUID, ...] = Field(default=(), exclude=True)


class Stats(Value):
    """The results of the jobs of a period, and the current queue."""

    since: datetime
    now: datetime
    ended: Ended
    reasons: tuple[Reason, ...]
    #: None: not requested
    credits: Money | None
    #: what Gemini costs
    gemini: SpanUsage
    pictures_a_minute: float
    jobs_pending: int
    jobs_processing: int
    oldest_waiting_seconds: float | None
    oldest_waiting_job: str | None
    workers: tuple[Worker, ...]
    redis: InRedis | None
    runs: Runs | None
    #: what could not be read, and why
    unknown: tuple[str, ...] = ()

    @property
    def waiting(self) -> int:
        """Jobs that have not begun: those in Redis and those queued in Dagster, or more if rows wait in no queue."""
        if self.redis is None or self.runs is None:
            return self.jobs_pending
        return max(self.redis.waiting + self.redis.becoming_runs + self.runs.waiting, self.jobs_pending)


class OpenJob(Value):
    """A waiting or running job, in the order of service."""

    row: JobRow
    #: queue position, 1 is next; None: running, or not queued
    place: int | None
    #: where it is: at work on a worker, in Dagster's queue, in jobs:queue, in no queue
    where: str
    #: estimated seconds until it ends (running) or begins (queued), from the current pace; None: unknown
    eta_seconds: float | None


async def stats(connections: Connections, since: datetime, *, with_credits: bool = True) -> Stats:
    """Return the results of the jobs that ended since then, and the current queue. Counting credits scans the ledger.

    Raises:
        QuelError: PostgreSQL does not answer.
    """
    database, now = connections.database, datetime.now(UTC)
    unknown: list[str] = []
    redis = await asyncio.to_thread(_in_redis, connections, unknown)
    runs = await asyncio.to_thread(_runs, connections, unknown)
    waiting = await backlog(database)
    pictures = await throughput.pictures_since(database, now - timedelta(minutes=RATE_MINUTES))
    return Stats(
        since=since,
        now=now,
        ended=await throughput.ended(database, since),
        reasons=_reasons(await throughput.messages(database, since)),
        credits=await credits_since(database, since) if with_credits else None,
        gemini=SpanUsage(models=await usage_of_span(database, since, now)),
        pictures_a_minute=round(pictures / RATE_MINUTES, 1),
        jobs_pending=waiting.pending,
        jobs_processing=waiting.processing,
        oldest_waiting_seconds=waiting.oldest_waiting_seconds,
        oldest_waiting_job=waiting.oldest_waiting_job,
        workers=tuple(await throughput.workers(database)),
        redis=redis,
        runs=runs,
        unknown=tuple(unknown),
    )


def _reasons(messages: Sequence[tuple[str, int]]) -> tuple[Reason, ...]:
    from quel_dagster.pipeline.summary import reasons  # noqa: PLC0415  brings Dagster

    return tuple(Reason(reason=reason, jobs=jobs) for reason, jobs in reasons(messages).most_common(20))


def _in_redis(connections: Connections, unknown: list[str]) -> InRedis | None:
    try:
        depths = connections.queue.depths()
        pauses = intake_pauses(connections.queue.client)
    except RedisError as error:
        unknown.append(str(unreachable(error)))
        return None
    return InRedis(
        waiting=depths["again"] + depths["queue"],
        becoming_runs=depths["processing"],
        dead_letters=depths["dead"],
        paused=" ".join(f"{pause}." for pause in pauses) or None,
    )


def _runs(connections: Connections, unknown: list[str]) -> Runs | None:
    try:
        with connections.dagster() as instance:
            from dagster import DagsterRunStatus, RunsFilter  # noqa: PLC0415  takes a second to import

            waiting = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED]), limit=_MOST_RUNS)
            at_work = instance.get_runs_count(
                RunsFilter(statuses=[DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])
            )
    except QuelError as error:
        unknown.append(str(error))
        return None
    order = [tag for run in reversed(waiting) if (tag := run.tags.get(JOB_ID_TAG))]
    return Runs(waiting=len(waiting), at_work=at_work, order=tuple(map(UUID, order)))


async def open_jobs(connections: Connections, wanted: Filter) -> list[OpenJob]:
    """Return the matching jobs that have not ended, in the order of service: running ones, then the queue.

    The order is that of Dagster's queue, then of `jobs:queue`; precedence of small jobs and of members with few runs
    (docs/decisions/fairness.md) can change it.
    """
    rows = await matching_jobs(connections.database, wanted.model_copy(update={"statuses": OPEN}), most=MOST_OPEN)
    line = await asyncio.to_thread(_line, connections)
    hour = await throughput.ended(connections.database, datetime.now(UTC) - timedelta(hours=1))
    at_work = [row for row in rows if row.worker is not None]
    # with n running jobs of so many seconds each, one begins every seconds / n
    known = [seconds for seconds in (hour.p50_at_work, *map(_time_in_all, at_work)) if seconds is not None]
    seconds_a_job = max(known) / max(1, len(at_work)) if known else None
    found = [_placed(row, line, seconds_a_job) for row in rows]
    return sorted(found, key=_service_order)


def _line(connections: Connections) -> Mapping[UUID, tuple[int, str]]:
    """Return the queue position of every waiting job, and where it waits."""
    unknown: list[str] = []
    runs = _runs(connections, unknown)
    places: dict[UUID, tuple[int, str]] = {}
    for job_id in runs.order if runs else ():
        places.setdefault(job_id, (len(places) + 1, "Dagster's queue"))
    try:
        entries = [entry for source in (AGAIN, QUEUE) for entry in connections.queue.peek(100_000, source=source)]
    except RedisError:
        return places
    for entry in entries:
        if (named := job_id_of(entry)) is not None:
            places.setdefault(named, (len(places) + 1, "jobs:queue"))
    return places


def _placed(row: JobRow, line: Mapping[UUID, tuple[int, str]], seconds_a_job: float | None) -> OpenJob:
    if row.worker is not None:
        return OpenJob(row=row, place=None, where=f"at work on {row.worker}", eta_seconds=_time_left(row))
    place, where = line.get(row.job_id, (None, "no queue"))
    eta = place * seconds_a_job if place is not None and seconds_a_job is not None else None
    return OpenJob(row=row, place=place, where=where, eta_seconds=eta)


def _time_in_all(row: JobRow) -> float | None:
    """Return the expected total seconds of a running job; before its first picture, the seconds so far."""
    if row.started_at is None:
        return None
    return (datetime.now(UTC) - row.started_at).total_seconds() + (_time_left(row) or 0.0)


def _time_left(row: JobRow) -> float | None:
    """Estimate the remaining seconds from the job's own pace; None before its first picture."""
    if row.started_at is None or not row.completed_images:
        return None
    elapsed = (datetime.now(UTC) - row.started_at).total_seconds()
    return elapsed / row.completed_images * max(0, row.total_images - row.completed_images)


def _service_order(job: OpenJob) -> tuple[int, float]:
    begun = job.row.started_at or job.row.created_at or datetime.now(UTC)
    if job.row.worker is not None:
        return 0, begun.timestamp()
    if job.place is not None:
        return 1, float(job.place)
    return 2, begun.timestamp()
