"""Make one picture of a job: reserve a slot, call Gemini, encode WebP, upload, commit in one transaction."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from quel_dagster.adapters.counters import Tally
from quel_dagster.adapters.database.records import Committed, Taken, Wait
from quel_dagster.adapters.database.usage import encoded, note_usage
from quel_dagster.adapters.gemini.generation import Spent
from quel_dagster.adapters.gemini.observer import Observer
from quel_dagster.adapters.retry_policy import RESERVATION
from quel_dagster.engine.credits import Credits
from quel_dagster.engine.dependencies import Dependencies
from quel_dagster.engine.outcomes import PictureFailed, PictureMade
from quel_dagster.engine.picture_threads import in_picture_thread
from quel_dagster.engine.stopping import Stop, to_the_end
from quel_dagster.engine.timeline import LogLine
from quel_dagster.errors import (
    DatabaseRefusedError,
    GeminiError,
    GeminiRejectedError,
    GeminiUnavailableError,
    HandedOverError,
    JobCancelledError,
    LeaseLostError,
    PayerError,
    QuelError,
    RunTerminatedError,
    StorageError,
    StorageRefusedError,
)
from quel_dagster.jobs.model import Brief, ImagePart, Slot
from quel_dagster.jobs.models import ImageModel, Usage
from quel_dagster.jobs.pictures import StoredPicture, to_webp
from quel_dagster.jobs.storage_keys import new_picture_key

#: Stop the job after this many consecutive pictures that could not reach Gemini at all.
UNREACHABLE_PICTURES = 3
#: Maximum of thumbnails per unit on its run page.
THUMBNAILS_PER_UNIT = 12
#: Errors that every other picture of the job would hit too: they stop the job.
ENDS_THE_JOB = (
    GeminiRejectedError,
    PayerError,
    JobCancelledError,
    LeaseLostError,
    DatabaseRefusedError,
    StorageRefusedError,
)

#: Errors after which a picture was not attempted, rather than failed.
NO_FAILURE = (JobCancelledError, RunTerminatedError, HandedOverError)

_log = logging.getLogger(__name__)


class _TakenError(Exception):
    """The slot already has a picture: no call is needed."""

    def __init__(self, attach_id: int) -> None:
        self.attach_id = attach_id


@dataclass(frozen=True)
class UnitWork:
    """The data that all pictures of one unit share."""

    brief: Brief
    images: Sequence[ImagePart]
    #: the models to try, in this order
    models: Sequence[ImageModel]
    #: number of pictures that the job plans
    total: int
    #: receives the log lines of the unit's step
    log: LogLine
    #: slot → seconds spent waiting for Gemini's quota, filled in by this module
    quota: MutableMapping[Slot, float]


class PictureMaker:
    """Makes the pictures of one job, at most `max_concurrent_images` at a time; belongs to one event loop."""

    def __init__(
        self,
        dependencies: Dependencies,
        job_id: UUID,
        token: int,
        *,
        credits: Credits,  # noqa: A002  the word of domain.md
        stop: Stop,
        tally: Tally,
        on_commit: Callable[[Slot, Committed], None],
    ) -> None:
        self._dependencies = dependencies
        self._job_id = job_id
        self._token = token
        self._credits = credits
        self._stop = stop
        self._tally = tally
        self._on_commit = on_commit
        self._calls = asyncio.Semaphore(dependencies.max_concurrent_images)
        self._unreachable = 0

    async def make(self, slot: Slot, work: UnitWork) -> PictureMade | PictureFailed:
        """Make one picture. Errors are returned as `PictureFailed`."""
        attempt = _Attempt(self, slot, work)
        try:
            return await attempt.make()
        except _TakenError as taken:
            return PictureMade(slot=slot, attach_id=taken.attach_id, key="", new=False)
        except QuelError as error:
            if isinstance(error, GeminiError):
                self._tally.call_failed(error, retried=False)
            stopped = error is self._stop.reason or isinstance(error, NO_FAILURE)
            self._stop_on(error)  # before an await, in which waiting pictures could begin calls that fail too
            await attempt.give_back()
            work.log(f"Picture {slot.number} of stage {slot.unit} failed: {error}")
            return PictureFailed(slot=slot, reason=str(error), stopped=stopped, usd=attempt.usd)
        except asyncio.CancelledError:
            await attempt.give_back()
            raise
        finally:
            attempt.count()

    def _stop_on(self, error: QuelError) -> None:
        """Stop the job on errors that every other picture would hit too."""
        if isinstance(error, GeminiUnavailableError):
            self._unreachable += 1
            if self._unreachable >= UNREACHABLE_PICTURES:
                self._stop(error)
        elif isinstance(error, GeminiError):
            self._unreachable = 0
        if isinstance(error, ENDS_THE_JOB):
            self._stop(error)


class _Attempt:
    """One attempt to fill a slot, with what has been done so far."""

    def __init__(self, maker: PictureMaker, slot: Slot, work: UnitWork) -> None:
        self._maker = maker
        self._slot = slot
        self._work = work
        self._key: str | None = None
        self._uploading = False
        self._committed: Committed | None = None
        self._spent = Spent()

    @property
    def usage(self) -> str | None:
        """Return the usage of the calls as the database stores it; None when there was no answer."""
        spent = self._spent
        if spent.usage == Usage():
            return None
        return encoded(spent.usage, model=spent.model, calls=spent.calls, usd=spent.cost, notes=spent.notes)

    def count(self) -> None:
        """Count the usage of the calls, once, when the picture has ended."""
        spent, tally = self._spent, self._maker._tally
        for kind, tokens in (("input", spent.usage.input), ("image", spent.usage.image), ("text", spent.usage.text)):
            if tokens:
                tally.add(f"gemini_tokens|{kind}", tokens)
        if spent.cost:
            tally.add("gemini_usd", spent.cost)

    @property
    def usd(self) -> float:
        return self._spent.cost or 0.0

    async def make(self) -> PictureMade:
        """Make the picture. Raises QuelError when that failed, _TakenError when the slot already has one."""
        maker, work, slot, spent = self._maker, self._work, self._slot, self._spent
        dependencies = maker._dependencies
        with maker._stop.stoppable():
            picture = await dependencies.gemini.generate(
                text=work.brief.text,
                parts=work.images,
                aspect_ratio=work.brief.aspect_ratio,
                accept=_to_webp,
                models=work.models,
                size_of=lambda made: (made.width, made.height),
                spent=spent,
                turn=self._turn,
                observer=_Story(slot, work, maker._tally),
            )
            maker._tally.picture_made(gemini_seconds=spent.calling)
            maker._unreachable = 0
            assert self._key is not None  # noqa: S101  _turn has reserved the slot
            uploading = time.monotonic()
            self._uploading = True
            await dependencies.store.put(self._key, picture.data, content_type="image/webp", report=work.log)
        committing = time.monotonic()
        # A stop or a cancelled step may arrive during the transaction: wait for its answer in any case.
        committed, committed_at = await to_the_end(self._commit(picture))
        return PictureMade(
            slot=slot,
            attach_id=committed.attach_id,
            key=committed.key,
            new=not committed.taken,
            size=len(picture.data),
            width=picture.width,
            height=picture.height,
            attempts=spent.calls,
            model=spent.model,
            usd=spent.cost,
            input_tokens=spent.usage.input,
            image_tokens=spent.usage.image,
            text_tokens=spent.usage.text,
            notes=tuple(spent.notes),
            gemini_seconds=round(spent.calling, 3),
            waited_seconds=round(spent.waiting, 3),
            quota_seconds=round(work.quota.get(slot, 0.0), 3),
            storage_seconds=round(committing - uploading, 3),
            database_seconds=round(committed_at - committing, 3),
            thumbnail=base64.b64encode(picture.thumbnail).decode() if slot.number < THUMBNAILS_PER_UNIT else None,
            balance=committed.balance,
        )

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Hold one of the job's concurrent calls (domain.md §9), with a reserved slot (§8)."""
        maker = self._maker
        for refused in itertools.count(1):
            async with maker._calls:
                maker._stop.check()  # it may have come while this picture waited for its turn
                await maker._dependencies.store.wait_until_available(self._work.log, maker._stop.check)
                if self._key is not None or await self._reserve():
                    yield
                    return
            # The credits are reserved for other pictures, which may need this turn to finish.
            await asyncio.sleep(RESERVATION.pause(refused))

    async def _reserve(self) -> bool:
        """Reserve the slot. Return False while the payer's credits are reserved for other pictures."""
        maker = self._maker
        key = new_picture_key(maker._credits.member_id, maker._job_id, self._slot)
        answer = await maker._credits.reserve(self._slot, key)
        if isinstance(answer, Taken):
            raise _TakenError(answer.attach_id)
        if isinstance(answer, Wait):
            return False
        self._key = key
        return True

    async def _commit(self, picture: StoredPicture) -> tuple[Committed, float]:
        """Commit the uploaded picture and log it.

        Returns:
            the answer of the database, and its time (monotonic seconds).
        """
        assert self._key is not None  # noqa: S101  _turn has reserved the slot
        maker, work = self._maker, self._work
        committed = await maker._dependencies.database.work.commit_picture(
            maker._job_id,
            maker._token,
            self._slot,
            key=self._key,
            size=len(picture.data),
            sha256=hashlib.sha256(picture.data).hexdigest(),
            storage=maker._dependencies.store.backend,
            price=maker._credits.price,
            total=work.total,
            usage=self.usage,
        )
        self._committed = committed
        committed_at = time.monotonic()
        maker._on_commit(self._slot, committed)
        # Log at once: another unit may end the job, and with it the timeline, before this step continues.
        work.log(f"Attach record created: ID={committed.attach_id}")
        work.log(f"📊 Updating job progress: {committed.completed}/{work.total} completed")
        if committed.key != self._key:  # another worker filled the slot
            await self._delete()
        return committed, committed_at

    async def give_back(self) -> None:
        """Release the slot; delete what was stored for a picture that is not paid for (domain.md §8)."""
        if self._key is not None and self._committed is None:
            await to_the_end(self._release())

    async def _release(self) -> None:
        maker = self._maker
        try:
            await maker._dependencies.database.work.release_slot(
                maker._job_id, maker._token, self._slot, stored=self._uploading
            )
            if self._uploading:
                await self._delete()
            await note_usage(maker._dependencies.database, maker._job_id, self._slot, self.usage)
        except (QuelError, DBAPIError) as error:  # the slot stays open: the job's end notes its object for deletion
            _log.warning("Slot %s of job %s was not released: %s", self._slot, maker._job_id, error)

    async def _delete(self) -> None:
        assert self._key is not None  # noqa: S101
        dependencies = self._maker._dependencies
        try:
            await dependencies.store.delete(self._key)
        except StorageError as error:
            _log.warning("Object %s is not deleted yet: %s", self._key, error)
        else:
            await dependencies.database.work.forget_orphans([self._key])


class _Story(Observer):
    """Writes the events of a picture into the run's log, and counts them."""

    def __init__(self, slot: Slot, work: UnitWork, tally: Tally) -> None:
        self._slot = slot
        self._work = work
        self._tally = tally

    @override
    def waiting(self, reason: str) -> None:
        self._work.log(reason)

    @override
    def admitted(self, seconds: float) -> None:
        self._work.quota[self._slot] = self._work.quota.get(self._slot, 0.0) + seconds

    @override
    def calling(self, number: int) -> None:
        self._work.log("Calling Gemini API")

    @override
    def retrying(self, number: int, error: GeminiError, pause: float) -> None:
        self._tally.call_failed(error, retried=True)
        self._work.log(f"Attempt {number} failed, next in {pause:.1f} s: {error}")

    @override
    def noted(self, note: str) -> None:
        self._work.log(note)


async def _to_webp(data: bytes) -> StoredPicture:
    return await in_picture_thread(to_webp, data)
