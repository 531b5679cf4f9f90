"""The slots of a unit, and which of them have a picture. Every other module uses these functions."""

from __future__ import annotations

from collections.abc import Container, Iterable

from quel_dagster.jobs.model import Plan, Slot, Unit


def slots(unit: Unit) -> list[Slot]:
    """Return the slots of a unit's pictures, in order."""
    return [Slot(unit=unit.index, number=number) for number in range(unit.quantity)]


def missing_slots(unit: Unit, filled: Container[Slot]) -> list[Slot]:
    """Return the slots of a unit without a picture, in order; `filled` comes from `filled_slots`."""
    return [slot for slot in slots(unit) if slot not in filled]


def filled_slots(plan: Plan, pictures: Iterable[tuple[int, Slot | None]]) -> dict[Slot, int]:
    """Return the attach id of each filled slot.

    Args:
        pictures: attach id and slot of every picture of the job. A picture of the older worker has no slot: it fills
            the first free slot.
    """
    filled: dict[Slot, int] = {}
    foreign: list[int] = []
    for attach_id, slot in pictures:
        if slot is None:
            foreign.append(attach_id)
        else:
            filled[slot] = attach_id
    free = [slot for unit in plan.units for slot in slots(unit) if slot not in filled]
    filled.update(zip(free, foreign, strict=False))
    return filled
