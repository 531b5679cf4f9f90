"""The reference pictures of one job: downloaded once each, kept while a unit needs them (domain.md §5)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from uuid import UUID

from quel_dagster.adapters.storage.outages import OutageTolerantStore
from quel_dagster.engine.picture_threads import in_picture_thread
from quel_dagster.errors import PictureError, ReferenceUnavailableError, StorageError
from quel_dagster.jobs.decoding import MAX_BYTES
from quel_dagster.jobs.model import Attach
from quel_dagster.jobs.pictures import Picture, load_picture
from quel_dagster.jobs.references import is_generated_for_another, reference_key

FindAttaches = Callable[[Sequence[int]], Awaitable[Mapping[int, Attach]]]
DOWNLOADS_AT_ONCE: Final = 6


@dataclass(frozen=True, slots=True)
class Fetched:
    """The references of one unit. Every id is in exactly one of the two mappings."""

    pictures: dict[int, Picture] = field(default_factory=dict)
    #: why a reference could not be fetched, one sentence each
    missing: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Missing:
    reason: str
    #: a later attempt may succeed
    transient: bool


class ReferenceCache:
    """The references of one job, on one event loop.

    One unit holds its references at a time; the others wait. Above `max_bytes`, references that no unit holds are
    dropped, least recently held first, and downloaded again when needed.
    """

    def __init__(
        self,
        *,
        find_attaches: FindAttaches,
        store: OutageTolerantStore,
        max_bytes: int,
        log: Callable[[str], None],
    ) -> None:
        """`log` receives the log lines of domain.md §10."""
        self._find_attaches = find_attaches
        self._store = store
        self._member_id: UUID | None = None
        self._max_bytes = max_bytes
        self._step_log = log
        self._download = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self._holding = asyncio.Lock()
        self._held: frozenset[int] = frozenset()
        self._uses_left: Counter[int] = Counter()
        #: least recently held first
        self._fetches: dict[int, asyncio.Task[Picture | _Missing]] = {}
        self._sizes: dict[int, int] = {}

    def expect(self, units: Iterable[Sequence[int]]) -> None:
        """Register which references the units will need. A reference is dropped after the last unit that needs it."""
        self._uses_left.update(attach_id for attach_ids in units for attach_id in set(attach_ids))

    @asynccontextmanager
    async def held(self, attach_ids: Sequence[int], *, member_id: UUID | None) -> AsyncIterator[Fetched]:
        """Yield a unit's references and a reason for each missing one; keep them until the block ends.

        A download continues when the unit is cancelled, because another unit may need it. A failure is kept for the
        rest of the job, unless it may be transient. `member_id` is the member that the job belongs to.

        Raises:
            The errors of `find_attaches`: an unreachable database does not mean that a reference is missing.
        """
        wanted = list(dict.fromkeys(attach_ids))
        async with self._holding:
            self._held, self._member_id = frozenset(wanted), member_id
            try:
                yield await self._fetched(wanted)
            finally:
                self._held = frozenset()
                self._uses_left.subtract(wanted)
                for attach_id in wanted:
                    if self._uses_left[attach_id] <= 0:
                        self._drop(attach_id)

    async def aclose(self) -> None:
        """Cancel the downloads that no unit waits for."""
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    async def _fetched(self, wanted: list[int]) -> Fetched:
        fetched = Fetched()
        outcomes = await asyncio.gather(*(asyncio.shield(fetch) for fetch in self._started(wanted)))
        for attach_id, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Picture):
                fetched.pictures[attach_id] = outcome
            else:
                fetched.missing[attach_id] = outcome.reason
        return fetched

    def _started(self, attach_ids: list[int]) -> list[asyncio.Task[Picture | _Missing]]:
        """Return a fetch task for each id. Start the missing ones with a single query."""
        new = [attach_id for attach_id in attach_ids if attach_id not in self._fetches]
        if new:
            for attach_id in new:
                self._step_log(f"Fetching attach info: {attach_id}")
            rows = asyncio.ensure_future(self._find_attaches(new))
            for attach_id in new:
                fetch = asyncio.create_task(self._fetch_one(attach_id, rows))
                self._fetches[attach_id] = fetch
                fetch.add_done_callback(partial(self._forget_if_it_may_pass, attach_id))
        for attach_id in attach_ids:
            self._fetches[attach_id] = self._fetches.pop(attach_id)
        return [self._fetches[attach_id] for attach_id in attach_ids]

    def _forget_if_it_may_pass(self, attach_id: int, fetch: asyncio.Task[Picture | _Missing]) -> None:
        if self._fetches.get(attach_id) is not fetch:
            return
        if fetch.cancelled() or fetch.exception() is not None:
            del self._fetches[attach_id]
            return
        outcome = fetch.result()
        if isinstance(outcome, _Missing) and outcome.transient:
            del self._fetches[attach_id]

    async def _fetch_one(self, attach_id: int, rows: asyncio.Future[Mapping[int, Attach]]) -> Picture | _Missing:
        attach = (await rows).get(attach_id)
        outcome = await self._downloaded(attach) if attach else _Missing("quel_attach has no such row", transient=False)
        if isinstance(outcome, _Missing):
            self._step_log(f"Reference {attach_id} left out: {outcome.reason}")
        return outcome

    async def _downloaded(self, attach: Attach) -> Picture | _Missing:
        try:
            key = reference_key(attach)
            if is_generated_for_another(key, self._member_id):
                return _Missing("it is a picture that was generated for another member", transient=False)
            async with self._download:
                self._step_log(f"Downloading image: AttachID={attach.attach_id}")
                data = await self._store.get(key, max_bytes=MAX_BYTES, report=self._step_log)
                self._step_log(f"Image downloaded successfully: {len(data)} bytes")
                if not self._made_room(attach.attach_id, len(data)):
                    return _Missing(
                        f"the references of this unit have more than {self._max_bytes // 10**6} MB together; "
                        "use fewer or smaller ones (QUEL_MAX_REFERENCE_MEGABYTES is the limit)",
                        transient=True,
                    )
                return await in_picture_thread(load_picture, data)
        except (StorageError, ReferenceUnavailableError, PictureError) as error:
            self._sizes.pop(attach.attach_id, None)
            return _Missing(str(error), transient=isinstance(error, StorageError) and error.transient)

    def _made_room(self, attach_id: int, size: int) -> bool:
        """Drop references that no unit holds until `size` bytes fit. Return False when they cannot fit."""
        idle = [other for other in self._fetches if other in self._sizes and other not in self._held]
        while sum(self._sizes.values()) + size > self._max_bytes:
            if not idle:
                return False
            self._drop(idle.pop(0))
        self._sizes[attach_id] = size
        return True

    def _drop(self, attach_id: int) -> None:
        """Drop a picture. Keep a recorded failure; let a running download continue."""
        fetch = self._fetches.get(attach_id)
        if fetch is None or not fetch.done() or isinstance(fetch.result(), _Missing):
            return
        del self._fetches[attach_id]
        self._sizes.pop(attach_id, None)
