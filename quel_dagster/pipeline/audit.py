"""One check that tells whether what lies in PostgreSQL, Redis, the object store and Dagster belongs together.

`audit` looks at the invariants I1 to I14 on a system that is at work. What is in motion is no breach: the places that a
job moves through are read in the order in which it moves, states that pass by themselves get a grace, and whatever
still looks wrong is looked at a second time. A part that is not given, or does not answer, leaves its invariants
undone, which is never the same as held.

Belongs here: what a breach is, and its words. Does not belong here: SQL (`adapters/database/audit.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from dagster import DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.storage.tags import RUN_KEY_TAG
from redis import RedisError
from sqlalchemy import TextClause

from quel_dagster.adapters.database import audit as sql
from quel_dagster.adapters.database.audit import AuditReader, JobScope
from quel_dagster.adapters.database.store import Database, DatabaseUrl
from quel_dagster.adapters.queue import Delivery, JobQueue, unreachable
from quel_dagster.adapters.queue_snapshot import QueueSnapshot, take_snapshot
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.errors import (
    ObjectNotFoundError,
    PictureError,
    ReferenceUnavailableError,
    StorageError,
    StorageKeyError,
)
from quel_dagster.jobs.model import Attach, JobStatus, Value
from quel_dagster.jobs.pictures import MAX_BYTES, load_picture
from quel_dagster.jobs.references import reference_key
from quel_dagster.pipeline.tags import JOB_ID_TAG, OUTCOME_TAG, REFUSED

INVARIANTS: Mapping[str, str] = {
    "I1": "The balance now is the balance then plus the sum of the ledger, for every organization and member.",
    "I2": "Every balance_after goes on from the one before, in ledger order.",
    "I3": "Every generated picture of a job has exactly one DEDUCT of the price.",
    "I4": "Every DEDUCT has a generated picture of a job.",
    "I5": "The ids of a job are distinct, as many as completed_images, and at most total_images.",
    "I6": "Every id has its quel_attach row, no two rows of a job share a key, no generated row is without a job.",
    "I7": "A production's ids are distinct and hold all ids of its ended jobs.",
    "I8": "No picture belongs to two jobs.",
    "I9": "An ended job has its completed_at; a completed one has a picture.",
    "I10": "A job in processing has a live lease and a live run.",
    "I11": "Every id taken from the queue became a run or a dead letter; no waiting job is lost.",
    "I12": "Every generated picture has its object, which decodes, with the recorded size.",
    "I13": "Nothing is committed after the user's cancel.",
    "I14": "The end of a job's run agrees with the end of the job.",
}

_AGAIN = "push the job again: quel enqueue {job}"
#: what is wrong, and the remedy, by invariant and kind; filled with the facts of the breach
_WORDS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("I1", "off"): (
        "{payer} has {balance} credits, the ledger says {expected}",
        "find out who changed one without the other, then correct the balance or add the missing ledger row",
    ),
    ("I2", "gap"): (
        "ledger row {ledger} of {payer} says balance_after {balance}, the rows before say {expected}",
        "two writers overtook each other here; correct balance_after from this row on",
    ),
    ("I3", "unpaid"): ("picture {attach} of job {job} was never charged", "charge it, or book it as given away"),
    ("I3", "repeated"): ("picture {attach} of job {job} was charged {n} times", "refund all but one"),
    ("I3", "amount"): (
        "picture {attach} of job {job} was charged {amount}, not the price",
        "correct the charge, or give the price of that time",
    ),
    ("I4", "unearned"): (
        "charge {ledger} of {payer} ({amount}) pays for picture {attach}, which no job has",
        "refund it, or put the picture back into its job",
    ),
    ("I4", "no_picture"): (
        "charge {ledger} of {payer} ({amount}) names no picture",
        "refund it, or name its picture",
    ),
    ("I5", "repeated"): ("job {job} names {n} ids, only {different} different ones", "drop the repeated ids"),
    ("I5", "miscounted"): (
        "job {job} has {n} pictures, completed_images says {completed}",
        "set completed_images to the number of its ids",
    ),
    ("I5", "too_many"): ("job {job} has {n} pictures of {total} planned", "refund and drop what is too much"),
    ("I6", "no_row"): ("picture {attach} of job {job} has no quel_attach row", "drop the id and refund its charge"),
    ("I6", "same_key"): ("pictures {attach} of job {job} share the key {key}", "keep one and refund the others"),
    ("I6", "no_job"): (
        "quel_attach row {attach} ({key}) belongs to no job",
        "add it to its job and charge it, or delete row and object",
    ),
    ("I7", "repeated"): ("production {production} names picture {attach} more than once", "drop the repeated ids"),
    ("I7", "missing"): (
        "production {production} lacks picture {attach} of its job {job}",
        "append the id to its attach_ids",
    ),
    ("I8", "shared"): ("picture {attach} belongs to jobs {jobs}", "leave it with the job that its key names"),
    ("I9", "no_time"): ("job {job} is {status} without completed_at", "set completed_at from its last picture or run"),
    ("I9", "empty"): ("job {job} is completed without a picture", "set it to failed, or " + _AGAIN),
    ("I10", "no_lease"): (
        "job {job} is in processing and run {run} goes on, but nobody holds its lease",
        "terminate the run, then " + _AGAIN,
    ),
    ("I10", "no_run"): (
        "job {job} is in processing under a lease of run {run}, which is not live",
        "wait until the lease ends, then " + _AGAIN,
    ),
    ("I10", "abandoned"): ("job {job} is in processing with nobody working on it", _AGAIN),
    ("I11", "stuck"): (
        "entry {entry} stays in jobs:processing without a run",
        "look whether the daemon and the sensor jobs_queue_sensor are running",
    ),
    ("I11", "lost"): ("job {job} is pending, but neither queue nor run knows it", _AGAIN),
    ("I12", "no_key"): ("picture {attach} of job {job} has no usable key: {why}", "correct attach_file_path"),
    ("I12", "no_object"): ("picture {attach} of job {job} has no object {key}", "refund it, drop the id, make it anew"),
    ("I12", "size"): (
        "picture {attach} of job {job} has {size} bytes recorded, its object {key} has {found}",
        "look at the object; if it is good, correct attach_file_size",
    ),
    ("I12", "broken"): ("picture {attach} of job {job}, object {key}: {why}", "refund it, drop the id, make it anew"),
    ("I13", "late"): (
        "picture {attach} of job {job} was committed at {committed}, after the cancel at {cancelled}",
        "refund it",
    ),
    ("I14", "disagree"): (
        "job {job} is {status}, its last run {run} ended {ended}",
        "read the run's page; correct the job, or " + _AGAIN,
    ),
}

#: facts that name something; the others are figures
_IDS = ("job", "jobs", "attach", "production", "member", "organization", "ledger", "run", "entry")
#: breaches listed per invariant; more are counted
LISTED = 1000
#: A row is stamped when its transaction begins, and may have waited for the balance: this far may rows be swapped.
_OVERLAP = timedelta(seconds=5)
#: The older worker's jobs have no lease; they count as abandoned after this many times the grace.
_WITHOUT_LEASE = 10
_OBJECTS_AT_ONCE = 8
#: So many objects in vain, and the store is asked no more.
_UNANSWERED = 20
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


class Breach(Value):
    """One thing that should not be."""

    code: str
    #: which rule of the invariant
    kind: str
    #: what it is about, such as `{"job": "…", "attach": "39100"}`
    ids: dict[str, str]
    #: one clause that names the ids
    problem: str
    remedy: str

    @property
    def line(self) -> str:
        return f"{self.problem}; {self.remedy}."


class Finding(Value):
    """What came of one invariant."""

    code: str
    sentence: str
    #: things that were looked at
    checked: int = 0
    #: confirmed by a second look; at most LISTED of them
    breaches: tuple[Breach, ...] = ()
    #: how many breaches there were, listed or not
    total: int = 0
    #: why the invariant was not looked at, or not to the end
    not_done: str | None = None

    @property
    def held(self) -> bool:
        """Looked at to the end, and no breach."""
        return not self.breaches and self.not_done is None


class AuditReport(Value):
    """What came of an audit: one finding per invariant, I1 to I14."""

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """No breach; `complete` says whether everything was looked at."""
        return not any(finding.breaches for finding in self.findings)

    @property
    def complete(self) -> bool:
        return all(finding.not_done is None for finding in self.findings)

    @property
    def breaches(self) -> tuple[Breach, ...]:
        return tuple(breach for finding in self.findings for breach in finding.breaches)

    def __getitem__(self, code: str) -> Finding:
        return next(finding for finding in self.findings if finding.code == code)


@dataclass(frozen=True)
class Sources:
    """Where to look. What is None leaves the invariants that need it undone."""

    #: PostgreSQL, or its URL
    database: Database | str
    queue: JobQueue | None = None
    store: ObjectStore | None = None
    instance: DagsterInstance | None = None


async def audit(
    sources: Sources,
    *,
    job_ids: Collection[UUID] | None = None,
    since: datetime | None = None,
    price: int | None = None,
    pictures: int | None = None,
    grace_seconds: float = 60.0,
    entry_seconds: float = 20.0,
    confirm_seconds: float = 2.0,
) -> AuditReport:
    """Look at every invariant. Changes nothing anywhere.

    Args:
        job_ids: only these jobs, with their payers and productions.
        since: only jobs created, and ledger rows written, from then on: what an older program left stays out.
        price: credits per picture, if it was the same for all of them; else only the sign of a charge is looked at.
        pictures: read this many objects, chosen at random; all by default.
        grace_seconds: how long a job may be without a lease or run while it is being recovered.
        entry_seconds: how long an entry may lie in `jobs:processing` without a run.
        confirm_seconds: pause before the second look.

    Raises:
        QuelError: PostgreSQL does not answer, or has no schema quel_dagster.
    """
    started = time.monotonic()
    url = sources.database.url if isinstance(sources.database, Database) else DatabaseUrl.parse(sources.database)
    reader = AuditReader(url, JobScope(job_ids=job_ids, since=since))
    await reader.check()
    checks: Sequence[_Check] = (
        _Table("I1", reader, sql.BALANCES_MATCH_LEDGER),
        _Ledger("I2", reader),
        _Table("I3", reader, sql.PICTURES_ARE_CHARGED_ONCE, price=price),
        _Table("I4", reader, sql.CHARGES_HAVE_PICTURES),
        _Table("I5", reader, sql.JOBS_COUNT_RIGHT),
        _Table("I6", reader, sql.ROWS_AND_JOBS_MATCH),
        _Table("I7", reader, sql.PRODUCTIONS_HOLD_THEIR_PICTURES),
        _Table("I8", reader, sql.PICTURES_HAVE_ONE_JOB),
        _Table("I9", reader, sql.ENDS_ARE_COMPLETE),
        _Processing("I10", reader, sources, grace_seconds),
        _Queue("I11", reader, sources, grace_seconds, entry_seconds, job_ids),
        _Objects("I12", reader, sources, pictures),
        _Table("I13", reader, sql.NOTHING_AFTER_CANCEL),
        _RunEnds("I14", reader, sources, grace_seconds, job_ids, since),
    )
    first = [await _look(check) for check in checks]
    if any(look.breaches for look in first):
        await asyncio.sleep(confirm_seconds)
    findings = [
        await _confirmed(check, look) if look.breaches else _finding(check, look, look)
        for check, look in zip(checks, first, strict=True)
    ]
    return AuditReport(findings=tuple(findings), seconds=round(time.monotonic() - started, 3))


# --- looking twice -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """What one look at an invariant showed."""

    checked: int = 0
    breaches: tuple[Breach, ...] = ()
    total: int = 0
    not_done: str | None = None


class _Check(Protocol):
    code: str

    async def look(self, suspects: Sequence[Breach] | None = None) -> _Look:
        """Look at everything, or (at least) again at what was suspicious before."""


async def _look(check: _Check, suspects: Sequence[Breach] | None = None) -> _Look:
    try:
        return await check.look(suspects)
    except RedisError as error:
        return _Look(not_done=str(unreachable(error)))


async def _confirmed(check: _Check, first: _Look) -> Finding:
    return _finding(check, first, await _look(check, first.breaches))


def _finding(check: _Check, first: _Look, second: _Look) -> Finding:
    """What both looks showed."""
    seen = {(breach.kind, tuple(sorted(breach.ids.items()))) for breach in first.breaches}
    lasting = tuple(breach for breach in second.breaches if (breach.kind, tuple(sorted(breach.ids.items()))) in seen)
    return Finding(
        code=check.code,
        sentence=INVARIANTS[check.code],
        checked=first.checked,
        breaches=lasting,
        total=max(len(lasting), min(first.total, second.total)) if lasting else 0,
        not_done=first.not_done or second.not_done,
    )


def _breach(code: str, kind: str, facts: Mapping[str, Any]) -> Breach:
    words: defaultdict[str, Any] = defaultdict(lambda: "none", facts)
    words["payer"] = next((f"{name} {facts[name]}" for name in ("organization", "member") if name in facts), "nobody")
    problem, remedy = _WORDS[code, kind]
    return Breach(
        code=code,
        kind=kind,
        ids={name: str(facts[name]) for name in _IDS if facts.get(name) is not None},
        problem=problem.format_map(words),
        remedy=remedy.format_map(words),
    )


# --- PostgreSQL alone --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table(_Check):
    """An invariant that one question answers."""

    code: str
    reader: AuditReader
    question: TextClause
    price: int | None = None

    async def look(self, suspects: Sequence[Breach] | None = None) -> _Look:
        answer = await self.reader.ask(self.question, limit=LISTED, price=self.price)
        return _Look(
            checked=answer.checked,
            breaches=tuple(_breach(self.code, kind, facts) for kind, facts in answer.found),
            total=answer.total,
        )


@dataclass(frozen=True)
class Entry:
    """A row of the ledger."""

    ledger: UUID
    payer: UUID
    is_org: bool
    amount: int
    balance_after: int
    created_at: datetime

    @property
    def balance_before(self) -> int:
        return self.balance_after - self.amount


@dataclass(frozen=True)
class _Ledger(_Check):
    """I2: a question finds the ledgers that are out of line, and their rows are followed one by one."""

    code: str
    reader: AuditReader

    async def look(self, suspects: Sequence[Breach] | None = None) -> _Look:
        breaches: list[Breach] = []
        total = 0
        async with aclosing(self.reader.stream(sql.LEDGERS_OUT_OF_LINE)) as rows:
            async for entry, expected in broken_links(Entry(**row._mapping) async for row in rows):
                total += 1
                if total <= LISTED:
                    payer = {"organization" if entry.is_org else "member": entry.payer}
                    facts = {"ledger": entry.ledger, "balance": entry.balance_after, "expected": expected, **payer}
                    breaches.append(_breach(self.code, "gap", facts))
        checked = (await self.reader.rows(sql.LEDGER_SIZE))[0][0]
        return _Look(checked=checked, breaches=tuple(breaches), total=total)


async def broken_links(entries: AsyncIterable[Entry]) -> AsyncIterator[tuple[Entry, int]]:
    """The rows that do not go on from any row before, each with the balance_after that was expected.

    Rows of transactions that overlapped, or of the same instant, may be in any order in which they go on from each
    other. After a broken link the ledger may go on from what was expected or from what is there, so that one mishap
    is told once.

    Args:
        entries: ledgers whole, one payer after the other, each in ledger order.
    """
    waiting: deque[Entry] = deque()
    balances: tuple[int, ...] = ()
    payer: UUID | None = None

    def follow(until: datetime | None) -> Iterator[tuple[Entry, int]]:
        nonlocal balances
        while waiting and (until is None or until - waiting[0].created_at > _OVERLAP):
            balances = balances or (_opening(waiting),)
            fitting = next((entry for entry in waiting if entry.balance_before in balances), None)
            if fitting is None:
                fitting, expected = waiting[0], balances[0] + waiting[0].amount
                yield fitting, expected
                balances = (expected, fitting.balance_after)
            else:
                balances = (fitting.balance_after,)
            waiting.remove(fitting)

    async for entry in entries:
        for link in follow(entry.created_at if entry.payer == payer else None):
            yield link
        if entry.payer != payer:
            payer, balances = entry.payer, ()
        waiting.append(entry)
    for link in follow(None):
        yield link


def _opening(entries: Sequence[Entry]) -> int:
    """Where a ledger starts: of its rows of the first instant, the one that goes on from none of the others."""
    first = [entry for entry in entries if entry.created_at == entries[0].created_at]
    after = {entry.balance_after for entry in first}
    return next((entry.balance_before for entry in first if entry.balance_before not in after), first[0].balance_before)


# --- PostgreSQL, Redis and Dagster -------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """Who is at work, as far as Redis and Dagster know."""

    queue: QueueSnapshot
    #: live runs by id, and by the job that they are tagged with
    runs: Mapping[str, DagsterRunStatus]
    runs_of: Mapping[str, Sequence[str]]

    @classmethod
    async def look(cls, queue: JobQueue, instance: DagsterInstance) -> _Work:
        """Redis first, since ids move from there to Dagster; ask PostgreSQL after this."""
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


def _missing(sources: Sources) -> str | None:
    absent = [
        name for name, part in (("Redis", sources.queue), ("Dagster's storage", sources.instance)) if part is None
    ]
    return f"{' and '.join(absent)} not given" if absent else None


@dataclass(frozen=True)
class _Processing(_Check):
    """I10"""

    code: str
    reader: AuditReader
    sources: Sources
    grace: float

    async def look(self, suspects: Sequence[Breach] | None = None) -> _Look:
        queue, instance = self.sources.queue, self.sources.instance
        if queue is None or instance is None:
            return _Look(not_done=_missing(self.sources))
        work = await _Work.look(queue, instance)
        rows = [row for row in await self.reader.rows(sql.OPEN_JOBS) if row.status == JobStatus.PROCESSING]
        breaches = []
        for row in rows:
            live = work.live_runs(row.job_id, row.run_id)
            if row.lease_is_live:
                if not live and row.lease_age > self.grace and await self._ended_long_ago(instance, row.run_id):
                    breaches.append(_breach(self.code, "no_run", {"job": row.job_id, "run": row.run_id}))
            elif at_work := [run_id for run_id in live if work.runs[run_id] in _AT_WORK]:
                if row.silence > self.grace:
                    breaches.append(_breach(self.code, "no_lease", {"job": row.job_id, "run": at_work[0]}))
            elif not live and row.job_id not in work.queue.underway:
                # A job of ours keeps its lease row until it ends; the older worker's never has one.
                patience = self.grace if row.run_id else self.grace * _WITHOUT_LEASE
                if row.silence > patience:
                    breaches.append(_breach(self.code, "abandoned", {"job": row.job_id}))
        return _Look(checked=len(rows), breaches=tuple(breaches[:LISTED]), total=len(breaches))

    async def _ended_long_ago(self, instance: DagsterInstance, run_id: str) -> bool:
        record = await asyncio.to_thread(instance.get_run_record_by_id, run_id)
        return record is None or record.end_time is None or time.time() - record.end_time > self.grace


@dataclass(frozen=True)
class _Queue(_Check):
    """I11. A job in processing is I10's."""

    code: str
    reader: AuditReader
    sources: Sources
    grace: float
    entry_seconds: float
    job_ids: Collection[UUID] | None

    async def look(self, suspects: Sequence[Breach] | None = None) -> _Look:
        queue, instance = self.sources.queue, self.sources.instance
        if queue is None or instance is None:
            return _Look(not_done=_missing(self.sources))
        entries = await self._entries(queue)
        stuck = await self._without_run(instance, entries)
        if suspects is None:
            stuck = await self._without_run(instance, await self._lasting(queue, stuck))
        work = await _Work.look(queue, instance)
        rows = [row for row in await self.reader.rows(sql.OPEN_JOBS) if row.status == JobStatus.PENDING]
        known = work.queue.underway | work.queue.dead
        breaches = [
            _breach(self.code, "stuck", {"entry": delivery.job_id or delivery.describe()})
            for delivery in stuck.values()
        ] + [
            _breach(self.code, "lost", {"job": row.job_id})
            for row in rows
            if not row.lease_is_live
            and row.silence > self.grace
            and row.job_id not in known
            and not work.live_runs(row.job_id, row.run_id)
        ]
        return _Look(checked=len(entries) + len(rows), breaches=tuple(breaches[:LISTED]), total=len(breaches))

    async def _entries(self, queue: JobQueue) -> dict[bytes, Delivery]:
        snapshot = await asyncio.to_thread(take_snapshot, queue)
        return {
            delivery.raw: delivery
            for delivery in snapshot.processing
            if self.job_ids is None or delivery.job_id in self.job_ids
        }

    async def _lasting(self, queue: JobQueue, entries: dict[bytes, Delivery]) -> dict[bytes, Delivery]:
        """The entries that stay for `entry_seconds`, in the same delivery."""
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
class _RunEnds(_Check):
    """I14. The last run of a job is the last that started on it; one that found another at work, or everything done
    before it started, ended nothing. One that an operator stopped while it waited, say to retry one that died, ended
    its job all the same."""

    code: str
    reader: AuditReader
    sources: Sources
    grace: float
    job_ids: Collection[UUID] | None
    since: datetime | None

    async def look(self, suspects: Sequence[Breach] | None = None) -> _Look:
        instance = self.sources.instance
        if instance is None:
            return _Look(not_done="Dagster's storage not given")
        wanted = self.job_ids if suspects is None else [UUID(breach.ids["job"]) for breach in suspects]
        last, stopped = await self._last_runs(instance, wanted)
        checked = 0
        breaches = []
        for row in await self.reader.rows(sql.ENDED_JOBS):
            record = last.get(str(row.job_id))
            if record is None or record.dagster_run.status not in _FINISHED:
                continue
            if row.completed_at is not None and (record.start_time or 0) > row.completed_at:
                continue
            checked += 1
            if row.status == JobStatus.CANCELLED and str(row.job_id) in stopped:
                continue
            ended = record.dagster_run.status
            settled = max(record.end_time or 0, row.completed_at or 0)
            if ended not in _ENDS[JobStatus(row.status)] and time.time() - settled > self.grace:
                facts = {
                    "job": row.job_id,
                    "run": record.dagster_run.run_id,
                    "status": row.status,
                    "ended": ended.value,
                }
                breaches.append(_breach(self.code, "disagree", facts))
        return _Look(checked=checked, breaches=tuple(breaches[:LISTED]), total=len(breaches))

    async def _last_runs(
        self, instance: DagsterInstance, job_ids: Collection[UUID] | None
    ) -> tuple[dict[str, RunRecord], set[str]]:
        """The last run of each job that started, and the jobs that had a newer one which was stopped before."""
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
    """Run records, newest first, a page at a time."""
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


