"""One run's work on one job: claim it with a lease, plan, make the pictures, settle.

A session lives on one event loop and does not know Dagster. It coordinates: `stopping` holds the stop reason,
`credits` the payer, `progress` the pictures that exist; `unit` and `picture` make pictures, `ending` ends the job.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from uuid import UUID

from redis import RedisError
from sqlalchemy.exc import DBAPIError

from quel_dagster.adapters.counters import Tally
from quel_dagster.adapters.database.lease import LeaseRenewer
from quel_dagster.adapters.database.records import Claim, Committed
from quel_dagster.adapters.database.work import cancelled
from quel_dagster.engine.credits import Credits
from quel_dagster.engine.dependencies import Dependencies
from quel_dagster.engine.ending import JobEnd
from quel_dagster.engine.outcomes import JobOutcome, Planned, UnitOutcome
from quel_dagster.engine.picture import PictureMaker
from quel_dagster.engine.progress import Progress
from quel_dagster.engine.reference_cache import ReferenceCache
from quel_dagster.engine.stopping import Stop
from quel_dagster.engine.timeline import LogLine, Timeline
from quel_dagster.engine.unit import UnitMaker
from quel_dagster.engine.wording import failures, left_out_units
from quel_dagster.errors import (
    DatabaseRefusedError,
    HandedOverError,
    JobPoisonedError,
    LeaseLostError,
    QuelError,
    RunTerminatedError,
)
from quel_dagster.jobs.composing import wanted_references
from quel_dagster.jobs.model import JobStatus, Plan, Slot, Unit
from quel_dagster.jobs.planning import plan_job

#: Seconds before the next attempt to claim, while a suspected job has a worker process to itself.
PROBATION_PAUSE_SECONDS = 0.5

_step_log: ContextVar[LogLine] = ContextVar("log")
_log = logging.getLogger(__name__)


class JobSession:
    """The work of one run on one job. Create it with `JobSession.open`, release it with `close`."""

    def __init__(self, dependencies: Dependencies, claim: Claim, run_id: str) -> None:
        self.job = claim.job
        self.took_over_from = claim.took_over_from
        self.run_id = run_id
        self._dependencies = dependencies
        self._token = claim.token
        self._plan: Plan | None = None
        self._begun = False
        self._beginning = asyncio.Lock()
        self._ending = asyncio.Lock()
        self._tally = Tally()
        self._timeline = Timeline()
        self._timeline.note("load_job", f"Received new job: {self.job.job_id}")
        self._progress = Progress(claim.made, self._timeline)
        self._references = ReferenceCache(
            find_attaches=dependencies.database.work.find_attaches,
            store=dependencies.store,
            max_bytes=dependencies.limits.max_reference_bytes,
            log=_log_to_step,
        )
        self.stop = Stop(
            self._read_cancel_flags,
            partial(dependencies.cancel_flags.seen, self.job.job_id),
            name=str(self.job.job_id),
        )
        self._credits = Credits(dependencies.database, self.job.job_id, self._token, price=dependencies.price)
        self._end = JobEnd(
            dependencies.database.work,
            claim,
            progress=self._progress,
            credits=self._credits,
            timeline=self._timeline,
            tally=self._tally,
        )
        self._units = UnitMaker(
            run_id,
            dependencies.limits,
            begin=self._begin,
            progress=self._progress,
            credits=self._credits,
            references=self._references,
            pictures=PictureMaker(
                dependencies,
                self.job.job_id,
                self._token,
                credits=self._credits,
                stop=self.stop,
                tally=self._tally,
                on_commit=self._note_commit,
            ),
            stop=self.stop,
        )
        loop = asyncio.get_running_loop()
        self._renewer = LeaseRenewer(
            dependencies.database_url,
            job_id=self.job.job_id,
            token=self._token,
            on_lost=lambda: _later(loop, self._lose_lease),
        )
        dependencies.quota.look_ahead()

    @classmethod
    async def open(
        cls, dependencies: Dependencies, job_id: UUID, *, run_id: str, retry_of: Iterable[str] = ()
    ) -> JobSession:
        """Claim the job for a run. Wait while a job that ended its worker processes is tried alone.

        Raises:
            JobNotFoundError: no such row.
            LeaseHeldError: another run works on the job.
        """
        worker = f"{socket.gethostname()}:{os.getpid()}"
        retried = tuple(retry_of)
        while True:
            claim = await dependencies.database.work.claim(job_id, run_id=run_id, retry_of=retried, worker=worker)
            if claim is not None:
                break
            await asyncio.sleep(PROBATION_PAUSE_SECONDS)
        if claim.job.job_status.ended:
            with suppress(RedisError, OSError):  # the flag expires within the hour
                await dependencies.cancel_flags.forget_operator(job_id)
        session = cls(dependencies, claim, run_id)
        if claim.cancelled_by is not None:
            session.stop(cancelled(job_id, claim.cancelled_by))
        elif claim.poisoned:
            session.stop(
                JobPoisonedError(
                    f"{claim.deaths} worker processes in a row died with this job, without one picture more; it is "
                    "given up. Look at its reference pictures, then run it again."
                )
            )
        return session

    async def close(self) -> None:
        """Close at the end of the run: end a stopped job with its reason, unless `settle` already ended it.

        A job that had ended before, unchanged by this run, keeps its row. A run that died without a stop leaves its
        job to a retry, or to the sensors that end the jobs of dead runs.
        """
        handed_over = self.handed_over
        reason = self.stop.reason
        self.stop.close(QuelError(f"Run {self.run_id} ended early; its page shows the reason."))
        given_back = handed_over
        try:
            if handed_over:
                await self._dependencies.database.work.hand_over(self.job.job_id, self._token)
            elif self.settled is None and reason is not None and self._is_open:
                terminated = isinstance(reason, RunTerminatedError)
                await self._end_job(JobStatus.CANCELLED if terminated else JobStatus.FAILED, str(reason))
        except LeaseLostError:
            pass  # the job belongs to another run now
        except DatabaseRefusedError as refused:
            _log.warning("Job %s cannot be ended: %s", self.job.job_id, refused)
            await self._dependencies.database.work.note_trouble(self.job.job_id, self._token, str(refused))
            given_back = True
        finally:
            self._renewer.stop()
            await self.stop.aclose()
            await self._references.aclose()
            if self.settled is None and not given_back:
                # Without a lease's row the sweep takes a job in processing for the older worker's.
                if self._is_open:
                    await self._dependencies.database.work.hand_over(self.job.job_id, self._token)
                else:
                    await self._dependencies.database.work.release(self.job.job_id, self._token)
            with suppress(RedisError, OSError):  # a lost counter only affects the graphs
                await self._dependencies.counters.add(self._tally.counts)

    @property
    def _is_open(self) -> bool:
        """Return whether this run has a job to end: one that had not ended, or that it has begun again."""
        return self._begun or not self.job.job_status.ended

    # --- stopping ------------------------------------------------------------------------------------

    @property
    def settled(self) -> JobOutcome | None:
        """How the job ended; None while it is open."""
        return self._end.outcome

    def _lose_lease(self) -> None:
        """Stop: another run has the lease. While the job is being ended, that transaction itself finds out."""
        if not self._end.begun:
            self.stop(LeaseLostError())

    async def obey_operators_cancel(self) -> None:
        """Stop when an operator cancelled this job while its id or its run waited; `quel retry` lifts the cancel."""
        if await self._dependencies.database.work.is_cancelled_by_operator(self.job.job_id):
            self.stop(cancelled(self.job.job_id, "operator"))

    def drain(self) -> None:
        """Prepare to stop this worker: finish the calls under way, begin no new ones."""
        self.stop.drain()

    @property
    def handed_over(self) -> bool:
        """Return whether another worker should finish the job."""
        return self.stop.is_hand_over and self.settled is None

    async def _read_cancel_flags(self) -> QuelError | None:
        """Read the cancel flags; record a user's cancel in the database. On connection errors the next poll retries."""
        try:
            by = await self._dependencies.cancel_flags.cancelled_by(self.job.job_id)
            if by == "user":
                await self._dependencies.database.work.keep_cancel(self.job.job_id)
        except (RedisError, OSError, DBAPIError, DatabaseRefusedError):
            return None
        return cancelled(self.job.job_id, by) if by else None

    # --- planning ------------------------------------------------------------------------------------

    async def plan(self, log: LogLine, only: Collection[str] = ()) -> Planned:
        """Read the job's input, find the payer, and enter `processing` if there is anything to make.

        Args:
            only: keys of the units to make; empty: all. The job then ends with the pictures it has.

        Raises:
            JobInputError: the input cannot be used; the message names the field.
            PayerError, InsufficientCreditsError: there is no payer, or no credit (domain.md §8).
            JobCancelledError, LeaseLostError
        """
        log = self._timeline.recording("plan_units", log)
        plan = await self._planned()
        for repair in plan.repairs:
            log(f"Repaired {repair}")
        missing = self._progress.count_missing(plan.units)
        units = tuple(unit for unit in plan.units if not only or unit.key in only)
        if self._progress.count_missing(units):
            await self._begin()
        return Planned(
            job_id=self.job.job_id,
            category=plan.category,
            job_type=plan.job_type,
            units=units,
            left_out=tuple(unit.key for unit in plan.units if unit not in units and self._progress.missing(unit)),
            repairs=plan.repairs,
            total=plan.total,
            made_before=plan.total - missing,
            payer=self._credits.payer_name,
            balance=self._credits.balance,
        )

    async def _begin(self) -> None:
        """Enter `processing`, once per session, unless the job is cancelled or its payer cannot pay.

        Raises:
            PayerError, InsufficientCreditsError, JobCancelledError, LeaseLostError
        """
        async with self._beginning:
            if not self._begun:
                await self.stop.first_check()
                await self._credits.begin()
                self._begun = True

    async def _planned(self) -> Plan:
        if self._plan is None:
            self._plan = await asyncio.to_thread(plan_job, self.job, self._dependencies.limits)
            self._progress.planned(self._plan)
            self._references.expect(
                wanted_references(unit, self._plan.category)
                for unit in self._plan.units
                if self._progress.missing(unit)
            )
        return self._plan

    # --- making --------------------------------------------------------------------------------------

    async def make(self, unit: Unit, log: LogLine) -> UnitOutcome:
        """Make the missing pictures of a unit. Errors of a picture are part of the outcome.

        The unit that completes the job also ends it.

        Raises:
            RunTerminatedError: an operator stopped the run meanwhile.
        """
        log = self._timeline.recording(unit.key, log)
        _step_log.set(log)
        plan = await self._planned()
        outcome = await self._units.make(unit, plan, log)
        await self._end_if_whole(plan)
        return outcome

    def _note_commit(self, slot: Slot, committed: Committed) -> None:
        """Record a committed picture. Called before the step continues, which a stop may prevent."""
        self._progress.commit(slot, committed)
        if not committed.taken:
            self._tally.add("pictures")
            self._tally.add("credits", self._dependencies.price)
            self._credits.charged(committed)

    async def _end_if_whole(self, plan: Plan) -> None:
        """End a job as soon as it has all of its pictures, so that the user need not wait for the rest of the run."""
        async with self._ending:
            going_on = self.stop.reason is None or self.stop.is_hand_over
            if not (self._begun and going_on and self.settled is None) or self._progress.count_missing(plan.units):
                return
            try:
                await self._end_job(JobStatus.COMPLETED, None)
            except (LeaseLostError, DatabaseRefusedError) as error:
                self.stop(error)

    # --- settling ------------------------------------------------------------------------------------

    async def settle(
        self, outcomes: Sequence[UnitOutcome], log: LogLine, left_out: Sequence[str] = ()
    ) -> tuple[JobOutcome, tuple[UnitOutcome, ...]]:
        """Make the planned pictures for which this run has no outcome, then end the job (domain.md §3).

        The plan decides, not the steps that happened to run: a retry of a run that died has outcomes only for the
        steps that had begun.

        Args:
            outcomes: results of the steps of this run, and of the runs that it re-executes.
            left_out: keys of units that the run's config left out, for the job's `error_message`.

        Returns:
            how the job ended, and the current outcomes in unit order.

        Raises:
            RunTerminatedError, LeaseLostError
            HandedOverError: this worker is stopping; another one finishes the job.
        """
        stop = self.stop.reason
        if self.settled is None and isinstance(stop, RunTerminatedError | HandedOverError):
            raise stop
        plan = await self._planned()
        wanted = [unit for unit in plan.units if unit.key not in left_out]
        by_key = {outcome.unit.key: outcome for outcome in outcomes}
        self._progress.lost = {key: outcome.lost_references for key, outcome in by_key.items()} | self._progress.lost
        done_now = {key for key, outcome in by_key.items() if outcome.run_id == self.run_id}
        if self.settled is None:
            open_units = [unit for unit in wanted if unit.key not in done_now and self._progress.missing(unit)]
            by_key |= {outcome.unit.key: outcome for outcome in await self._make_all(open_units, log)}
        ordered = tuple(sorted(by_key.values(), key=lambda outcome: outcome.unit.index))
        if self.settled is not None:
            return self.settled, ordered
        if self.stop.is_hand_over:
            raise HandedOverError
        if not self._begun and (
            self.job.job_status is JobStatus.USER_CANCELLED
            or (self.job.job_status is JobStatus.COMPLETED and self._progress.count_missing(wanted) == 0)
        ):
            return self._end.unchanged(plan), ordered
        error = failures(ordered, self.stop.reason) or left_out_units(left_out)
        return await self._end_job(JobStatus.COMPLETED, error), ordered

    async def _make_all(self, units: Sequence[Unit], log: LogLine) -> list[UnitOutcome]:
        """Make these units, with the same concurrency as the steps of a run."""
        at_once = asyncio.Semaphore(self._dependencies.max_concurrent_images + 1)

        async def make(unit: Unit) -> UnitOutcome:
            async with at_once:
                return await self.make(unit, log)

        return list(await asyncio.gather(*(make(unit) for unit in units)))

    async def _end_job(self, status: JobStatus, error: str | None) -> JobOutcome:
        outcome = await self._end.end(self._plan, status, error)
        self._renewer.stop()
        return outcome


def _log_to_step(line: str) -> None:
    """Log to the step that called the session."""
    _step_log.get()(line)


def _later(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call `function` on the session's loop, from another thread."""
    with suppress(RuntimeError):  # the loop is closed: nothing is left to stop
        loop.call_soon_threadsafe(function)
