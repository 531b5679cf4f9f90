"""The references of one job: each fetched at most once, however many units ask for it (domain.md §5)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.errors import PictureError, ReferenceUnavailableError, StorageError
from quel_dagster.jobs.model import Attach
from quel_dagster.jobs.pictures import MAX_BYTES, Picture, load_picture
from quel_dagster.jobs.references import reference_key

FindAttaches = Callable[[Sequence[int]], Awaitable[Mapping[int, Attach]]]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of asking for some references: every id is in exactly one of the two."""

    pictures: dict[int, Picture] = field(default_factory=dict)
    #: why a reference cannot be had, one sentence each
    missing: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Missing:
    reason: str
    #: asking again may help
    transient: bool


class ReferenceShelf:
    """The references of one job, downloaded and checked once, side by side.

    It belongs to one event loop. Who asks for a picture that is on its way waits for that download; a download goes on
    when an asker is cancelled, since others may be waiting for it too. A reference that cannot be had stays so for the
    job, unless the store was merely unavailable: then the next asker tries again.
    """

    def __init__(
        self,
        *,
        find_attaches: FindAttaches,
        store: ObjectStore,
        say: Callable[[str], None],
        max_downloads: int = 6,
        deadline_seconds: float = 90.0,
    ) -> None:
        """`say` receives the log lines of domain.md §10; `deadline_seconds` bounds one download with its retries."""
        self._find_attaches = find_attaches
        self._store = store
        self._say = say
        self._turn = asyncio.Semaphore(max_downloads)
        self._deadline_seconds = deadline_seconds
        self._fetches: dict[int, asyncio.Task[Picture | _Missing]] = {}

    async def fetch(self, attach_ids: Sequence[int]) -> Fetched:
        """The pictures of these references, and a reason for each that cannot be had.

        Raises:
            Whatever `find_attaches` raises: that the database does not answer is no fault of a reference. Nothing is
            remembered then, so the next call asks anew.
        """
        wanted = list(dict.fromkeys(attach_ids))
        fetches = self._started(wanted)
        fetched = Fetched()
        outcomes = await asyncio.gather(*(asyncio.shield(fetch) for fetch in fetches))
        for attach_id, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Picture):
                fetched.pictures[attach_id] = outcome
            else:
                fetched.missing[attach_id] = outcome.reason
        return fetched

    async def aclose(self) -> None:
        """Stop the downloads that nobody waits for any more."""
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    def _started(self, attach_ids: list[int]) -> list[asyncio.Task[Picture | _Missing]]:
        """The fetch of each, begun where nobody has asked yet, with one query for all of these."""
        new = [attach_id for attach_id in attach_ids if attach_id not in self._fetches]
        if new:
            for attach_id in new:
                self._say(f"Fetching attach info: {attach_id}")
            rows = asyncio.ensure_future(self._find_attaches(new))
            for attach_id in new:
                fetch = asyncio.create_task(self._fetch_one(attach_id, rows))
                self._fetches[attach_id] = fetch
                fetch.add_done_callback(partial(self._forget_if_unsettled, attach_id))
        return [self._fetches[attach_id] for attach_id in attach_ids]

    def _forget_if_unsettled(self, attach_id: int, fetch: asyncio.Task[Picture | _Missing]) -> None:
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
            self._say(f"Reference {attach_id} left out: {outcome.reason}")
        return outcome

    async def _downloaded(self, attach: Attach) -> Picture | _Missing:
        try:
            key = reference_key(attach)
            async with self._turn, asyncio.timeout(self._deadline_seconds):
                self._say(f"Downloading image: AttachID={attach.attach_id}")
                data = await self._store.get(key, max_bytes=MAX_BYTES)
                self._say(f"Image downloaded successfully: {len(data)} bytes")
                return await asyncio.to_thread(load_picture, data)
        except TimeoutError:
            seconds = f"{self._deadline_seconds:.0f} s"
            return _Missing(f"the download did not end within {seconds}", transient=True)
        except (StorageError, ReferenceUnavailableError, PictureError) as error:
            return _Missing(str(error), transient=isinstance(error, StorageError) and error.transient)
