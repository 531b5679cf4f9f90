"""Random orders of everything that two workers, users and operators can do, on PostgreSQL and on the model at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from quel_dagster.adapters.database.statements import EXPIRE_LEASE, RENEW_LEASES
from tests.integration.model import comparison
from tests.integration.model.model import MOST_DEATHS, MOST_DEATHS_ELSEWHERE, PRICE, Job, Slot
from tests.integration.model.web_app import WebApp, places
from tests.integration.model.world import LATER, World

LEASE_SECONDS = 3600
#: of processes, over all examples
_process_numbers = itertools.count()
_workers = st.integers(0, 1)
#: the lock that a call first has to wait for
_meets = st.sampled_from([None] * 10 + ["job"] + [*LATER])
#: pictures that a worker makes before a step
_first = st.sampled_from([0, 1, 2, 4])
#: who cancel a job, in order
_actors = st.sampled_from([("user",), ("operator",), ("operator", "user"), ("user", "operator")])
#: mostly yes
_usually = st.sampled_from([True, True, True, False])


@dataclass
class Session:
    """What a worker knows of the job that it works on."""

    job: Job
    token: int
    run: str
    begun: bool = False

    @property
    def is_of_use(self) -> bool:
        lease = self.job.lease
        return bool(lease and lease.token == self.token and self.begun and not self.job.cancelled_by)


def worker_rule(**strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule of a worker and its session, who may make pictures first; if no worker has a job, this one claims one.

    Hypothesis leaves out half of the rules in each example: each rule of a worker brings its job forward by itself. A
    worker leaves a job that it cannot bring forward any more, unless it `stays`.
    """

    def decorate(act: Callable[..., None]) -> Callable[..., None]:
        def step(self: Machine, worker: int, first: int, at_once: bool, stays: bool, **values: Any) -> None:
            if not any(self.sessions):
                self._claim(worker, self._next(first), retry=True, begin=True)
            worker = worker if self.sessions[worker] else 1 - worker
            if session := self.sessions[worker]:  # unless the job was refused
                if session.begun:
                    self._make(worker, session, first, at_once)
                act(self, worker, session, **values)
                if session is self.sessions[worker] and not stays and not session.is_of_use:
                    self.sessions[worker] = None

        step.__name__, step.__doc__ = act.__name__, act.__doc__
        strategies.update(worker=_workers, first=_first, at_once=st.booleans(), stays=st.booleans())
        make_rule: Callable[..., Callable[[Callable[..., None]], Callable[..., None]]] = rule
        return make_rule(**strategies)(step)

    return decorate


def _has_pictures(self: Machine) -> bool:
    return any(job.filled for job in self.model.jobs)


def _no_cancel_waits(self: Machine) -> bool:
    """One cancel at a time: a cancelled job is soon of no use."""
    return not any(job.open and job.cancelled_by for job in self.model.jobs)


