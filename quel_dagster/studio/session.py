"""One run's work on one job: claimed with a lease, planned, made picture by picture, settled.

A session lives on one event loop and knows nothing of Dagster. Whatever stops it (the user's cancel, a lost
lease, an empty balance, a refused key) cancels the Gemini calls under way, and keeps what is made.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import anyio
from redis import RedisError
from sqlalchemy.exc import DBAPIError

from quel_dagster.adapters.counters import Counters, Tally
from quel_dagster.adapters.database.lease import LeaseKeeper
from quel_dagster.adapters.database.records import Claim, Made, Payer
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.gemini import GeminiClient
from quel_dagster.adapters.gemini_quota import GeminiQuota
from quel_dagster.adapters.queue import CancelFlags
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.errors import (
    GeminiError,
    GeminiRejectedError,
    GeminiUnavailableError,
    HandedOverError,
    InsufficientCreditsError,
    JobCancelledError,
    LeaseLostError,
    PayerError,
    QuelError,
    ReferenceUnavailableError,
    RunTerminatedError,
)
from quel_dagster.jobs.composing import compose, wanted_references
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Brief, ImagePart, JobStatus, Plan, Slot, Unit
from quel_dagster.jobs.pictures import StoredPicture, render_part, thumbnail, to_webp
from quel_dagster.jobs.planning import plan_job
from quel_dagster.jobs.storage_keys import picture_key, slot_of_key
from quel_dagster.studio.outcomes import JobOutcome, PictureFailed, PictureMade, Planned, UnitOutcome
from quel_dagster.studio.references import ReferenceShelf
from quel_dagster.studio.timeline import Say, Timeline

#: A user's cancel is seen within two seconds; the flag is looked at twice in that time.
CANCEL_POLL_SECONDS = 0.9
#: After this many pictures in a row that could not even reach Gemini, the job is not worth going on.
UNREACHABLE_PICTURES = 3
#: A commit tells the balance; a unit that begins within this time need not ask. The charge itself never relies on it.
BALANCE_FRESH_SECONDS = 5.0
#: Thumbnails of one unit that travel to its run page.
THUMBNAILS_PER_UNIT = 12

_say: ContextVar[Say] = ContextVar("say")


@dataclass(frozen=True)
class Parts:
    """The outside parts that a session works with, each replaceable."""

    database: Database
    database_url: str
    store: ObjectStore
    gemini: GeminiClient
    #: the gate of `gemini`
    quota: GeminiQuota
    cancel_flags: CancelFlags
    counters: Counters
    #: credits per picture
    price: int
    #: Gemini calls of one job at a time
    max_concurrent_images: int
    limits: Limits


class JobSession:
    """Made by `JobSession.open`; give it back with `close`."""

    def __init__(self, parts: Parts, claim: Claim, run_id: str) -> None:
        self.job = claim.job
        self.took_over_from = claim.took_over_from
        self.run_id = run_id
        self.settled: JobOutcome | None = None
        self._parts = parts
        self._token = claim.token
        self._plan: Plan | None = None
        self._payer: Payer | None = None
        self._claim = claim
        self._covered: dict[Slot, int] = {}
        self._calls = asyncio.Semaphore(parts.max_concurrent_images)
        self._stop_reason: QuelError | None = None
        self._scopes: set[anyio.CancelScope] = set()
        self._begun = False
        self._closed = False
        self._beginning = asyncio.Lock()
        self._ending = asyncio.Lock()
        self._unreachable = 0
        self._made_now = 0
        self._latest_commit = 0
        self._balance: int | None = None
        #: when it was that, by the monotonic clock
        self._balance_at = -BALANCE_FRESH_SECONDS
        self._opening_balance: int | None = None
        self._claimed_at = datetime.now(UTC)
        self._first_picture_seconds: float | None = None
        self._tally = Tally()
        self._timeline = Timeline()
        self._timeline.note("load_job", f"Received new job: {self.job.job_id}")
        self._shelf = ReferenceShelf(find_attaches=parts.database.find_attaches, store=parts.store, say=_say_here)
        loop = asyncio.get_running_loop()
        self._keeper = LeaseKeeper(
            parts.database_url,
            job_id=self.job.job_id,
            token=self._token,
            on_lost=lambda: _later(loop, self.stop, LeaseLostError()),
        )
        parts.quota.look_ahead()
        #: was the job cancelled before it was claimed? Asked at once, beside what comes before the beginning
        self._first_look = asyncio.create_task(self._cancel_asked(), name=f"first look at {self.job.job_id}")
        self._watcher = asyncio.create_task(self._watch_cancel(), name=f"cancel flag of {self.job.job_id}")

    @classmethod
    async def open(cls, parts: Parts, job_id: UUID, *, run_id: str, retry_of: Iterable[str] = ()) -> JobSession:
        """Claim the job for a run.

        Raises:
            JobNotFoundError: no such row.
            LeaseHeldError: another run is at work on it.
        """
        claim = await parts.database.claim(
            job_id, run_id=run_id, retry_of=retry_of, worker=f"{socket.gethostname()}:{os.getpid()}"
        )
        session = cls(parts, claim, run_id)
        if claim.cancelled:
            session.stop(JobCancelledError(f"Job {job_id} was cancelled by the user."))
        return session

    async def close(self) -> None:
        """The run is over: end its job with the reason for which it was stopped, unless `settle` did.

        A job that had ended before, and in which this run changed nothing, stays as it is. A run that nobody stopped
        broke off: its job is left to a retry, or to whoever ends the jobs of runs that failed for good.
        """
        handed_over = self.handed_over
        broken = self.settled is None and self._stop_reason is None
        self._closed = True
        self.stop(QuelError(f"Run {self.run_id} broke off; its page says why."))
        try:
            if handed_over:
                await self._parts.database.hand_over(self.job.job_id, self._token)
            elif self.settled is None and not broken and (self._begun or not self.job.job_status.ended):
                terminated = isinstance(self._stop_reason, RunTerminatedError)
                await self._end(JobStatus.CANCELLED if terminated else JobStatus.FAILED, str(self._stop_reason))
        except LeaseLostError:
            pass  # another run's job by now
        finally:
            self._keeper.stop()
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            await self._shelf.aclose()
            if self.settled is None and not handed_over:
                await self._parts.database.release(self.job.job_id, self._token)
            with suppress(RedisError, OSError):  # graphs can do without
                await self._parts.counters.add(self._tally.counts)

    # --- stopping ------------------------------------------------------------------------------------

    @property
    def stop_reason(self) -> QuelError | None:
        """Why no more pictures are made; None while work goes on."""
        return self._stop_reason

    def stop(self, reason: QuelError) -> None:
        """Make no more pictures: cancel the calls under way, refuse those to come. The first reason stays."""
        if self._stop_reason is None or isinstance(self._stop_reason, HandedOverError):
            self._stop_reason = reason
            for scope in self._scopes:
                scope.cancel()

    def drain(self) -> None:
        """This worker is stopping: finish the calls under way, begin no others."""
        if self._stop_reason is None:
            self._stop_reason = HandedOverError()

    @property
    def handed_over(self) -> bool:
        """Is the rest of the job for another worker?"""
        return isinstance(self._stop_reason, HandedOverError) and self.settled is None

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Work that `stop` cuts short; raises the reason of the stop."""
        if self._stop_reason is not None:
            raise self._stop_reason
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught and self._stop_reason is not None:
            raise self._stop_reason

    async def _watch_cancel(self) -> None:
        asked = await self._first_look
        while not (asked or self._closed):  # redis-py may swallow the cancellation of this task
            await asyncio.sleep(CANCEL_POLL_SECONDS)
            asked = await self._cancel_asked()
        if asked:
            self._stop_for_user()

    def _stop_for_user(self) -> None:
        self.stop(JobCancelledError(f"Job {self.job.job_id} was cancelled by the user."))

    async def _cancel_asked(self) -> bool:
        """Look at the flag; keep it for good when it is set. A server that is away is asked again at the next look."""
        try:
            asked = await self._parts.cancel_flags.is_set(self.job.job_id)
            if asked:
                await self._parts.database.keep_cancel(self.job.job_id)
        except (RedisError, OSError, DBAPIError):
            return False
        return asked

    # --- planning ------------------------------------------------------------------------------------

    async def plan(self, say: Say, only: Collection[str] = ()) -> Planned:
        """Read the job's input, look who pays, and enter `processing` if there is anything to make.

        Args:
            only: keys of the units to make; all when empty. The job ends as what it then has.

        Raises:
            JobInputError: the input cannot be used; names the field.
            PayerError, InsufficientCreditsError: nobody can pay.
            JobCancelledError, LeaseLostError
        """
        say = self._timeline.noting("plan_units", say)
        plan = await self._planned()
        for repair in plan.repairs:
            say(f"Repaired {repair}")
        missing = self._missing(plan.units)
        units = tuple(unit for unit in plan.units if not only or unit.key in only)
        if self._missing(units):
            await self._begin()
        return Planned(
            job_id=self.job.job_id,
            category=plan.category,
            job_type=plan.job_type,
            units=units,
            left_out=tuple(unit.key for unit in plan.units if unit not in units and self._missing((unit,))),
            repairs=plan.repairs,
            total=plan.total,
            made_before=plan.total - missing,
            payer=self._payer.name if self._payer else "",
            balance=self._balance,
        )

    async def _begin(self) -> None:
        """Enter `processing`, once per session: nobody cancelled, and somebody can pay.

        Raises:
            PayerError, InsufficientCreditsError, JobCancelledError, LeaseLostError
        """
        async with self._beginning:
            if self._begun:
                return
            if await asyncio.shield(self._first_look):
                self._stop_for_user()
            if self._stop_reason is not None:
                raise self._stop_reason
            payer = await self._parts.database.begin(
                self.job,
                self._token,
                claimed_id=self._plan.claimed_user_id if self._plan else None,
                price=self._parts.price,
            )
            self._solvent(payer)
            self._begun = True

    async def _planned(self) -> Plan:
        if self._plan is None:
            self._plan = await asyncio.to_thread(plan_job, self.job, self._parts.limits)
            self._covered = covered_slots(self._plan, self._claim.made)
        return self._plan

    def _missing(self, units: Iterable[Unit]) -> int:
        return sum(1 for unit in units for slot in slots(unit) if slot not in self._covered)

    async def _solvent_payer(self) -> Payer:
        """The payer, who is looked at anew unless the last answer about the balance is fresh.

        Raises:
            PayerError, InsufficientCreditsError
        """
        fresh = time.monotonic() - self._balance_at < BALANCE_FRESH_SECONDS
        if self._payer is not None and fresh and (self._balance or 0) >= self._parts.price:
            return self._payer
        claimed = self._plan.claimed_user_id if self._plan else None
        return self._solvent(await self._parts.database.payer(claimed_id=claimed, job=self.job))

    def _solvent(self, payer: Payer | None) -> Payer:
        """The payer as it is now, who can pay for one picture at least.

        Raises:
            PayerError, InsufficientCreditsError
        """
        if payer is None:
            raise PayerError(
                f"Job {self.job.job_id}: neither userId nor quel_member_id is a member, so nobody can be charged."
            )
        self._payer = payer
        self._balance, self._balance_at = payer.balance, time.monotonic()
        if self._opening_balance is None:
            self._opening_balance = payer.balance
        if payer.balance < self._parts.price:
            raise InsufficientCreditsError(
                f"The {payer.name} has {payer.balance} credits, a picture costs {self._parts.price}; "
                "add credits and run the job again."
            )
        return payer

    # --- making --------------------------------------------------------------------------------------

    async def make(self, unit: Unit, say: Say) -> UnitOutcome:
        """Make the pictures of a unit that are missing. What goes wrong with a picture is in the outcome.

        The unit that completes the job ends it.

        Raises:
            RunTerminatedError: an operator stopped the run meanwhile.
        """
        say = self._timeline.noting(unit.key, say)
        _say.set(say)
        started = time.monotonic()
        prepare_seconds = 0.0
        quota: dict[Slot, float] = {}
        plan = await self._planned()
        say(f"🎬 Stage {unit.index}/{len(plan.units)}: Processing {unit.quantity} images")
        before = [
            PictureMade(slot=slot, attach_id=self._covered[slot], key="", new=False)
            for slot in slots(unit)
            if slot in self._covered
        ]
        missing = [slot for slot in slots(unit) if slot not in self._covered]
        brief: Brief | None = None
        results: Sequence[PictureMade | PictureFailed] = ()
        if missing:
            try:
                await self._begin()
                with self._stoppable():
                    payer = await self._solvent_payer()
                    preparing = time.monotonic()
                    brief, images = await self._prepare(unit, plan)
                    prepare_seconds = time.monotonic() - preparing
                results = await asyncio.gather(
                    *(
                        self._picture(slot, brief, images, payer=payer, plan=plan, say=say, quota=quota)
                        for slot in missing
                    )
                )
            except QuelError as error:
                self._stop_on(error)
                results = [PictureFailed(slot=slot, reason=str(error)) for slot in missing]
        if isinstance(self._stop_reason, RunTerminatedError):
            raise self._stop_reason
        say(f"Stage {unit.index} completed")
        await self._end_if_whole(plan)
        return UnitOutcome(
            unit=unit,
            run_id=self.run_id,
            made=tuple(
                sorted(
                    [*before, *(result for result in results if isinstance(result, PictureMade))],
                    key=lambda made: made.slot.number,
                )
            ),
            failed=tuple(result for result in results if isinstance(result, PictureFailed)),
            parts=brief.parts if brief else (),
            text=brief.text if brief else "",
            warnings=brief.warnings if brief else (),
            seconds=time.monotonic() - started,
            prepare_seconds=prepare_seconds,
            quota_seconds=round(sum(quota.values()), 3),
        )

    async def _end_if_whole(self, plan: Plan) -> None:
        """End a job that has all of its pictures at once: nobody waits for what else a run does before it settles."""
        async with self._ending:
            going_on = self._stop_reason is None or isinstance(self._stop_reason, HandedOverError)
            if not (self._begun and going_on and self.settled is None) or self._missing(plan.units):
                return
            try:
                await self._end(JobStatus.COMPLETED, None)
            except LeaseLostError as error:
                self.stop(error)

    async def _prepare(self, unit: Unit, plan: Plan) -> tuple[Brief, tuple[ImagePart, ...]]:
        """Fetch the unit's references, compose the text for those that are there, encode the image parts.

        Raises:
            ReferenceUnavailableError: the unit has references and none could be had (domain.md §5).
        """
        wanted = wanted_references(unit, plan.category)
        fetched = await self._shelf.fetch(wanted)
        if wanted and not fetched.pictures:
            first = next(iter(fetched.missing.values()))
            raise ReferenceUnavailableError(f"None of the {len(wanted)} reference pictures could be had: {first}")
        brief = compose(unit, plan.category, fetched.pictures.keys())
        for warning in brief.warnings:
            _say.get()(warning)
        images = await asyncio.gather(
            *(asyncio.to_thread(render_part, part, fetched.pictures, unit.aspect_ratio) for part in brief.parts)
        )
        return brief, tuple(images)

    async def _picture(
        self,
        slot: Slot,
        brief: Brief,
        images: Sequence[ImagePart],
        *,
        payer: Payer,
        plan: Plan,
        say: Say,
        quota: MutableMapping[Slot, float],
    ) -> PictureMade | PictureFailed:
        """One picture: Gemini, WebP, object store, the one transaction; `quota` gets its wait for Gemini's."""

        def admitted(seconds: float) -> None:
            quota[slot] = quota.get(slot, 0.0) + seconds

        try:
            with self._stoppable():
                generation = await self._parts.gemini.generate(
                    text=brief.text,
                    parts=images,
                    aspect_ratio=brief.aspect_ratio,
                    accept=_to_webp,
                    turn=self._turn,
                    on_wait=say,
                    on_admitted=admitted,
                    on_call=lambda _attempt: say("Calling Gemini API"),
                    on_retry=lambda attempt, error, pause: self._retrying(attempt, error, pause, say),
                )
                self._tally.picture_made(gemini_seconds=generation.seconds)
                self._unreachable = 0
                picture = generation.result
                key = picture_key(payer.member_id, self.job.job_id, slot)
                uploading = time.monotonic()
                await self._parts.store.put(key, picture.data, content_type="image/webp")
            committing = time.monotonic()
            # A stop may come while the transaction is under way: its answer is awaited all the same.
            with anyio.CancelScope(shield=True):
                committed = await self._parts.database.commit_picture(
                    self.job.job_id,
                    self._token,
                    member_id=payer.member_id,
                    key=key,
                    size=len(picture.data),
                    storage=self._parts.store.backend,
                    price=self._parts.price,
                    total=plan.total,
                )
                committed_at = time.monotonic()
                small = base64.b64encode(await asyncio.to_thread(thumbnail, picture.data)).decode()
        except QuelError as error:
            if isinstance(error, GeminiError):
                self._tally.call_failed(error, retried=False)
            self._stop_on(error)
            say(f"Picture {slot.number} of stage {slot.unit} failed: {error}")
            return PictureFailed(slot=slot, reason=str(error))
        self._covered[slot] = committed.attach_id
        if not committed.taken:
            self._made_now += 1
            self._tally.add("pictures")
            self._tally.add("credits", self._parts.price)
            if committed.completed > self._latest_commit:  # answers may overtake each other
                self._latest_commit, self._balance = committed.completed, committed.balance
                self._balance_at = committed_at
            if self._first_picture_seconds is None:
                self._first_picture_seconds = self._timeline.seconds
        say(f"Attach record created: ID={committed.attach_id}")
        say(f"📊 Updating job progress: {committed.completed}/{plan.total} completed")
        return PictureMade(
            slot=slot,
            attach_id=committed.attach_id,
            key=key,
            new=not committed.taken,
            size=len(picture.data),
            width=picture.width,
            height=picture.height,
            attempts=generation.attempts,
            gemini_seconds=round(generation.seconds, 3),
            waited_seconds=round(generation.waited, 3),
            quota_seconds=round(quota.get(slot, 0.0), 3),
            storage_seconds=round(committing - uploading, 3),
            database_seconds=round(committed_at - committing, 3),
            thumbnail=small if slot.number < THUMBNAILS_PER_UNIT else None,
            balance=committed.balance,
        )

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of the job's calls at a time, over all its units (domain.md §9)."""
        async with self._calls:
            if self._stop_reason is not None:  # it came while this picture waited for its turn
                raise self._stop_reason
            yield

    def _retrying(self, attempt: int, error: GeminiError, pause: float, say: Say) -> None:
        self._tally.call_failed(error, retried=True)
        say(f"Attempt {attempt} failed, next in {pause:.1f} s: {error}")

    def _stop_on(self, error: QuelError) -> None:
        """Some failures are not a picture's but the job's: nothing else would fare better."""
        if isinstance(error, GeminiUnavailableError):
            self._unreachable += 1
            if self._unreachable >= UNREACHABLE_PICTURES:
                self.stop(error)
        elif isinstance(error, GeminiError):
            self._unreachable = 0
        if isinstance(error, GeminiRejectedError | PayerError | JobCancelledError | LeaseLostError):
            self.stop(error)

    # --- settling ------------------------------------------------------------------------------------

    async def settle(
        self, outcomes: Sequence[UnitOutcome], say: Say, left_out: Sequence[str] = ()
    ) -> tuple[JobOutcome, tuple[UnitOutcome, ...]]:
        """Make what an earlier run left missing, then end the job (domain.md §3), unless its last picture did.

        Args:
            left_out: keys of units that were not to be made, for the job's `error_message`.

        Returns:
            how the job ended, and the outcomes as they are now, in unit order.

        Raises:
            RunTerminatedError, LeaseLostError
            HandedOverError: this worker is stopping; the job is for another one to end.
        """
        stop = self._stop_reason
        if self.settled is None and isinstance(stop, RunTerminatedError | HandedOverError):
            raise stop
        stale = [outcome.unit for outcome in outcomes if outcome.failed and outcome.run_id != self.run_id]
        if stale:
            remade = await asyncio.gather(*(self.make(unit, say) for unit in stale))
            again = {outcome.unit.index: outcome for outcome in remade}
            outcomes = [again.get(outcome.unit.index, outcome) for outcome in outcomes]
        ordered = tuple(sorted(outcomes, key=lambda outcome: outcome.unit.index))
        if self.settled is not None:
            return self.settled, ordered
        plan = await self._planned()
        wanted = [unit for unit in plan.units if unit.key not in left_out]
        if not self._begun and (
            self.job.job_status is JobStatus.USER_CANCELLED
            or (self.job.job_status is JobStatus.COMPLETED and self._missing(wanted) == 0)
        ):
            # Nothing was to be made: the rows are as they should be, and stay as they are.
            return self._untouched(plan), ordered
        error = _failures(ordered, self._stop_reason) or _left_out(left_out)
        return await self._end(JobStatus.COMPLETED, error), ordered

    async def _end(self, status: JobStatus, error: str | None) -> JobOutcome:
        plan = self._plan
        total = plan.total if plan else max(0, self.job.total_images)
        inputs = {ref.attach_id for unit in plan.units for ref in unit.references} if plan else set()
        settled = await self._parts.database.settle(
            self.job.job_id, self._token, status=status, total=total, error=error, inputs=len(inputs)
        )
        self._keeper.stop()
        self._tally.add(f"jobs|{settled.status}")
        self._timeline.note("settle", f"Job {self.job.job_id} ended {settled.status}")
        self.settled = JobOutcome(
            job_id=self.job.job_id,
            status=settled.status,
            completed=settled.completed,
            failed=settled.failed,
            attach_ids=settled.attach_ids,
            error=settled.error,
            made_now=self._made_now,
            charged_now=self._made_now * self._parts.price,
            payer=self._payer.name if self._payer else "",
            balance_before=self._opening_balance,
            balance=self._balance,
            price=self._parts.price,
            claimed_at=self._claimed_at,
            first_picture_seconds=self._first_picture_seconds,
            seconds=self._timeline.seconds,
            timeline=self._timeline.moments(),
        )
        return self.settled

    def _untouched(self, plan: Plan) -> JobOutcome:
        return JobOutcome(
            job_id=self.job.job_id,
            status=self.job.job_status,
            completed=len(self._claim.made),
            failed=max(0, plan.total - len(self._claim.made)),
            attach_ids=tuple(made.attach_id for made in self._claim.made),
            error=None,
            made_now=0,
            charged_now=0,
            balance=None,
            price=self._parts.price,
            claimed_at=self._claimed_at,
            seconds=self._timeline.seconds,
            timeline=self._timeline.moments(),
        )


