"""Everything about one job, from every place that knows something of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from redis import RedisError

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import DeadLetter, QueuePlace, unreachable
from quel_dagster.cli import connection
from quel_dagster.cli.runs import JobRun, find_runs
from quel_dagster.errors import JobInputError, ReferenceUnavailableError, StorageKeyError
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Job, JobStatus, Plan, Slot, Value
from quel_dagster.jobs.planning import plan_job
from quel_dagster.jobs.references import reference_key
from quel_dagster.jobs.storage_keys import slot_of_key
from quel_dagster.settings import Settings


class Missing(Value):
    """A slot without a picture."""

    slot: str
    unit: str
    #: what the last run that tried said
    reason: str | None = None


class Letter(Value):
    """A dead letter of the job."""

    name: str
    reason: str


class InRedis(Value):
    """What Redis knows of the job."""

    #: 1: the next to be taken; None: not in jobs:queue
    position: int | None
    waiting: int
    processing: bool
    misses: int
    #: the user's flag, which lives an hour
    cancel_flag: bool
    letters: tuple[Letter, ...] = ()


class PayerNow(Value):
    """Who would pay for the next picture (domain.md §8)."""

    kind: str
    id: UUID | None
    name: str | None
    credit: int


class JobInspection(Value):
    """One job, as `quel show` prints it."""

    #: the whole rows
    job: dict[str, Any]
    production: dict[str, Any]
    status: JobStatus
    plan: Plan | None
    #: why job_input_data cannot be planned
    plan_error: str | None
    #: what is wrong with a reference that the plan names; sound ones are left out
    unusable_references: dict[int, str]
    #: one row per id in generated_attach_ids
    pictures: tuple[dict[str, Any], ...]
    missing: tuple[Missing, ...]
    #: charged so far
    credits: int
    price: int
    payer: PayerNow | None
    lease: dict[str, Any] | None
    cancel_kept_at: str | None
    recovered_at: tuple[str, ...]
    redis: InRedis | None
    redis_unknown: str | None
    runs: tuple[JobRun, ...]
    runs_unknown: str | None

    @property
    def job_id(self) -> str:
        return str(self.job["job_id"])

    @property
    def lease_is_live(self) -> bool:
        return self.lease is not None and self.lease["seconds_left"] > 0

    @property
    def live_run(self) -> JobRun | None:
        return next((run for run in self.runs if run.live), None)

    @property
    def cancel_asked(self) -> bool:
        return self.cancel_kept_at is not None or (self.redis is not None and self.redis.cancel_flag)

    @property
    def still_owed(self) -> int:
        """Credits that the missing pictures would cost."""
        return len(self.missing) * self.price


def inspect(settings: Settings, job_id: UUID) -> JobInspection:
    """Look everywhere. Parts other than PostgreSQL may be away: then it says so.

    Raises:
        JobNotFoundError: no such row.
        QuelError: PostgreSQL does not answer.
    """
    return asyncio.run(_inspect(settings, job_id))


async def _inspect(settings: Settings, job_id: UUID) -> JobInspection:
    async with connection.database(settings) as database:
        file = await database.job_file(job_id)  # first: whatever else is away, this has to be there
        redis, redis_unknown = await asyncio.to_thread(_in_redis, settings, job_id)
        runs = await asyncio.to_thread(find_runs, settings, [job_id])
        job = await database.find_job(job_id)
        pictures = await database.pictures(job_id)
        plan, plan_error = _planned(settings, job)
        made = [slot_of_key(picture["key"] or "", job_id) for picture in pictures]
        reasons = _reasons(await database.unit_outcomes([run.run_id for run in runs.of(job_id)]))
        return JobInspection(
            job=file["job"],
            production=file["production"],
            status=job.job_status,
            plan=plan,
            plan_error=plan_error,
            unusable_references=await _unusable(database, plan) if plan else {},
            pictures=tuple(
                {**picture, "slot": str(slot) if slot else None, "unit": _unit_of(plan, slot)}
                for picture, slot in zip(pictures, made, strict=True)
            ),
            missing=_missing(plan, made, reasons),
            credits=-sum(picture["amount"] or 0 for picture in pictures),
            price=settings.image_per_price,
            payer=_payer(file),
            lease=file["lease"],
            cancel_kept_at=file["cancel_kept_at"] and file["cancel_kept_at"].isoformat(),
            recovered_at=tuple(moment.isoformat() for moment in file["recovered_at"]),
            redis=redis,
            redis_unknown=redis_unknown,
            runs=runs.of(job_id),
            runs_unknown=runs.unknown,
        )


def _planned(settings: Settings, job: Job) -> tuple[Plan | None, str | None]:
    try:
        return plan_job(job, Limits.of(settings)), None
    except JobInputError as error:
        return None, str(error)


def _missing(
    plan: Plan | None, made: Sequence[Slot | None], reasons: Mapping[tuple[int, int], str]
) -> tuple[Missing, ...]:
    """The planned slots without a picture; pictures of another worker have no slot, and fill the first free ones."""
    if plan is None:
        return ()
    taken = set(made)
    free = [
        (unit, Slot(unit=unit.index, number=number))
        for unit in plan.units
        for number in range(unit.quantity)
        if Slot(unit=unit.index, number=number) not in taken
    ]
    return tuple(
        Missing(slot=str(slot), unit=unit.key, reason=reasons.get((slot.unit, slot.number)))
        for unit, slot in free[sum(slot is None for slot in made) :]
    )


def _reasons(outcomes: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], str]:
    """Why a slot stayed empty, as its latest run said."""
    return {
        (failure["slot"]["unit"], failure["slot"]["number"]): failure["reason"]
        for row in outcomes
        for failure in row["outcome"]["failed"]
    }


def _unit_of(plan: Plan | None, slot: Slot | None) -> str | None:
    if plan is None or slot is None or slot.unit >= len(plan.units):
        return None
    return plan.units[slot.unit].key


async def _unusable(database: Database, plan: Plan) -> dict[int, str]:
    wanted = sorted({reference.attach_id for unit in plan.units for reference in unit.references})
    rows = await database.find_attaches(wanted)
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


def _payer(file: Mapping[str, Any]) -> PayerNow | None:
    organization, member = file["organization"], file["member"]
    if organization and organization["status"] == "active":
        return PayerNow(
            kind="organization",
            id=organization["org_id"],
            name=organization["name"],
            credit=organization["credit"] or 0,
        )
    if member:
        return PayerNow(kind="member", id=member["member_id"], name=member["name"], credit=member["credit"] or 0)
    return None


def _in_redis(settings: Settings, job_id: UUID) -> tuple[InRedis | None, str | None]:
    try:
        with connection.queue(settings) as queue:
            place: QueuePlace = queue.place(job_id)
            letters: list[DeadLetter] = [letter for letter in queue.letters() if letter.job_id == job_id]
            flag = bool(queue.cancelled([job_id]))
    except RedisError as error:
        return None, str(unreachable(error))
    return InRedis(
        position=place.position,
        waiting=place.waiting,
        processing=place.processing,
        misses=place.misses,
        cancel_flag=flag,
        letters=tuple(Letter(name=letter.name, reason=letter.reason) for letter in letters),
    ), None