class Machine(WebApp):
    """The clock is the machine's own: leases last an hour, and run out when a rule expires them."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.sessions: list[Session | None] = [None, None]
        #: the process of each worker
        self.processes = [self._new_process(), self._new_process()]
        self._run_numbers = itertools.count()
        #: job → its last run
        self._runs: dict[UUID, str] = {}

    @invariant()
    def rows_are_the_models(self) -> None:
        self.world.steps += 1
        comparison.compare(self.world, self.model)

    @precondition(_no_cancel_waits)
    @rule(place=places, by=_actors, meets=_meets)
    def cancel(self, place: int, by: tuple[str, ...], meets: str | None) -> None:
        self._cancel(self._next(place), by, meets)

    @precondition(_no_cancel_waits)
    @worker_rule(place=places, by=_actors, meets=_meets)
    def cancel_during_a_call(
        self, worker: int, session: Session, place: int, by: tuple[str, ...], meets: str | None
    ) -> None:
        slot = self._slot(session, place)
        self._reserve(worker, session, slot)
        self._cancel(session.job, by, meets)
        self._commit(worker, session, slot)

    def _cancel(self, job: Job, by: tuple[str, ...], meets: str | None) -> None:
        for each in by if job.open else ():
            self._call(job, "quel_dagster.keep_cancel_v2(%s, %s, %s)", job.id, each if each == "operator" else None,
                       None, meets=meets)  # fmt: skip
            self.model.cancel(job, each)

    # --- a worker --------------------------------------------------------------------------------------

    @precondition(lambda self: not all(self.sessions))
    @rule(place=places, retry=_usually, begin=_usually, meets=_meets)
    def claim(self, place: int, retry: bool, begin: bool, meets: str | None) -> None:
        """A worker takes a job; a retry inherits the lease of the run before.

        A job that killed too many processes is given up at once, unless its process dies first.
        """
        self._claim(self.sessions.index(None), self._next(place), retry=retry, begin=begin, meets=meets)

    def _claim(self, worker: int, job: Job, *, retry: bool, begin: bool, meets: str | None = None) -> None:
        run = f"run-{next(self._run_numbers)}"
        before = self._runs.get(job.id) if retry else None
        answer = self._call(
            job, "quel_dagster.claim_job_v3(%s, %s, %s, %s, %s, %s, %s, 1800)", job.id, run,
            [before] if before else [], self.processes[worker], LEASE_SECONDS, MOST_DEATHS, MOST_DEATHS_ELSEWHERE,
            worker=worker, meets=meets,
        )  # fmt: skip
        expected = self.model.claim(job, run, answer.get("token", 0), self.processes[worker], before)
        assert answer["outcome"] == expected
        if expected == "claimed":
            session = self.sessions[worker] = Session(job, answer["token"], run)
            self._runs[job.id] = run
            poisoned = job.deaths >= self.model.most_deaths(job)
            assert (answer["deaths"], answer["poisoned"]) == (job.deaths, poisoned)
            if poisoned:
                self._give_up(worker, session, dies=not begin)
            elif begin:
                self._begin(worker, session)

    def _give_up(self, worker: int, session: Session, *, dies: bool) -> None:
        self.sessions[worker] = None
        if not dies:
            self._settle(worker, session, "failed", "3 processes in a row died with it", None)

    @worker_rule(meets=_meets)
    def begin(self, worker: int, session: Session, meets: str | None) -> None:
        self._begin(worker, session, meets)

    def _begin(self, worker: int, session: Session, meets: str | None = None) -> None:
        outcome = self._outcome(session, worker, "begin_job_v2(%s, %s, %s)", PRICE, meets=meets)
        assert outcome == self.model.begin(session.job, session.token)
        session.begun |= outcome == "begun"

    @worker_rule(place=places, most=st.integers(1, 3), meets=_meets)
    def reserve(self, worker: int, session: Session, place: int, most: int, meets: str | None) -> None:
        """Calls are under way for so many pictures."""
        for each in range(place, place + most):
            self._reserve(worker, session, self._slot(session, each), meets)

    def _reserve(self, worker: int, session: Session, slot: Slot, meets: str | None = None) -> str:
        key = f"generated-images/{uuid4().hex}.webp"
        outcome = self._outcome(session, worker, "reserve_slot_v1(%s, %s, %s, %s, %s, %s)", *slot, key, PRICE,
                                meets=meets)  # fmt: skip
        assert outcome == self.model.reserve(session.job, session.token, slot, key)
        return outcome

    @worker_rule(place=places, meets=_meets, late=st.booleans())
    def commit(self, worker: int, session: Session, place: int, meets: str | None, late: bool) -> None:
        """Of a slot that it reserved; now and then of one that it did not."""
        self._commit(worker, session, self._slot(session, place, reserved=not late), meets)

    def _commit(self, worker: int, session: Session, slot: Slot, meets: str | None = None) -> None:
        job = session.job
        key = job.reserved.get(slot, (0, job.filled.get(slot, "generated-images/none.webp")))[1]
        outcome = self._outcome(
            session, worker, "commit_picture_v3(%s, %s, %s, %s, %s, 7, 'aa', 'file', %s, %s, null)", *slot, key, PRICE,
            len(job.plan), meets=meets,
        )  # fmt: skip
        assert outcome == self.model.commit(job, session.token, slot, key)

    @worker_rule(place=places, stored=st.booleans(), late=st.booleans())
    def release(self, worker: int, session: Session, place: int, stored: bool, late: bool) -> None:
        slot = self._slot(session, place, reserved=not late)
        self._call(session.job, "quel_dagster.release_slot_v1(%s, %s, %s, %s, %s)", session.job.id, session.token,
                   *slot, stored, worker=worker)  # fmt: skip
        self.model.release(session.job, session.token, slot, stored)

    def _make(self, worker: int, session: Session, most: int, at_once: bool) -> None:
        """The next pictures, one after the other or side by side, as an undisturbed worker makes them."""
        missing = [slot for slot in session.job.plan if slot not in session.job.filled][:most]
        for group in [missing] if at_once else [[slot] for slot in missing]:
            # reserves also what the balance does not cover
            reserved = [slot for slot in group if self._reserve(worker, session, slot) == "reserved"]
            for slot in reserved:
                self._commit(worker, session, slot)

    @worker_rule(status=st.sampled_from(["completed", "completed", "failed"]), why=st.booleans(), meets=_meets)
    def settle(self, worker: int, session: Session, status: str, why: bool, meets: str | None) -> None:
        self._end_run(worker, session, status, why, meets)

    def _end_run(self, worker: int, session: Session, status: str, why: bool, meets: str | None) -> None:
        """Also while planned pictures are missing, with a reason or, as a run that lost its steps would, without."""
        if not (session.begun or session.job.open):
            return
        missing = len(session.job.filled) < len(session.job.plan)
        error = "a picture failed" if status == "failed" or (why and missing) else None
        self.sessions[worker] = None
        self._settle(worker, session, status, error, meets)

    def _settle(self, worker: int, session: Session, status: str, error: str | None, meets: str | None) -> None:
        outcome = self._outcome(session, worker, "settle_job_v2(%s, %s, %s, %s, %s, null, 0, 0)", status,
                                len(session.job.plan), error, meets=meets)  # fmt: skip
        assert outcome == self.model.settle(session.job, session.token, status)

    # --- the end of a process or of a run ----------------------------------------------------------------

    @worker_rule(again=st.sampled_from([0, 1, 2, 2]))
    def kill(self, worker: int, session: Session, again: int) -> None:
        """The process is gone; its lease and its reservations stay. `again`: and so are those of its next retries."""
        self._kill(worker)
        for _ in range(again):
            self._claim(worker, session.job, retry=True, begin=True)
            self._kill(worker)

    def _kill(self, worker: int) -> None:
        self.sessions[worker] = None
        self.processes[worker] = self._new_process()

    @worker_rule(why=st.booleans(), meets=_meets)
    def lose_steps(self, worker: int, session: Session, why: bool, meets: str | None) -> None:
        """The process is killed, and the retry of the run begins none of the units that are left."""
        self._kill(worker)
        self._claim(worker, session.job, retry=True, begin=True)
        if retry := self.sessions[worker]:
            self._end_run(worker, retry, "completed", why, meets)

    @worker_rule(place=places, meets=_meets)
    def taken_over_during_a_call(self, worker: int, session: Session, place: int, meets: str | None) -> None:
        """A retry of the run takes the job, although its worker lives, and commits later."""
        slot = self._slot(session, place)
        self._reserve(worker, session, slot)
        self._claim(1 - worker, session.job, retry=True, begin=True)
        self._commit(worker, session, slot, meets)

    @worker_rule(meets=_meets)
    def run_again(self, worker: int, session: Session, meets: str | None) -> None:
        """The run ends without a word, its process lives, and takes the retry of the run."""
        self._claim(worker, session.job, retry=True, begin=True, meets=meets)

    @worker_rule(other_takes=st.booleans())
    def hand_over(self, worker: int, session: Session, other_takes: bool) -> None:
        """The worker stops: it gives the lease back, and leaves the job to others."""
        self.sessions[worker] = None
        lease = session.job.lease
        if lease and lease.token == session.token:
            lease.live, lease.handed_over = False, True
        self.world.execute(EXPIRE_LEASE, job_id=session.job.id, token=session.token)
        if other_takes and not self.sessions[1 - worker]:
            self._claim(1 - worker, session.job, retry=False, begin=True)

    @worker_rule()
    def renew(self, worker: int, session: Session) -> None:
        """The worker renews its lease, also one that ran out and that no worker has taken."""
        lease = session.job.lease
        if lease and lease.token == session.token and not lease.handed_over:
            lease.live = True
        self.world.execute(RENEW_LEASES, job_ids=[session.job.id], tokens=[session.token], seconds=LEASE_SECONDS)

    # --- time and operators ----------------------------------------------------------------------------

    @rule(place=places, young=_usually)
    def expire(self, place: int, young: bool) -> None:
        """No process renews the lease any more: it was killed just now, or the lease is an old one."""
        leased = [job for job in self.model.jobs if job.lease]
        for job in leased[place % len(leased) :][:1] if leased else []:
            self.world.rows(
                "update quel_dagster.job_lease set expires_at = clock_timestamp() - interval '1 ms',"
                " claimed_at = case when %s then claimed_at else clock_timestamp() - interval '2 hours' end"
                " where job_id = %s",
                young,
                job.id,
            )
            assert job.lease
            job.lease.live = False
            job.lease.young &= young

    @rule(place=places, dead=st.booleans(), meets=_meets)
    def end_abandoned(self, place: int, dead: bool, meets: str | None) -> None:
        job = self._job(place)
        run = self._runs.get(job.id) if dead else None
        answer = self._call(job, "quel_dagster.end_abandoned_job_v2(%s, %s, 'failed', 'its run died')", job.id,
                            [run] if run else [], meets=meets)  # fmt: skip
        assert answer["outcome"] == self.model.end_abandoned(job, run)

    @precondition(_has_pictures)
    @rule(place=places, number=places, meets=_meets)
    def refund(self, place: int, number: int, meets: str | None) -> None:
        jobs = [job for job in self.model.jobs if job.filled]
        job = jobs[place % len(jobs)]
        key = job.filled[sorted(job.filled)[number % len(job.filled)]]
        attach = self.world.value("select attach_id from quel_dagster.picture_slot where object_key = %s", key)
        answer = self._call(job, "quel_dagster.refund_v1(%s, 'blurred')", attach, meets=meets)
        assert answer["outcome"] == self.model.refund(job, key)

    # --- calls -----------------------------------------------------------------------------------------

    @staticmethod
    def _new_process() -> str:
        return f"test:{next(_process_numbers)}-{uuid4().hex[:8]}"

    def _next(self, place: int) -> Job:
        """A job that can be worked on, while there is one; else one that can be run again."""
        jobs = self.model.jobs
        again = [job for job in jobs if not job.cancelled_by]
        found = [job for job in again if job.open] or again or jobs
        return found[place % len(found)]

    @staticmethod
    def _slot(session: Session, place: int, *, reserved: bool = False) -> Slot:
        """A slot of the job; `reserved`: by this session, if there is one."""
        mine = [slot for slot, (token, _) in session.job.reserved.items() if reserved and token == session.token]
        slots = mine or session.job.plan
        return slots[place % len(slots)]

    def _call(self, job: Job, statement: str, *values: Any, worker: int = 0, meets: str | None = None) -> Any:
        answer = self.world.call(job, statement, *values, worker=worker, meets=meets)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _outcome(self, session: Session, worker: int, statement: str, *values: Any, meets: str | None = None) -> str:
        answer = self._call(session.job, f"quel_dagster.{statement}", session.job.id, session.token, *values,
                            worker=worker, meets=meets)  # fmt: skip
        return str(answer["outcome"])