def slots(unit: Unit) -> list[Slot]:
    """The places of a unit's pictures."""
    return [Slot(unit=unit.index, number=number) for number in range(unit.quantity)]


def covered_slots(plan: Plan, made: Sequence[Made]) -> dict[Slot, int]:
    """Which slots the job's pictures fill. Pictures of another worker have no slot: they fill the first free ones."""
    covered: dict[Slot, int] = {}
    foreign: list[int] = []
    for picture in made:
        slot = slot_of_key(picture.key or "", plan.job_id)
        if slot is None:
            foreign.append(picture.attach_id)
        else:
            covered[slot] = picture.attach_id
    free = (slot for unit in plan.units for slot in slots(unit) if slot not in covered)
    covered.update(zip(list(free)[: len(foreign)], foreign, strict=False))
    return covered


def _say_here(line: str) -> None:
    """Say it in the step that asked."""
    _say.get()(line)


def _later(loop: asyncio.AbstractEventLoop, function: Callable[[QuelError], None], reason: QuelError) -> None:
    """Call on the session's loop, from another thread."""
    with suppress(RuntimeError):  # the loop is closed: there is nothing left to stop
        loop.call_soon_threadsafe(function, reason)


async def _to_webp(data: bytes) -> StoredPicture:
    return await asyncio.to_thread(to_webp, data)


def _left_out(keys: Sequence[str]) -> str | None:
    if not keys:
        return None
    more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
    return (
        f"Some units were left out, as the run was told: {', '.join(keys[:8])}{more}; run the whole job for the rest."
    )


def _failures(outcomes: Sequence[UnitOutcome], stop: QuelError | None) -> str | None:
    """Which pictures are missing and why, one line (domain.md §3)."""
    failed = [(outcome.unit, failure) for outcome in outcomes for failure in outcome.failed]
    if not failed:
        return str(stop) if stop else None
    total = sum(outcome.unit.quantity for outcome in outcomes)
    reasons: dict[str, list[str]] = {}
    for unit, failure in failed:
        reasons.setdefault(failure.reason, []).append(f"{unit.key} #{failure.slot.number}")
    told = "; ".join(
        f"{', '.join(places[:8])}{' …' if len(places) > 8 else ''}: {why}" for why, places in reasons.items()
    )
    return f"{len(failed)} of {total} pictures failed. {told}"[:2000]
