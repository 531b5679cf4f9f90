"""Prepare a unit's request: fetch references, compose the text, encode the image parts once for all pictures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID

from quel_dagster.engine.picture_threads import in_picture_thread
from quel_dagster.engine.reference_cache import Fetched, ReferenceCache
from quel_dagster.engine.timeline import LogLine
from quel_dagster.errors import ReferenceUnavailableError
from quel_dagster.jobs.composing import compose, wanted_references
from quel_dagster.jobs.model import Brief, Category, ImagePart, Unit
from quel_dagster.jobs.pictures import render_part


@dataclass(frozen=True)
class Prepared:
    """The parts of a request that all pictures of a unit share."""

    brief: Brief
    images: tuple[ImagePart, ...]
    #: references that could not be fetched, and why, one clause each
    lost: tuple[str, ...]


async def prepare(
    unit: Unit, category: Category, references: ReferenceCache, *, member_id: UUID | None, log: LogLine
) -> Prepared:
    """Fetch the unit's references, compose the text for those that were fetched, encode the image parts.

    Raises:
        ReferenceUnavailableError: no reference could be fetched, or an essential one could not (domain.md §5).
    """
    wanted = wanted_references(unit, category)
    async with references.held(wanted, member_id=member_id) as fetched:
        if wanted and not fetched.pictures:
            first = next(iter(fetched.missing.values()))
            raise ReferenceUnavailableError(f"None of the {len(wanted)} reference pictures could be fetched: {first}")
        brief = await asyncio.to_thread(compose, unit, category, fetched.pictures.keys())
        lost = _lost(brief, fetched)
        for warning in brief.warnings:
            log(warning)
        images = await asyncio.gather(
            *(in_picture_thread(render_part, part, fetched.pictures, unit.aspect_ratio) for part in brief.parts)
        )
    return Prepared(brief, tuple(images), lost)


def _lost(brief: Brief, fetched: Fetched) -> tuple[str, ...]:
    for reference in brief.lost:
        if reference.essential:
            raise ReferenceUnavailableError(
                f"Reference {reference.attach_id} ({reference.role}) could not be fetched, and without it the "
                f"picture would show something else: {fetched.missing[reference.attach_id]}"
            )
    return tuple(
        f"reference {ref.attach_id} ({ref.role}) could not be fetched: {fetched.missing[ref.attach_id]}"
        for ref in brief.lost
    )
