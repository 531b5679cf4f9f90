"""Dry run of a job, without a lease, a call or a changed row: what would be made, requested, and paid."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from uuid import UUID

from quel_dagster.adapters.database.records import Payer
from quel_dagster.engine.dependencies import Dependencies
from quel_dagster.engine.outcomes import Planned, Rehearsal, UnitRehearsal
from quel_dagster.errors import QuelError
from quel_dagster.jobs.composing import compose, wanted_references
from quel_dagster.jobs.model import Attach, Category, Job, Slot, Unit
from quel_dagster.jobs.planning import plan_job
from quel_dagster.jobs.slots import filled_slots, missing_slots


async def look_up(dependencies: Dependencies, job_id: UUID, units: Collection[str] = ()) -> Job:
    """Return the job's row without claiming it. Check that the job has the given units.

    Raises:
        JobNotFoundError
        JobInputError: the input cannot be planned, so its units are unknown.
        QuelError: the job does not have one of the units; the message lists the existing ones.
    """
    job = await dependencies.database.jobs.find_job(job_id)
    if units:
        plan = await asyncio.to_thread(plan_job, job, dependencies.limits)
        unknown = sorted(set(units) - {unit.key for unit in plan.units})
        if unknown:
            raise QuelError(
                f"units: job {job_id} has no {', '.join(unknown)[:200]}; it has "
                f"{', '.join(unit.key for unit in plan.units)}."
            )
    return job


async def rehearse(dependencies: Dependencies, job: Job, only: Collection[str] = ()) -> Planned:
    """Plan the job, compose the texts of its units, estimate its price and find its payer.

    Only reads PostgreSQL. A reference counts as available when it has a row.

    Args:
        only: keys of units, checked by `look_up`; empty: all.

    Raises:
        JobInputError: the input cannot be used; the message names the field.
    """
    plan = await asyncio.to_thread(plan_job, job, dependencies.limits)
    covered = filled_slots(plan, await dependencies.database.jobs.filled(job.job_id))
    units = tuple(unit for unit in plan.units if not only or unit.key in only)
    wanted = {unit.key: wanted_references(unit, plan.category) for unit in units}
    attaches = await dependencies.database.work.find_attaches(
        sorted({attach_id for ids in wanted.values() for attach_id in ids})
    )
    rehearsals = [
        # In a thread, like all work on a user's text: all runs of the process share the loop.
        await asyncio.to_thread(_rehearse_unit, unit, plan.category, wanted[unit.key], attaches, covered)
        for unit in units
    ]
    payer = await dependencies.database.work.payer(job.job_id)
    pictures = sum(unit.missing for unit in rehearsals)
    credits_needed = pictures * dependencies.price
    return Planned(
        job_id=job.job_id,
        category=plan.category,
        job_type=plan.job_type,
        units=units,
        left_out=tuple(unit.key for unit in plan.units if unit not in units and missing_slots(unit, covered)),
        repairs=plan.repairs,
        total=plan.total,
        made_before=plan.total - sum(len(missing_slots(unit, covered)) for unit in plan.units),
        payer=payer.name,
        balance=payer.balance,
        rehearsal=Rehearsal(
            units=tuple(rehearsals),
            pictures=pictures,
            credits=credits_needed,
            verdict=_verdict(pictures, credits_needed, dependencies.price, payer),
        ),
    )


def _rehearse_unit(
    unit: Unit,
    category: Category,
    wanted: Collection[int],
    attaches: Mapping[int, Attach],
    covered: Mapping[Slot, int],
) -> UnitRehearsal:
    missing = len(missing_slots(unit, covered))
    available = [attach_id for attach_id in wanted if attach_id in attaches]
    if wanted and not available:
        problem = f"none of its {len(wanted)} references has a row in quel_attach: its pictures would fail"
        return UnitRehearsal(unit=unit, missing=missing, warnings=(problem,))
    brief = compose(unit, category, available)
    absent = tuple(
        f"reference {lost.attach_id} ({lost.role}) has no row in quel_attach"
        f"{': the pictures would fail' * lost.essential}"
        for lost in brief.lost
    )
    return UnitRehearsal(
        unit=unit, missing=missing, parts=brief.parts, text=brief.text, warnings=(*absent, *brief.warnings)
    )


def _verdict(pictures: int, needed: int, price: int, payer: Payer) -> str:
    if pictures == 0:
        return "Nothing is missing: a run would make and charge nothing."
    would = f"A run would make {pictures} picture{'s' * (pictures != 1)} for {needed} credits"
    if payer.refusal:
        return f"{would}, but it would fail: {payer.refusal}."
    balance = payer.balance or 0
    if balance < price:
        return f"{would}, but the {payer.name} has {balance}: it would make none."
    if balance < needed:
        return f"{would}, but the {payer.name} has {balance}: enough for {balance // price} of them."
    return f"{would}; the {payer.name} has {balance}."
