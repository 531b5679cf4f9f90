"""Collect everything about one job, from PostgreSQL, Redis and Dagster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from redis import RedisError

from quel_dagster.adapters.database import actions
from quel_dagster.adapters.database.actions import Action
from quel_dagster.adapters.database.jobs import (
    JobFile,
    JobPicture,
    LeaseNow,
    SlotFailure,
    StoredPicture,
    WholeJob,
    WholeProduction,
)
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.usage import JobUsage, usage_of_job
from quel_dagster.adapters.queue_entries import QueuePlace
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.console.connections import Connections
from quel_dagster.console.runs import JobRun, find_runs
from quel_dagster.errors import JobInputError, ReferenceUnavailableError, StorageKeyError
from quel_dagster.jobs.kinds import ForeignKind
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Category, Job, JobStatus, Plan, Value
from quel_dagster.jobs.planning import plan_job
from quel_dagster.jobs.references import reference_key
from quel_dagster.jobs.slots import filled_slots, missing_slots
from quel_dagster.settings import Settings


class Missing(Value):
    """An empty slot."""

    slot: str
    unit: str
    #: the reason given by the last run that tried it
    reason: str | None = None


class Letter(Value):
    """A dead letter of the job."""

    name: str
    reason: str


class InRedis(QueuePlace):
    """The state of the job in Redis."""

    #: the user's flag, which expires after an hour
    cancel_flag: bool
    letters: tuple[Letter, ...] = ()


class PayerNow(Value):
    """The payer of the next picture (domain.md §8)."""

    kind: str
    id: UUID | None
    name: str | None
    credit: int
    #: why the payer cannot be charged; None when it can
    refusal: str | None = None


class InspectedPicture(StoredPicture):
    """A picture of the job, with its charge."""

    attach_id: int
    #: None: made by another worker
    slot: str | None
    number: int | None
    #: key of its unit in the plan; None: the plan has no such unit
    unit: str | None


class JobInspection(Value):
    """One job, as `quel show` prints it."""

    #: the complete rows
    job: WholeJob
    production: WholeProduction
    status: JobStatus
    #: the older worker's kind of the row, if it is one: such a job has no plan here
    foreign_kind: ForeignKind | None = None
    #: the category that is made; for a kind of the older worker, its name
    category: str = Category.FASHION
    plan: Plan | None
    #: why job_input_data cannot be planned
    plan_error: str | None
    #: problems of the plan's references, by attach id; usable ones are left out
    unusable_references: dict[int, str]
    #: one per id in generated_attach_ids
    pictures: tuple[InspectedPicture, ...]
    missing: tuple[Missing, ...]
    #: credits charged so far
    credits: int
    #: cost of its pictures at Gemini
    usage: JobUsage = JobUsage()
    price: int
    payer: PayerNow
    lease: LeaseNow | None
    cancel_kept_at: datetime | None
    #: the operator who cancelled the job; None: the user, or it was not cancelled
    cancel_actor: str | None = None
    recovered_at: tuple[datetime, ...]
    redis: InRedis | None
    redis_unknown: str | None
    runs: tuple[JobRun, ...]
    runs_unknown: str | None
    #: operators' actions on the job, oldest first
    actions: tuple[Action, ...] = ()
    #: its page at /quel; None: the address of the web UI is unknown
    url: str | None = None

    @property
    def job_id(self) -> str:
        return str(self.job.job_id)

    @property
    def lease_is_live(self) -> bool:
        return self.lease is not None and self.lease.live

    @property
    def live_run(self) -> JobRun | None:
        return next((run for run in self.runs if run.live), None)

    @property
    def cancelled_by_user(self) -> bool:
        """Return whether the user cancelled it, which is final. A job that an operator cancelled can be run again."""
        kept = self.cancel_kept_at is not None and self.cancel_actor is None
        return self.status is JobStatus.USER_CANCELLED or kept or (self.redis is not None and self.redis.cancel_flag)

    @property
    def cancel_asked(self) -> bool:
        return self.cancel_kept_at is not None or (self.redis is not None and self.redis.cancel_flag)

    @property
    def still_owed(self) -> int:
        """Price of the missing pictures in credits."""
        return len(self.missing) * self.price


async def inspect(connections: Connections, job_id: UUID) -> JobInspection:
    """Collect everything about a job. Redis and Dagster's storage may be unreachable: the result then states that.

    Raises:
        JobNotFoundError: no such row.
        QuelError: PostgreSQL does not answer.
    """
    settings, database = connections.settings, connections.database
    file = await database.jobs.job_file(job_id)  # first, because the rest is useless without it
    redis, redis_unknown = await asyncio.to_thread(_in_redis, connections, job_id)
    runs = await asyncio.to_thread(find_runs, connections, [job_id])
    job = await database.jobs.find_job(job_id)
    pictures = await database.jobs.pictures(job_id)
    description = (await database.recovery.describe_jobs([job_id])).get(job_id)
    foreign_kind = description.foreign_kind if description else None
    plan, plan_error = (None, None) if foreign_kind else _planned(settings, job)
    failures = await database.jobs.failures([run.run_id for run in runs.of(job_id)])
    return JobInspection(
        job=file.job,
        production=file.production,
        status=job.job_status,
        foreign_kind=foreign_kind,
        category=foreign_kind or job.category,
        plan=plan,
        plan_error=plan_error,
        unusable_references=await _unusable(database, plan) if plan else {},
        pictures=tuple(_inspected(picture, plan) for picture in pictures),
        missing=_missing(plan, pictures, failures),
        credits=-sum(picture.amount or 0 for picture in pictures),
        usage=await usage_of_job(database, job_id),
        price=settings.image_per_price,
        payer=_payer(file),
        lease=file.lease,
        cancel_actor=file.cancel_actor,
        actions=tuple(await actions.of_job(database, job_id)),
        cancel_kept_at=file.cancel_kept_at,
        recovered_at=file.recovered_at,
        redis=redis,
        redis_unknown=redis_unknown,
        runs=runs.of(job_id),
        runs_unknown=runs.unknown,
        url=connections.job_url(job_id),
    )


def _planned(settings: Settings, job: Job) -> tuple[Plan | None, str | None]:
    try:
        return plan_job(job, Limits.of(settings)), None
    except JobInputError as error:
        return None, str(error)


def _missing(plan: Plan | None, pictures: Sequence[JobPicture], failures: Iterable[SlotFailure]) -> tuple[Missing, ...]:
    """Return the planned slots without a picture, with the reason that the latest run recorded."""
    if plan is None:
        return ()
    filled = filled_slots(plan, ((picture.attach_id, picture.slot) for picture in pictures))
    reasons = {(failure.unit, failure.number): failure.reason for failure in failures}
    return tuple(
        Missing(slot=str(slot), unit=unit.key, reason=reasons.get((slot.unit, slot.number)))
        for unit in plan.units
        for slot in missing_slots(unit, filled)
    )


def _inspected(picture: JobPicture, plan: Plan | None) -> InspectedPicture:
    slot, units = picture.slot, plan.units if plan else ()
    unit = units[slot.unit].key if slot and slot.unit < len(units) else None
    return InspectedPicture(**{**dict(picture), "slot": str(slot) if slot else None, "unit": unit})


async def _unusable(database: Database, plan: Plan) -> dict[int, str]:
    wanted = sorted({reference.attach_id for unit in plan.units for reference in unit.references})
    rows = await database.work.find_attaches(wanted)
    wrong: dict[int, str] = {}
    for attach_id in wanted:
        try:
            if attach_id in rows:
                reference_key(rows[attach_id])
            else:
                wrong[attach_id] = "quel_attach has no such row"
        except (ReferenceUnavailableError, StorageKeyError) as error:
            wrong[attach_id] = str(error)
    return wrong


def _payer(file: JobFile) -> PayerNow:
    payer = file.payer
    return PayerNow(
        kind="organization" if payer.org_id else "member",
        id=payer.org_id or payer.member_id,
        name=file.organization_name if payer.org_id else file.member_name,
        credit=payer.balance or 0,
        refusal=payer.refusal,
    )


def _in_redis(connections: Connections, job_id: UUID) -> tuple[InRedis | None, str | None]:
    try:
        place = connections.queue.place(job_id)
        letters = [letter for letter in connections.queue.letters() if letter.job_id == job_id]
        flag = bool(connections.queue.cancelled([job_id]))
    except RedisError as error:
        return None, str(unreachable(error))
    named = tuple(Letter(name=letter.name, reason=letter.reason) for letter in letters)
    return InRedis(**dict(place), cancel_flag=flag, letters=named), None
