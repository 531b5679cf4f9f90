"""What the transactions of schema quel_dagster promise, as a page of Python: nothing but dictionaries and rules.

Each method has the name of a function of `adapters/database/migrations` and returns the outcome that it must have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

PRICE = 20
#: so many processes in a row die with a job without one picture more: it is given up …
MOST_DEATHS = 3
#: … and so many, if meanwhile other processes died as well
MOST_DEATHS_ELSEWHERE = 5
Slot = tuple[int, int]


@dataclass
class Payer:
    """A member or an organization."""

    id: UUID
    opening: int
    active: bool = True
    #: amounts, in order
    ledger: list[int] = field(default_factory=list)

    @property
    def balance(self) -> int:
        return self.opening + sum(self.ledger)

    def book(self, amount: int) -> None:
        self.ledger.append(amount)


@dataclass
class Lease:
    token: int
    run: str
    live: bool = True
    #: its job killed two processes, and is tried while no other such job is
    probation: bool = False
    #: given back by its run, or by a claim that has to wait: the next claim counts no death
    handed_over: bool = False
    #: claimed so recently that its end without a word is the death of a process
    young: bool = True
    #: the process that has it
    process: str = ""


@dataclass
class Production:
    """One press of Generate."""

    id: UUID
    member: Payer
    jobs: list[Job] = field(default_factory=list)
    status: str = "pending"
    #: keys of its pictures, in order
    pictures: list[str] = field(default_factory=list)
    #: `generated_image_count`
    count: int = 0

    def refresh(self) -> None:
        """Follow the jobs, when one of them ends."""
        for job in self.jobs:
            self.pictures += [job.filled[slot] for slot in sorted(job.filled) if job.filled[slot] not in self.pictures]
        self.count = sum(len(job.filled) for job in self.jobs)
        ends = {job.status for job in self.jobs}
        if any(job.open for job in self.jobs):
            self.status = "processing"
        else:
            self.status = next((end for end in ("completed", "user_cancelled") if end in ends), "failed")


@dataclass
class Job:
    id: UUID
    production: Production
    member: Payer
    #: pays instead of the member
    org: Payer | None
    plan: tuple[Slot, ...]
    status: str = "pending"
    lease: Lease | None = None
    cancelled_by: str | None = None
    #: slot → token and key of a reservation
    reserved: dict[Slot, tuple[int, str]] = field(default_factory=dict)
    #: slot → key of a committed picture
    filled: dict[Slot, str] = field(default_factory=dict)
    refunded: set[str] = field(default_factory=set)
    #: keys of objects that may be in the store, and that no picture has
    orphans: set[str] = field(default_factory=set)
    #: processes that died with it in a row, without one picture more
    deaths: int = 0
    #: its pictures at the last of them
    made_at_death: int = 0
    #: the processes that died, and when the first of them was found dead
    dead_processes: set[str] = field(default_factory=set)
    first_death: int = 0

    @property
    def open(self) -> bool:
        return self.status in {"pending", "processing"}

    @property
    def is_on_probation(self) -> bool:
        return self.lease is not None and self.lease.live and self.lease.probation

    @property
    def payer(self) -> Payer:
        return self.org or self.member


@dataclass
class Model:
    payers: list[Payer] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    productions: list[Production] = field(default_factory=list)
    #: members who left the organization
    left: set[UUID] = field(default_factory=set)
    #: process → when it was found dead, in claims since the start
    dead_processes: dict[str, int] = field(default_factory=dict)
    _claims: int = 0

    def _stopped(self, job: Job, token: int) -> str | None:
        if job.lease is None or job.lease.token != token:
            return "lease_lost"
        if job.cancelled_by or job.status == "user_cancelled":
            return "cancelled"
        return None

    def _payable(self, job: Job) -> str | None:
        if not job.member.active or (job.org and (not job.org.active or job.member.id in self.left)):
            return "no_payer"
        return None if job.payer.balance >= PRICE else "insufficient"

    def most_deaths(self, job: Job) -> int:
        """So many deaths and the job is given up."""
        elsewhere = any(
            when >= job.first_death and process not in job.dead_processes
            for process, when in self.dead_processes.items()
        )
        return MOST_DEATHS_ELSEWHERE if job.deaths and elsewhere else MOST_DEATHS

    def claim(self, job: Job, run: str, token: int, process: str, retry_of: str | None) -> str:
        self._claims += 1
        lease = job.lease
        if lease and lease.live and lease.run not in {run, retry_of}:
            return "held"
        if not job.open:
            job.deaths = job.made_at_death = 0
        elif lease and lease.young and not lease.handed_over and lease.process != process:
            self._count_death(job, lease.process)
        on_probation = job.deaths == self.most_deaths(job) - 1
        if on_probation and any(other is not job and other.is_on_probation for other in self.jobs):
            if lease:
                lease.handed_over, lease.live = True, False
            return "probation"
        job.lease = Lease(token, run, probation=on_probation, process=process)
        return "claimed"

    def _count_death(self, job: Job, process: str) -> None:
        self.dead_processes.setdefault(process, self._claims)
        made = len(job.filled)
        if not job.deaths or made > job.made_at_death:
            job.deaths, job.dead_processes, job.first_death = 0, set(), self._claims
        job.deaths += 1
        job.dead_processes |= {process}
        job.made_at_death = made

    def begin(self, job: Job, token: int) -> str:
        if job.lease and job.lease.token == token and job.status in {"failed", "cancelled", "completed"}:
            job.cancelled_by = None if job.cancelled_by == "operator" else job.cancelled_by
        if reason := self._stopped(job, token) or self._payable(job):
            return reason
        job.status = job.production.status = "processing"
        return "begun"

    def reserve(self, job: Job, token: int, slot: Slot, key: str) -> str:
        if reason := self._stopped(job, token):
            return reason
        if job.status != "processing":
            return "not_processing"
        if slot in job.filled:
            return "taken"
        if reason := self._payable(job):
            return reason
        others = sum(
            PRICE
            for other in self.jobs
            if other.payer is job.payer and other.lease and other.lease.live
            for place, (holder, _) in other.reserved.items()
            if holder == other.lease.token and (other is not job or place != slot)
        )
        if job.payer.balance - others < PRICE:
            return "wait"
        if slot in job.reserved:
            job.orphans.add(job.reserved[slot][1])
        job.reserved[slot] = (token, key)
        return "reserved"

    def release(self, job: Job, token: int, slot: Slot, stored: bool) -> None:
        holder, key = job.reserved.get(slot, (None, ""))
        if holder == token:
            del job.reserved[slot]
            if stored:
                job.orphans.add(key)

    def commit(self, job: Job, token: int, slot: Slot, key: str) -> str:
        if job.lease is None or job.lease.token != token:
            return "lease_lost"
        if slot in job.filled:
            return "taken"
        if job.reserved.get(slot) != (token, key):
            return "lease_lost"
        if reason := self._stopped(job, token):
            return reason
        if job.status != "processing":
            return "not_processing"
        if reason := self._payable(job):
            return reason
        del job.reserved[slot]
        job.filled[slot] = key
        job.lease.probation = False
        job.payer.book(-PRICE)
        return "stored"

    def cancel(self, job: Job, by: str) -> None:
        if by == "user" or job.cancelled_by is None:
            job.cancelled_by = by

    def _end(self, job: Job, status: str) -> None:
        job.orphans |= {key for _, key in job.reserved.values()}
        job.reserved.clear()
        job.lease = None
        job.deaths = job.made_at_death = 0
        if job.cancelled_by == "user" or job.status == "user_cancelled":
            job.status = "user_cancelled"
        elif job.cancelled_by == "operator" or job.status == "cancelled":
            job.status = "cancelled"
        else:
            job.status = status if job.filled or status == "failed" else "failed"
        job.production.refresh()

    def settle(self, job: Job, token: int, status: str = "completed") -> str:
        if job.lease is None or job.lease.token != token:
            return "lease_lost"
        self._end(job, status)
        return "settled"

    def end_abandoned(self, job: Job, dead: str | None) -> str:
        if not job.open:
            return "ended"
        if job.lease and job.lease.live and job.lease.run != dead:
            return "held"
        if job.status == "processing" and job.lease is None and dead is None:
            return "elsewhere"
        self._end(job, "completed" if len(job.filled) == len(job.plan) else "failed")
        return "settled"

    def refund(self, job: Job, key: str) -> str:
        if key in job.refunded:
            return "refunded_before"
        job.refunded.add(key)
        job.payer.book(PRICE)
        return "refunded"
