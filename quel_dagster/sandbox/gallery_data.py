"""From the rows and objects of a job to what a gallery shows of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.errors import JobInputError, PictureError, ReferenceUnavailableError, StorageError
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Plan, Reference, Slot
from quel_dagster.jobs.pictures import MAX_BYTES, thumbnail
from quel_dagster.jobs.planning import plan_job
from quel_dagster.jobs.references import reference_key
from quel_dagster.jobs.storage_keys import slot_of_key
from quel_dagster.sandbox.gallery import GalleryJob, GalleryPicture, GalleryReference

#: References are shown small, and many jobs may share one: only its thumbnail is kept.
_REFERENCE_SIDE, _REFERENCE_BYTES = 256, 30_000

Row = Mapping[str, Any]


class GalleryReader:
    """Reads jobs one after the other; a reference that several of them use is fetched once."""

    def __init__(self, database: Database, store: ObjectStore, *, limits: Limits = Limits()) -> None:  # noqa: B008 - a frozen value
        """`limits` are those with which the workers plan."""
        self._database = database
        self._store = store
        self._limits = limits
        self._references: dict[int, bytes | None] = {}

    async def job(self, job_id: UUID, *, label: str | None = None, run_url: str | None = None) -> GalleryJob:
        """A job with its pictures, in the order of its slots; what is missing or cannot be read says so.

        Raises:
            JobNotFoundError: no such row.
        """
        file = await self._database.job_file(job_id)
        report = (await self._database.report([job_id]))[job_id]
        rows = await self._database.pictures(job_id)
        plan, problem = await self._plan(job_id)
        category = plan.category.value if plan else report["production_path"] or "fashion"
        return GalleryJob(
            job_id=str(job_id),
            label=label or file["production"]["production_name"] or f"{category}, {report['job_type']}",
            job_type=report["job_type"],
            category=category,
            status=report["status"],
            payer=_payer(file, rows),
            total_images=report["total_images"],
            pictures=(*await self._pictures(job_id, category, plan, rows),),
            credits=report["credits"],
            seconds=_seconds(report),
            error_message=report["error_message"] or problem or "",
            run_url=run_url,
        )

    async def _plan(self, job_id: UUID) -> tuple[Plan | None, str | None]:
        try:
            return plan_job(await self._database.find_job(job_id), self._limits), None
        except JobInputError as error:
            return None, str(error)

    async def _pictures(
        self, job_id: UUID, category: str, plan: Plan | None, rows: Iterable[Row]
    ) -> list[GalleryPicture]:
        made = {slot_of_key(row["key"] or "", job_id) or row["attach_id"]: row for row in rows}
        pictures = []
        for unit in plan.units if plan else ():
            references = tuple([await self._reference(reference) for reference in unit.references])
            for number in range(unit.quantity):
                slot = Slot(unit=unit.index, number=number)
                row = made.pop(slot, None)
                picture, note = await self._stored(row)
                pictures.append(
                    GalleryPicture(
                        picture=picture,
                        slot=str(slot),
                        attach_id=row["attach_id"] if row else None,
                        category=category,
                        unit=unit.key,
                        angle=unit.angle,
                        shot=unit.shot,
                        fx=unit.fx,
                        aspect_ratio=unit.aspect_ratio,
                        prompt=unit.prompt,
                        negative_prompt=unit.negative_prompt,
                        references=references,
                        credits=_charge(row),
                        notes=note,
                    )
                )
        for slot_or_id, row in made.items():  # another worker's, or from before the plan was changed
            picture, note = await self._stored(row)
            pictures.append(
                GalleryPicture(
                    picture=picture,
                    slot=str(slot_or_id) if isinstance(slot_or_id, Slot) else "",
                    attach_id=row["attach_id"],
                    category=category,
                    credits=_charge(row),
                    notes=note,
                )
            )
        return pictures

    async def _stored(self, row: Row | None) -> tuple[bytes | None, tuple[str, ...]]:
        """The bytes of a picture; or none, and why."""
        if row is None:
            return None, ()
        if row["key"] is None:
            return None, ("its quel_attach row is gone",)
        try:
            return await self._store.get(row["key"], max_bytes=MAX_BYTES), ()
        except StorageError as error:
            return None, (str(error),)

    async def _reference(self, reference: Reference) -> GalleryReference:
        if reference.attach_id not in self._references:
            self._references[reference.attach_id] = await self._thumbnail(reference.attach_id)
        return GalleryReference(
            attach_id=reference.attach_id, type=reference.type, picture=self._references[reference.attach_id]
        )

    async def _thumbnail(self, attach_id: int) -> bytes | None:
        """None: could not be had."""
        attach = (await self._database.find_attaches([attach_id])).get(attach_id)
        if attach is None:
            return None
        try:
            data = await self._store.get(reference_key(attach), max_bytes=MAX_BYTES)
            return await asyncio.to_thread(thumbnail, data, longest_side=_REFERENCE_SIDE, max_bytes=_REFERENCE_BYTES)
        except (StorageError, ReferenceUnavailableError, PictureError):
            return None


def _charge(row: Row | None) -> int:
    return -(row["amount"] or 0) if row else 0


def _payer(file: Mapping[str, Any], rows: Iterable[Row]) -> str:
    """Who was charged; before the first charge, who would be."""
    charged = [row["org_id"] is not None for row in rows if row["amount"] is not None]
    organization, member = file["organization"], file["member"]
    if organization and (charged[0] if charged else organization["status"] == "active"):
        return f"organization {organization['name']}"
    return f"member {member['name'] or member['member_id']}" if member else "nobody"


def _seconds(report: Row) -> float | None:
    """From entering processing to the end."""
    if report["started_at"] is None or report["completed_at"] is None:
        return None
    return float((report["completed_at"] - report["started_at"]).total_seconds())
