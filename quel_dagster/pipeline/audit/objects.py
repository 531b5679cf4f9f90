"""I12: every picture has its object, as recorded in the tables, and every object has its picture."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from quel_dagster.adapters.database import audit_rows as sql
from quel_dagster.adapters.database.audit import AuditReader
from quel_dagster.adapters.storage.listing import StoredObject
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.errors import (
    ObjectNotFoundError,
    PictureError,
    ReferenceUnavailableError,
    StorageError,
    StorageKeyError,
)
from quel_dagster.jobs.decoding import MAX_BYTES
from quel_dagster.jobs.model import Attach
from quel_dagster.jobs.pictures import load_picture
from quel_dagster.jobs.references import reference_key
from quel_dagster.jobs.storage_keys import GENERATED, key_names_job
from quel_dagster.pipeline.audit.checks import Check, CheckResult, Sources
from quel_dagster.pipeline.audit.report import LISTED, Breach, breach_of

_OBJECTS_AT_ONCE = 8
#: Stop reading from the store after this many failures.
_UNANSWERED = 20
#: Number of object keys per query to PostgreSQL.
_KEYS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Objects(Check):
    """I12: pictures with a missing or wrong object, and objects without a picture. The latter need a listing of the
    store, so a sample skips them."""

    code: str
    reader: AuditReader
    sources: Sources
    sample: int | None
    job_ids: Collection[UUID] | None
    since: datetime | None
    #: seconds; a younger object may still get its row
    grace: float

    async def run(self, suspects: Sequence[Breach] | None = None) -> CheckResult:
        store = self.sources.store
        if store is None:
            return CheckResult(not_done="object store not given")
        if suspects is None:
            pictures = await self._pictures(store, None, self.sample)
            if self.sample is not None or pictures.not_done:
                return pictures
            unnamed = await self._unnamed(store)
        else:
            again = [int(breach.ids["attach"]) for breach in suspects if "attach" in breach.ids]
            pictures = await self._pictures(store, again, None)
            unnamed = await self._unnamed_still(store, [breach for breach in suspects if "object" in breach.ids])
        return CheckResult(
            checked=pictures.checked + unnamed.checked,
            breaches=(pictures.breaches + unnamed.breaches)[:LISTED],
            total=pictures.total + unnamed.total,
            not_done=pictures.not_done or unnamed.not_done,
        )

    # --- from a picture to its object ----------------------------------------------------------------

    async def _pictures(self, store: ObjectStore, attach_ids: list[int] | None, sample: int | None) -> CheckResult:
        rows = await self.reader.read(sql.AuditedPicture, sql.STORED_PICTURES, attach_ids=attach_ids, sample=sample)
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
        return CheckResult(
            checked=checked,
            breaches=tuple(breaches[:LISTED]),
            total=len(breaches),
            not_done=f"{left} of {len(rows)} objects could not be read: {unanswered[0]}" if unanswered else None,
        )

    async def _object(self, store: ObjectStore, row: sql.AuditedPicture) -> Breach | None:
        """Check one object. Raises StorageError when the store does not answer."""
        facts: dict[str, object] = {"job": row.job_id, "attach": row.attach_id, "size": row.size}
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
        if row.sha256 is not None and row.sha256 != hashlib.sha256(data).hexdigest():
            return breach_of(self.code, "overwritten", facts)
        return None

    # --- from an object to its picture ---------------------------------------------------------------

    async def _unnamed(self, store: ObjectStore) -> CheckResult:
        checked = total = 0
        breaches: list[Breach] = []
        page: dict[str, int] = {}
        try:
            for folder in await self._folders():
                async for stored in store.list(folder):
                    if not self._in_scope(stored):
                        continue
                    checked += 1
                    page[stored.key] = stored.size
                    if len(page) >= _KEYS_AT_ONCE:
                        breaches += (found := await self._unexplained(page))[:LISTED]
                        total += len(found)
                        page = {}
        except StorageError as error:
            return CheckResult(checked=checked, not_done=f"the store could not be listed: {error}")
        breaches += (found := await self._unexplained(page))
        return CheckResult(checked=checked, breaches=tuple(breaches), total=total + len(found))

    async def _folders(self) -> list[str]:
        if self.job_ids is None:
            return [GENERATED]
        return [f"{GENERATED}user-{row.member_id}" for row in await self.reader.rows(sql.PICTURE_FOLDERS)]

    def _in_scope(self, stored: StoredObject) -> bool:
        if self.job_ids is not None and not any(key_names_job(stored.key, job_id) for job_id in self.job_ids):
            return False
        if self.since is not None and stored.modified < self.since:
            return False
        return (datetime.now(UTC) - stored.modified).total_seconds() >= self.grace

    async def _unexplained(self, sizes: Mapping[str, int]) -> list[Breach]:
        if not sizes:
            return []
        rows = await self.reader.rows(sql.UNEXPLAINED_KEYS, keys=list(sizes))
        return [breach_of(self.code, "unnamed", {"object": row.key, "size": sizes[row.key]}) for row in rows]

    async def _unnamed_still(self, store: ObjectStore, suspects: Sequence[Breach]) -> CheckResult:
        sizes: dict[str, int] = {}
        try:
            for breach in suspects:
                with suppress(ObjectNotFoundError):
                    sizes[breach.ids["object"]] = await store.size(breach.ids["object"])
        except StorageError as error:
            return CheckResult(not_done=f"an object could not be checked again: {error}")
        breaches = await self._unexplained(sizes)
        return CheckResult(checked=len(sizes), breaches=tuple(breaches), total=len(breaches))
