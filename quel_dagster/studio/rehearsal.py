"""A job played through without a lease, a call or a changed row: what would be made, asked, and paid."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from uuid import UUID

from quel_dagster.adapters.database.records import Made, Payer
from quel_dagster.errors import QuelError
from quel_dagster.jobs.composing import compose, wanted_references
from quel_dagster.jobs.model import Attach, Category, Job, Plan, Slot, Unit
from quel_dagster.jobs.planning import plan_job
from quel_dagster.studio.outcomes import Planned, Rehearsal, UnitRehearsal
from quel_dagster.studio.session import Parts, covered_slots, slots


async def look_up(parts: Parts, job_id: UUID, units: Collection[str] = ()) -> Job:
    """The job's row, unclaimed, after a look whether it has these units.

    Raises:
        JobNotFoundError
        JobInputError: the input cannot be planned, so nobody can say which units there are.
        QuelError: a unit that the job does not have; names those that it has.
    """
    job = await parts.database.find_job(job_id)
    if units:
        plan = await asyncio.to_thread(plan_job, job, parts.limits)
        unknown = sorted(set(units) - {unit.key for unit in plan.units})
        if unknown:
            raise QuelError(
                f"units: job {job_id} has no {', '.join(unknown)[:200]}; it has "
                f"{', '.join(unit.key for unit in plan.units)}."
            )
    return job


async def rehearse(parts: Parts, job: Job, only: Collection[str] = ()) -> Planned:
    """Plan the job, compose the texts of its units, estimate what it costs, look who would pay.

    Reads PostgreSQL and nothing else. References count as there when they have a row.

    Args:
        only: keys of units that `look_up` found; all when empty.

    Raises:
        JobInputError: the input cannot be used; names the field.
    """
    plan = await asyncio.to_thread(plan_job, job, parts.limits)
    made = [Made(attach_id=row["attach_id"], key=row["key"]) for row in await parts.database.pictures(job.job_id)]
    covered = covered_slots(plan, made)
    units = tuple(unit for unit in plan.units if not only or unit.key in only)
    wanted = {unit.key: wanted_references(unit, plan.category) for unit in units}
    attaches = await parts.database.find_attaches(sorted({attach_id for ids in wanted.values() for attach_id in ids}))
    played = tuple(_play(unit, plan.category, wanted[unit.key], attaches, covered) for unit in units)
    payer = await parts.database.payer(claimed_id=plan.claimed_user_id, job=job)
    pictures = sum(unit.missing for unit in played)
    credits_needed = pictures * parts.price
    return Planned(
        job_id=job.job_id,
        category=plan.category,
        job_type=plan.job_type,
        units=units,
        left_out=_left_out(plan, units, covered),
        repairs=plan.repairs,
        total=plan.total,
        made_before=sum(1 for unit in plan.units for slot in slots(unit) if slot in covered),
        payer=payer.name if payer else "",
        balance=payer.balance if payer else None,
        rehearsal=Rehearsal(
            units=played,
            pictures=pictures,
            credits=credits_needed,
            verdict=_verdict(pictures, credits_needed, parts.price, payer),
        ),
    )


def _play(
    unit: Unit,
    category: Category,
    wanted: Collection[int],
    attaches: Mapping[int, Attach],
    covered: Mapping[Slot, int],
) -> UnitRehearsal:
    missing = sum(1 for slot in slots(unit) if slot not in covered)
    there = [attach_id for attach_id in wanted if attach_id in attaches]
    if wanted and not there:
        problem = f"none of its {len(wanted)} references has a row in quel_attach: its pictures would fail"
        return UnitRehearsal(unit=unit, missing=missing, warnings=(problem,))
    brief = compose(unit, category, there)
    absent = tuple(
        f"reference {attach_id} has no row in quel_attach" for attach_id in wanted if attach_id not in attaches
    )
    return UnitRehearsal(
        unit=unit, missing=missing, parts=brief.parts, text=brief.text, warnings=(*absent, *brief.warnings)
    )


def _left_out(plan: Plan, units: Collection[Unit], covered: Mapping[Slot, int]) -> tuple[str, ...]:
    return tuple(
        unit.key for unit in plan.units if unit not in units and any(slot not in covered for slot in slots(unit))
    )


def _verdict(pictures: int, needed: int, price: int, payer: Payer | None) -> str:
    if pictures == 0:
        return "Nothing is missing: a run would make and charge nothing."
    would = f"A run would make {pictures} picture{'s' * (pictures != 1)} for {needed} credits"
    if payer is None:
        return f"{would}, but neither userId nor quel_member_id is a member, so nobody can be charged: it would fail."
    if payer.balance < price:
        return f"{would}, but the {payer.name} has {payer.balance}: it would make none."
    if payer.balance < needed:
        return f"{would}, but the {payer.name} has {payer.balance}: enough for {payer.balance // price} of them."
    return f"{would}; the {payer.name} has {payer.balance}."
