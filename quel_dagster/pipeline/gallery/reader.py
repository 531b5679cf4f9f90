"""Read the rows and objects of a job into the values that a gallery shows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from quel_dagster.adapters.database.jobs import JobFile, JobPicture
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.errors import JobInputError, PictureError, ReferenceUnavailableError, StorageError
from quel_dagster.jobs.decoding import MAX_BYTES
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Plan, Reference
from quel_dagster.jobs.pictures import thumbnail
from quel_dagster.jobs.planning import plan_job
from quel_dagster.jobs.references import reference_key
from quel_dagster.jobs.slots import slots
from quel_dagster.pipeline.gallery.page import GalleryJob, GalleryPicture, GalleryReference

#: References are shown small and shared by many jobs: only the thumbnail is kept.
_REFERENCE_SIDE, _REFERENCE_BYTES = 256, 30_000
#: the fields of a unit that a picture of it shows
_ASKED = ("angle", "shot", "fx", "aspect_ratio", "prompt", "negative_prompt")


class GalleryReader:
    """Reads jobs one after the other. A reference that several jobs use is fetched once."""

    def __init__(self, database: Database, store: ObjectStore, *, limits: Limits = Limits()) -> None:  # noqa: B008 - a frozen value
        """`limits` must be those that the workers plan with."""
        self._database = database
        self._store = store
        self._limits = limits
        self._references: dict[int, bytes | None] = {}

    async def job(self, job_id: UUID, *, label: str | None = None, run_url: str | None = None) -> GalleryJob:
        """Return a job with its pictures in slot order. Missing or unreadable ones carry a note.

        Raises:
            JobNotFoundError: no such row.
        """
        file = await self._database.jobs.job_file(job_id)
        report = (await self._database.jobs.report([job_id]))[job_id]
        rows = await self._database.jobs.pictures(job_id)
        plan, problem = await self._plan(job_id)
        category = plan.category.value if plan else report.category
        return GalleryJob(
            job_id=str(job_id),
            label=label or file.production.production_name or f"{category}, {report.job_type}",
            job_type=report.job_type,
            category=category,
            status=report.status,
            payer=_payer(file),
            total_images=report.total_images,
            pictures=(*await self._pictures(category, plan, rows),),
            credits=report.credits,
            seconds=report.seconds_at_work,
            error_message=report.error_message or problem or "",
            run_url=run_url,
        )

    async def _plan(self, job_id: UUID) -> tuple[Plan | None, str | None]:
        try:
            return plan_job(await self._database.jobs.find_job(job_id), self._limits), None
        except JobInputError as error:
            return None, str(error)

    async def _pictures(self, category: str, plan: Plan | None, rows: Iterable[JobPicture]) -> list[GalleryPicture]:
        made = {row.slot or row.attach_id: row for row in rows}
        pictures = []
        for unit in plan.units if plan else ():
            references = tuple([await self._reference(reference) for reference in unit.references])
            asked = {name: getattr(unit, name) for name in _ASKED} | {"unit": unit.key, "references": references}
            for slot in slots(unit):
                pictures.append(await self._picture(made.pop(slot, None), category, slot=str(slot), **asked))
        for row in made.values():  # made by another worker, or before the plan was changed
            pictures.append(await self._picture(row, category, slot=str(row.slot or "")))
        return pictures

    async def _picture(self, row: JobPicture | None, category: str, **shown: Any) -> GalleryPicture:
        picture, notes = await self._stored(row)
        return GalleryPicture(
            picture=picture,
            attach_id=row.attach_id if row else None,
            category=category,
            credits=-(row.amount or 0) if row else 0,
            notes=notes,
            **shown,
        )

    async def _stored(self, row: JobPicture | None) -> tuple[bytes | None, tuple[str, ...]]:
        """Return the bytes of a picture, or None with the reason."""
        if row is None:
            return None, ()
        if row.key is None:
            return None, ("its quel_attach row does not exist any more",)
        try:
            return await self._store.get(row.key, max_bytes=MAX_BYTES), ()
        except StorageError as error:
            return None, (str(error),)

    async def _reference(self, reference: Reference) -> GalleryReference:
        if reference.attach_id not in self._references:
            self._references[reference.attach_id] = await self._thumbnail(reference.attach_id)
        return GalleryReference(
            attach_id=reference.attach_id, type=reference.type, picture=self._references[reference.attach_id]
        )

    async def _thumbnail(self, attach_id: int) -> bytes | None:
        """Return the thumbnail; None when the reference cannot be fetched."""
        attach = (await self._database.work.find_attaches([attach_id])).get(attach_id)
        if attach is None:
            return None
        try:
            data = await self._store.get(reference_key(attach), max_bytes=MAX_BYTES)
            return await asyncio.to_thread(thumbnail, data, longest_side=_REFERENCE_SIDE, max_bytes=_REFERENCE_BYTES)
        except (StorageError, ReferenceUnavailableError, PictureError):
            return None


def _payer(file: JobFile) -> str:
    """Return the payer of the job (domain.md §8)."""
    if file.organization_name:
        return f"organization {file.organization_name}"
    return f"member {file.member_name or file.payer.member_id}" if file.payer.member_id else "no member"
