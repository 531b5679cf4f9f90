"""I12: are the pictures in the object store what the tables say?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quel_dagster.adapters.database import audit as sql
from quel_dagster.adapters.database.audit import AuditReader
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.errors import (
    ObjectNotFoundError,
    PictureError,
    ReferenceUnavailableError,
    StorageError,
    StorageKeyError,
)
from quel_dagster.jobs.model import Attach
from quel_dagster.jobs.pictures import MAX_BYTES, load_picture
from quel_dagster.jobs.references import reference_key
from quel_dagster.pipeline.audit.checks import Check, Look, Sources
from quel_dagster.pipeline.audit.report import LISTED, Breach, breach_of

_OBJECTS_AT_ONCE = 8
#: So many objects in vain, and the store is asked no more.
_UNANSWERED = 20


@dataclass(frozen=True)
class Objects(Check):
    """I12"""

    code: str
    reader: AuditReader
    sources: Sources
    sample: int | None

    async def look(self, suspects: Sequence[Breach] | None = None) -> Look:
        store = self.sources.store
        if store is None:
            return Look(not_done="object store not given")
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
        return Look(
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
            return breach_of(self.code, "no_key", {**facts, "why": error})
        except ObjectNotFoundError:
            return breach_of(self.code, "no_object", facts)
        if row.size is not None and row.size != len(data):
            return breach_of(self.code, "size", {**facts, "found": len(data)})
        try:
            await asyncio.to_thread(load_picture, data)
        except PictureError as error:
            return breach_of(self.code, "broken", {**facts, "why": error})
        return None