# --- PostgreSQL and the object store -----------------------------------------------------------------


@dataclass(frozen=True)
class _Objects(_Check):
    """I12"""

    code: str
    reader: AuditReader
    sources: Sources
    sample: int | None

    async def look(self, suspects: Sequence[Breach] | None = None) -> _Look:
        store = self.sources.store
        if store is None:
            return _Look(not_done="object store not given")
        attach_ids = None if suspects is None else [int(breach.ids["attach"]) for breach in suspects]
        sample = self.sample if suspects is None else None
        rows = await self.reader.rows(sql.STORED_PICTURES, attach_ids=attach_ids, sample=sample)
        breaches: list[Breach] = []
        unanswered: list[str] = []
        checked = 0
        waiting = iter(rows)

        async def work_off() -> None:
            nonlocal checked
            for row in waiting:
                if len(unanswered) >= _UNANSWERED:
                    return
                try:
                    breach = await self._object(store, row)
                except StorageError as error:
                    unanswered.append(str(error))
                    continue
                checked += 1
                if breach is not None:
                    breaches.append(breach)

        await asyncio.gather(*(work_off() for _ in range(_OBJECTS_AT_ONCE)))
        breaches.sort(key=lambda breach: int(breach.ids["attach"]))
        left = len(rows) - checked
        return _Look(
            checked=checked,
            breaches=tuple(breaches[:LISTED]),
            total=len(breaches),
            not_done=f"{left} of {len(rows)} objects could not be read: {unanswered[0]}" if unanswered else None,
        )

    async def _object(self, store: ObjectStore, row: Any) -> Breach | None:
        """Raises StorageError when the store has no answer."""
        facts = {"job": row.job_id, "attach": row.attach_id, "size": row.size}
        attach = Attach(attach_id=row.attach_id, file_path=row.path, directory=row.directory)
        try:
            facts["key"] = key = reference_key(attach)
            data = await store.get(key, max_bytes=MAX_BYTES)
        except (StorageKeyError, ReferenceUnavailableError) as error:
            return _breach(self.code, "no_key", {**facts, "why": error})
        except ObjectNotFoundError:
            return _breach(self.code, "no_object", facts)
        if row.size is not None and row.size != len(data):
            return _breach(self.code, "size", {**facts, "found": len(data)})
        try:
            await asyncio.to_thread(load_picture, data)
        except PictureError as error:
            return _breach(self.code, "broken", {**facts, "why": error})
        return None
