"""I10, I11 and I14: jobs, queue entries and runs on their way through PostgreSQL, Redis and Dagster."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from dagster import DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter

from quel_dagster.adapters.database import audit_rows as sql
from quel_dagster.adapters.database.audit import AuditReader
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.queue_entries import Delivery
from quel_dagster.adapters.queue_snapshot import QueueSnapshot, take_snapshot
from quel_dagster.jobs.model import JobStatus
from quel_dagster.pipeline.audit.checks import Check, CheckResult, Sources
from quel_dagster.pipeline.audit.report import LISTED, Breach, breach_of
from quel_dagster.platform.internals import RUN_KEY_TAG
from quel_dagster.platform.tags import JOB_ID_TAG, OUTCOME_TAG, REFUSED

#: The older worker's jobs have no lease; they count as abandoned after this many grace periods.
_WITHOUT_LEASE = 10
_RUNS_PER_PAGE = 500

_FINISHED = frozenset({DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED})
_LIVE = tuple(status for status in DagsterRunStatus if status not in _FINISHED)
_AT_WORK = frozenset({DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING})
_ENDS: Mapping[JobStatus, frozenset[DagsterRunStatus]] = {
    JobStatus.COMPLETED: frozenset({DagsterRunStatus.SUCCESS}),
    JobStatus.FAILED: frozenset({DagsterRunStatus.FAILURE}),
    JobStatus.CANCELLED: frozenset({DagsterRunStatus.CANCELED}),
    JobStatus.USER_CANCELLED: frozenset({DagsterRunStatus.SUCCESS, DagsterRunStatus.CANCELED}),
}


@dataclass(frozen=True)
class _Work:
    """The live work, as seen in Redis and Dagster."""

    queue: QueueSnapshot
    #: live runs by id, and by the job of their tag
    runs: Mapping[str, DagsterRunStatus]
    runs_of: Mapping[str, Sequence[str]]

    @classmethod
    async def read(cls, queue: JobQueue, instance: DagsterInstance) -> _Work:
        """Read Redis first, because ids move from there to Dagster. Query PostgreSQL after this."""
        snapshot = await asyncio.to_thread(take_snapshot, queue)
        runs: dict[str, DagsterRunStatus] = {}
        runs_of: defaultdict[str, list[str]] = defaultdict(list)
        async for record in _records(instance, RunsFilter(statuses=_LIVE)):
            run = record.dagster_run
            runs[run.run_id] = run.status
            if job := run.tags.get(JOB_ID_TAG):
                runs_of[job].append(run.run_id)
        return cls(queue=snapshot, runs=runs, runs_of=runs_of)

    def live_runs(self, job_id: UUID, lease_of: str | None) -> list[str]:
        held = [lease_of] if lease_of is not None and lease_of in self.runs else []
        return [*dict.fromkeys([*held, *self.runs_of.get(str(job_id), ())])]


def _not_given(sources: Sources) -> str | None:
    absent = [
        name for name, part in (("Redis", sources.queue), ("Dagster's storage", sources.instance)) if part is None
    ]
    return f"{' and '.join(absent)} not given" if absent else None


@dataclass(frozen=True)
class Processing(Check):
    """I10"""

    code: str
    reader: AuditReader
    sources: Sources
    grace: float

    async def run(self, suspects: Sequence[Breach] | None = None) -> CheckResult:
        queue, instance = self.sources.queue, self.sources.instance
        if queue is None or instance is None:
            return CheckResult(not_done=_not_given(self.sources))
        work = await _Work.read(queue, instance)
        jobs = await self.reader.read(sql.OpenJob, sql.OPEN_JOBS)
        rows = [job for job in jobs if job.status is JobStatus.PROCESSING]
        breaches = []
        for row in rows:
            live = work.live_runs(row.job_id, row.run_id)
            if row.lease_is_live and row.run_id is not None:
                if not live and (row.lease_age or 0) > self.grace and await self._ended_long_ago(instance, row.run_id):
                    breaches.append(breach_of(self.code, "no_run", {"job": row.job_id, "run": row.run_id}))
            elif at_work := [run_id for run_id in live if work.runs[run_id] in _AT_WORK]:
                if row.silence > self.grace:
                    breaches.append(breach_of(self.code, "no_lease", {"job": row.job_id, "run": at_work[0]}))
            elif not live and row.job_id not in work.queue.underway:
                # A job of this project keeps its lease row until it ends; one of the older worker never has one.
                limit = self.grace if row.run_id else self.grace * _WITHOUT_LEASE
                if row.silence > limit:
                    breaches.append(breach_of(self.code, "abandoned", {"job": row.job_id}))
        return CheckResult(checked=len(rows), breaches=tuple(breaches[:LISTED]), total=len(breaches))

    async def _ended_long_ago(self, instance: DagsterInstance, run_id: str) -> bool:
        record = await asyncio.to_thread(instance.get_run_record_by_id, run_id)
        return record is None or record.end_time is None or time.time() - record.end_time > self.grace


@dataclass(frozen=True)
class Queue(Check):
    """I11. Jobs in processing belong to I10."""

    code: str
    reader: AuditReader
    sources: Sources
    grace: float
    entry_seconds: float
    job_ids: Collection[UUID] | None

    async def run(self, suspects: Sequence[Breach] | None = None) -> CheckResult:
        queue, instance = self.sources.queue, self.sources.instance
        if queue is None or instance is None:
            return CheckResult(not_done=_not_given(self.sources))
        entries = await self._entries(queue)
        stuck = await self._without_run(instance, entries)
        if suspects is None:
            stuck = await self._without_run(instance, await self._lasting(queue, stuck))
        work = await _Work.read(queue, instance)
        jobs = await self.reader.read(sql.OpenJob, sql.OPEN_JOBS)
        rows = [job for job in jobs if job.status is JobStatus.PENDING]
        known = work.queue.underway | work.queue.dead
        breaches = [
            breach_of(self.code, "stuck", {"entry": delivery.job_id or delivery.describe()})
            for delivery in stuck.values()
        ] + [
            breach_of(self.code, "lost", {"job": row.job_id})
            for row in rows
            if not row.lease_is_live
            and row.silence > self.grace
            and row.job_id not in known
            and not work.live_runs(row.job_id, row.run_id)
        ]
        return CheckResult(checked=len(entries) + len(rows), breaches=tuple(breaches[:LISTED]), total=len(breaches))

    async def _entries(self, queue: JobQueue) -> dict[bytes, Delivery]:
        snapshot = await asyncio.to_thread(take_snapshot, queue)
        return {
            delivery.raw: delivery
            for delivery in snapshot.processing
            if self.job_ids is None or delivery.job_id in self.job_ids
        }

    async def _lasting(self, queue: JobQueue, entries: dict[bytes, Delivery]) -> dict[bytes, Delivery]:
        """Return the entries that stay for `entry_seconds`, in the same delivery."""
        deadline = time.monotonic() + self.entry_seconds
        while entries and (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(0.5, left))
            now = await self._entries(queue)
            entries = {
                raw: now[raw]
                for raw, before in entries.items()
                if raw in now and before.number in ("", now[raw].number)
            }
        return entries

    async def _without_run(self, instance: DagsterInstance, entries: Mapping[bytes, Delivery]) -> dict[bytes, Delivery]:
        keys = [delivery.run_key for delivery in entries.values() if delivery.job_id]
        launched = set()
        for page in _pages(keys, _RUNS_PER_PAGE):
            async for record in _records(instance, RunsFilter(tags={RUN_KEY_TAG: page})):
                launched.add(record.dagster_run.tags[RUN_KEY_TAG])
        return {raw: delivery for raw, delivery in entries.items() if delivery.run_key not in launched}


@dataclass(frozen=True)
class RunEnds(Check):
    """I14. The last run of a job is the last one that started on it. A run that found another one active, or everything
    done before it started, ended nothing. A run that an operator stopped while it was queued, for example to retry a
    dead run, does end its job. A run that finds an operator's cancel ends with success and the outcome `cancelled`."""

    code: str
    reader: AuditReader
    sources: Sources
    grace: float
    job_ids: Collection[UUID] | None
    since: datetime | None

    async def run(self, suspects: Sequence[Breach] | None = None) -> CheckResult:
        instance = self.sources.instance
        if instance is None:
            return CheckResult(not_done="Dagster's storage not given")
        wanted = self.job_ids if suspects is None else [UUID(breach.ids["job"]) for breach in suspects]
        last, stopped = await self._last_runs(instance, wanted)
        checked = 0
        breaches = []
        for row in await self.reader.read(sql.EndedJob, sql.ENDED_JOBS):
            record = last.get(str(row.job_id))
            if record is None or record.dagster_run.status not in _FINISHED:
                continue
            if row.completed_at is not None and (record.start_time or 0) > row.completed_at:
                continue
            checked += 1
            if row.status is JobStatus.CANCELLED and (
                str(row.job_id) in stopped or record.dagster_run.tags.get(OUTCOME_TAG) == JobStatus.CANCELLED
            ):
                continue
            ended = record.dagster_run.status
            settled = max(record.end_time or 0, row.completed_at or 0)
            if ended not in _ENDS[row.status] and time.time() - settled > self.grace:
                facts = {
                    "job": row.job_id,
                    "run": record.dagster_run.run_id,
                    "status": row.status,
                    "ended": ended.value,
                }
                breaches.append(breach_of(self.code, "disagree", facts))
        return CheckResult(checked=checked, breaches=tuple(breaches[:LISTED]), total=len(breaches))

    async def _last_runs(
        self, instance: DagsterInstance, job_ids: Collection[UUID] | None
    ) -> tuple[dict[str, RunRecord], set[str]]:
        """Return the last started run of each job, and the jobs with a newer run that was stopped before its start."""
        filters: list[RunsFilter]
        if job_ids is None:
            filters = [RunsFilter(created_after=self.since)]
        else:
            pages = _pages([str(job_id) for job_id in job_ids], _RUNS_PER_PAGE)
            filters = [RunsFilter(tags={JOB_ID_TAG: page}) for page in pages]
        last: dict[str, RunRecord] = {}
        stopped: set[str] = set()
        for runs in filters:
            async for record in _records(instance, runs):  # newest first
                tags, status = record.dagster_run.tags, record.dagster_run.status
                if JOB_ID_TAG not in tags or tags.get(OUTCOME_TAG) == REFUSED:
                    continue
                if record.start_time is not None or status not in _FINISHED:
                    last.setdefault(tags[JOB_ID_TAG], record)
                elif status is DagsterRunStatus.CANCELED and tags[JOB_ID_TAG] not in last:
                    stopped.add(tags[JOB_ID_TAG])
        return last, stopped


async def _records(instance: DagsterInstance, filters: RunsFilter) -> AsyncIterator[RunRecord]:
    """Yield run records page by page, newest first."""
    cursor: str | None = None
    while True:
        page = await asyncio.to_thread(instance.get_run_records, filters, _RUNS_PER_PAGE, cursor=cursor)
        for record in page:
            yield record
        if len(page) < _RUNS_PER_PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _pages(items: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
