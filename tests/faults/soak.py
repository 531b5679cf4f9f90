"""Random faults against an installation at work, for as long as asked, and the totals.

    python -m tests.faults.soak --minutes 20 --seed 7

Jobs keep coming while processes are killed, servers restarted, connections cut and answers spoilt. Then the faults
stop, everything may come to rest, and the audit looks at all of it. What was made is compared with what was asked: a
job with fewer pictures is lost, unless the harness caused its reason. Exit code 1 on any breach, loss, or double.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import redis
from dagster import DagsterRunStatus, RunsFilter

from quel_dagster.platform.internals import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from tests.faults.desk import ENDED, UNREACHABLE, Desk, eventually
from tests.faults.installation import Installation, WorkerHost, installation
from tests.faults.outages import OUTAGES

#: jobs that are open at any time
OPEN_JOBS = 60
#: pictures of a job, drawn at random: most jobs are small, some are much larger than what a process makes at once
SIZES = (1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 40)
#: pauses between two outages, in seconds: an outage, and then time in which everything may come back
BETWEEN_OUTAGES = (40.0, 90.0)
#: seconds that a service that was killed needs until it serves again
SERVICE_SECONDS = 10.0
#: seconds within which another run is to have the job (what was killed → seconds)
PROMISED = {"process": 15.0, "host": 45.0}
SPOILT = [
    Behaviour.RATE_LIMITED,
    Behaviour.SERVER_ERROR,
    Behaviour.UNAVAILABLE,
    Behaviour.RESET,
    Behaviour.CUT,
    Behaviour.TRUNCATED_JSON,
    Behaviour.NO_PICTURE,
    Behaviour.HANG,
    Behaviour.DRIP,
    Behaviour.TEXT_ONLY,
]


#: the reason of a picture that was given up after spoilt answers; one that names another part is no excuse
SPOILT_REASON = (
    r"^(Gemini's quota is used up for the moment|Gemini is not available \(HTTP 500|The connection to Gemini at \S+ "
    r"broke|Gemini's answer was broken|Gemini at \S+ did not finish|Gemini answered with words).*\(tried \d+ times\)$"
)
#: tries after which the program may give a picture up: words in place of a picture are asked again twice
FEWEST_TRIES = 3


@dataclass(frozen=True)
class Recovery:
    """From a kill until another run had the job, in seconds."""

    #: `process` or `host`
    killed: str
    seconds: float
    #: another fault hit what brings jobs back meanwhile
    disturbed: bool


@dataclass
class Totals:
    """The actions and their results."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    recoveries: list[Recovery] = field(default_factory=list)


@dataclass
class Soak:
    """One soak on one installation."""

    site: Installation
    desk: Desk
    rng: random.Random
    #: seconds between two faults, on average
    every: float
    totals: Totals = field(default_factory=Totals)
    _open: set[UUID] = field(default_factory=set)
    _payers: list[tuple[UUID, UUID | None]] = field(default_factory=list)
    _references: list[int] = field(default_factory=list)
    _side: set[asyncio.Task[None]] = field(default_factory=set)
    #: the word by which Gemini's stand-in knows the requests of a job
    _marks: dict[UUID, str] = field(default_factory=dict)
    #: how many answers to a job were to be spoilt
    _spoilt: Counter[UUID] = field(default_factory=Counter)
    #: when something on the way back to work was broken: from, until (monotonic seconds)
    _disturbances: list[tuple[float, float]] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Faults for so long, then rest."""
        await self._prepare()
        until = time.monotonic() + seconds
        workers = [asyncio.create_task(act(until)) for act in (self._order, self._break, self._outages)]
        reporter = asyncio.create_task(self._report(until))
        await asyncio.gather(*workers)
        reporter.cancel()
        for task in self._side:
            task.cancel()
        await asyncio.gather(*self._side, return_exceptions=True)
        self._repair()

    def _repair(self) -> None:
        for proxy in self.site.proxies.all().values():
            proxy.heal()
        self.site.storage.heal()
        self.site.gemini.state.reset()
        self.site.wait_services()
        for host in self.site.hosts.values():
            if host.alive:
                host.thaw()
            else:
                host.start()
            host.wait_ready()

    async def _prepare(self) -> None:
        for _ in range(3):
            member = await self.desk.member(10_000_000)
            self._payers += [(member, None), (member, await self.desk.organization(member, 10_000_000))]
        self._references = [await self.desk.reference() for _ in range(4)]

    # --- work ----------------------------------------------------------------------------------------

    async def _order(self, until: float) -> None:
        """Keep so many jobs open; cancel, terminate and push again now and then."""
        while time.monotonic() < until:
            for host in self.site.hosts.values():
                if not host.alive:  # as any init system would
                    host.start()
            with suppress(*UNREACHABLE):
                self._forget_ended()
                while len(self._open) < OPEN_JOBS:
                    await self._one_job()
            await asyncio.sleep(0.3)

    def _forget_ended(self) -> None:
        rows = self.desk.rows(
            "select job_id from quel_production_jobs where job_id = any(%s) and job_status::text = any(%s)",
            list(self._open),
            list(ENDED),
        )
        self._open -= {row["job_id"] for row in rows}

    async def _one_job(self) -> None:
        member, org = self.rng.choice(self._payers)
        total = self.rng.choice(SIZES)
        mark = f"order{len(self.desk.orders)}x"
        job_id = await self.desk.job(total, member=member, org=org, push=False, **self._input(total, member, mark))
        self._open.add(job_id)
        self._marks[job_id] = mark
        await self._push(job_id, self.rng.choice((1, 1, 1, 1, 3)))
        mischief = self.rng.random()
        if mischief < 0.05:
            self._aside(self._later(lambda: self._cancel(job_id)))
        elif mischief < 0.1:
            self._aside(self._later(lambda: self._terminate(job_id)))
        elif mischief < 0.2:
            self._aside(self._later(lambda: self._push(job_id, 2)))

    def _input(self, total: int, member: UUID, mark: str) -> dict[str, Any]:
        references = [{"attachId": each, "type": "top"} for each in self.rng.sample(self._references, 1)]
        kind = self.rng.choice(("simple_general", "single_batch", "pipeline_stage"))
        data: dict[str, Any] = {"userId": str(member)}
        match kind:
            case "simple_general":
                data |= {"prompt": f"a coat in the rain, {mark}", "uploadedAttachIds": references}
            case "single_batch":
                angles = ("front", "side", "profile", "back")
                data |= {
                    "basePrompt": f"a coat in the rain, {mark}",
                    "individualImageAttachIds": references,
                    # a unit for each picture: most of them have not begun when a process is killed
                    "combinations": [{"angle": angles[n % 4], "quantity": 1} for n in range(total)],
                }
            case _:
                data |= {"stages": [{"prompt": f"stage {n} of {mark}", "quantity": 1} for n in range(total)]}
        return {"job_type": kind, "input_data": data}

    async def _push(self, job_id: UUID, times: int) -> None:
        if times > 1:
            self.totals.faults["pushed again"] += 1
        while True:
            try:
                self.desk.queue.push(*[job_id] * times)
            except redis.RedisError:
                await asyncio.sleep(0.2)
            else:
                return

    async def _cancel(self, job_id: UUID) -> None:
        self.totals.faults["user cancels"] += 1
        self.desk.cancel(job_id)

    async def _terminate(self, job_id: UUID) -> None:
        for run in self.desk.runs(job_id)[:1]:
            if not run.is_finished:
                self.totals.faults["terminates"] += 1
                with suppress(AssertionError, httpx.HTTPError, ValueError):
                    await self.desk.terminate(run.run_id)

    async def _later(self, act: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self.rng.uniform(0.1, 6.0))
        with suppress(*UNREACHABLE):
            await act()

    def _aside(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    # --- faults --------------------------------------------------------------------------------------

    async def _break(self, until: float) -> None:
        faults: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (50, self._kill_child),
            (5, self._kill_host),
            (3, lambda: self._kill_service("code-server")),
            (2, lambda: self._kill_service("daemon")),
            (1, lambda: self._kill_service("fork-server")),
            (2, lambda: self._kill_service("redis")),
            (2, lambda: self._kill_service("postgres")),
            (10, self._cut),
            (5, self._hold),
            (14, self._spoil),
            (5, self._storage),
            (2, self._freeze),
        ]
        while time.monotonic() < until:
            await asyncio.sleep(self.rng.expovariate(1 / self.every))
            (_, fault) = self.rng.choices(faults, weights=[weight for weight, _ in faults])[0]
            with suppress(*UNREACHABLE):
                await fault()

    async def _outages(self, until: float) -> None:
        """One outage after the other, all kinds in turn, in an order of chance."""
        kinds: list[str] = []
        while True:
            await asyncio.sleep(self.rng.uniform(*BETWEEN_OUTAGES))
            kinds = kinds or self.rng.sample(list(OUTAGES), len(OUTAGES))
            name = kinds.pop()
            outage, seconds = OUTAGES[name]
            if time.monotonic() + seconds > until:
                return
            self.totals.faults[name] += 1
            self._disturb(seconds + SERVICE_SECONDS)
            with suppress(*UNREACHABLE):  # the server was killed just now
                async with outage(self.site):
                    await asyncio.sleep(seconds)

    def _some_host(self) -> WorkerHost | None:
        alive = [host for host in self.site.hosts.values() if host.alive]
        return self.rng.choice(alive) if alive else None

    async def _kill_child(self) -> None:
        if (host := self._some_host()) is None:
            return
        children = host.children_alive()
        if not children:
            return
        child = self.rng.choice(children)
        if self.rng.random() < 0.8:  # rather one that is at work
            busy = self._workers_at_work()
            child = next((each for each in children if each.pid in busy), child)
        held = self._held_by({child.pid})
        child.kill()
        self.totals.kills["processes"] += 1
        self._follow("process", held)

    async def _kill_host(self) -> None:
        if (host := self._some_host()) is None:
            return
        held = self._held_by({process.pid for process in host.children_alive()})
        host.kill()
        self.totals.kills["hosts"] += 1
        self._follow("host", held)

    async def _kill_service(self, name: str) -> None:
        if self.site.stack_of(name).supervisor.state(name) != "ready":
            return
        numbers = {"postgres": (signal.SIGINT, signal.SIGKILL), "redis": (signal.SIGTERM, signal.SIGKILL)}
        self.site.kill_service(name, self.rng.choice(numbers.get(name, (signal.SIGKILL,))))
        self._disturb(SERVICE_SECONDS)
        self.totals.kills[name] += 1

    async def _cut(self) -> None:
        name, proxy = self.rng.choice(list(self.site.proxies.all().items()))
        self.totals.faults[f"cuts of {name}"] += 1
        proxy.cut()
        self._disturb(1.0)

    async def _hold(self) -> None:
        name, proxy = self.rng.choice(list(self.site.proxies.all().items()))
        self.totals.faults[f"holds of {name}"] += 1

        async def hold() -> None:
            proxy.hold(up=self.rng.random() < 0.5)
            try:
                await asyncio.sleep(self.rng.uniform(0.5, 5))
                if self.rng.random() < 0.5:
                    proxy.cut()
            finally:
                proxy.heal()
                self._disturb(1.0)

        self._disturb(6.0)
        self._aside(hold())

    async def _spoil(self) -> None:
        """Spoil the next answers to one job, so that its missing pictures have a known reason."""
        at_work = self.desk.rows("select job_id from quel_dagster.job_lease where expires_at > clock_timestamp()")
        if not at_work:
            return
        job_id = self.rng.choice(sorted(row["job_id"] for row in at_work))
        behaviour, times = self.rng.choice(SPOILT), self.rng.randint(1, 3)
        self.totals.faults[f"Gemini {behaviour.value}"] += 1
        self._spoilt[job_id] += times
        self.site.gemini.state.add_rules(Rule(behaviour=behaviour, times=times, match=self._marks[job_id]))

    async def _storage(self) -> None:
        self.totals.faults["storage errors"] += 1
        self.site.storage.fail(self.rng.choice((500, 503, 507)), times=self.rng.randint(1, 4))

    async def _freeze(self) -> None:
        if (host := self._some_host()) is None:
            return
        self.totals.faults["frozen hosts"] += 1

        async def freeze() -> None:
            host.freeze()
            self._disturb(16.0)
            try:
                await asyncio.sleep(self.rng.uniform(3, 15))
            finally:
                host.thaw()

        self._aside(freeze())

    # --- recovery ------------------------------------------------------------------------------------

    def _workers_at_work(self) -> set[int]:
        rows = self.desk.rows("select worker from quel_dagster.job_lease where expires_at > clock_timestamp()")
        return {int(row["worker"].rpartition(":")[2]) for row in rows}

    def _held_by(self, pids: set[int]) -> dict[UUID, str]:
        """Job → run, for the live leases of these processes."""
        rows = self.desk.rows("select * from quel_dagster.job_lease where expires_at > clock_timestamp()")
        return {row["job_id"]: row["run_id"] for row in rows if int(row["worker"].rpartition(":")[2]) in pids}

    def _follow(self, what: str, held: dict[UUID, str]) -> None:
        for job_id, run_id in held.items():
            self._aside(self._time_recovery(what, job_id, run_id, time.monotonic()))

    async def _time_recovery(self, what: str, job_id: UUID, run_id: str, killed: float) -> None:
        while True:
            await asyncio.sleep(0.1)
            with suppress(*UNREACHABLE):
                if self.desk.status(job_id) in ENDED:
                    return  # a cancel, or it was over already
                lease = self.desk.lease(job_id)
                if lease and lease["run_id"] != run_id:
                    now = time.monotonic()
                    disturbed = any(since < now and until > killed for since, until in self._disturbances)
                    self.totals.recoveries.append(Recovery(what, now - killed, disturbed))
                    return

    def _disturb(self, seconds: float) -> None:
        """From now on, for so long, work comes back more slowly than a kill that was before explains."""
        now = time.monotonic()
        self._disturbances.append((now, now + seconds))

    # --- telling -------------------------------------------------------------------------------------

    async def _report(self, until: float) -> None:
        while True:
            await asyncio.sleep(30)
            with suppress(*UNREACHABLE):
                made = self.pictures()
                line = f"{until - time.monotonic():5.0f} s left: {len(self.desk.jobs)} jobs, {made} pictures,"
                print_line(f"{line} {self.totals.kills.total()} kills, {self.totals.faults.total()} other faults")

    def pictures(self) -> int:
        (row,) = self.desk.rows("select coalesce(sum(completed_images), 0) as n from quel_production_jobs")
        return int(row["n"])

    def _all_retries_made(self) -> bool:
        dead = RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"})
        return all(AUTO_RETRY_RUN_ID_TAG in run.tags for run in self.site.instance.get_runs(dead))

    async def verdict(self) -> bool:
        """Wait for rest, audit everything, print the totals; True when all is well."""
        desk = self.desk
        deadline = time.monotonic() + 420  # a job that Redis forgot is pushed again after a minute or two
        for job_id in desk.jobs:
            try:
                await desk.until_ended(job_id, seconds=max(1.0, deadline - time.monotonic()))
            except TimeoutError as error:
                print_line(str(error))
        with suppress(TimeoutError):
            await desk.until_at_rest(seconds=120)
            await eventually(self._all_retries_made, "the retry of every dead run", seconds=120)
        report = await desk.audit(job_ids=None, grace_seconds=5.0)
        for breach in report.breaches:
            print_line(f"BREACH {breach.code} {breach.line}")
        undone = [finding.code for finding in report.findings if finding.not_done]
        doubled = sum(1 for breach in report.breaches if (breach.code, breach.kind) in DOUBLES)
        for job_id, answers in self._spoilt.items():
            desk.excuse(SPOILT_REASON, job_id, pictures=answers // FEWEST_TRIES)
        judgement = desk.judge()
        for job in judgement.lost:
            print_line(f"LOST {job}")
        rows = desk.rows("select job_status::text as status, count(*) as n from quel_production_jobs group by 1")
        reasons = desk.rows(
            "select regexp_replace(left(error_message, 90), '[0-9a-f-]{36}', '…', 'g') as why, count(*) as n"
            " from quel_production_jobs where job_status = 'failed' group by 1 order by 2 desc limit 8"
        )
        totals = self.totals
        print_line("")
        print_line(f"jobs         {len(desk.jobs)}: " + ", ".join(f"{row['n']} {row['status']}" for row in rows))
        print_line(f"pictures     {self.pictures()}")
        print_line(f"kills        {totals.kills.total()}: {_listed(totals.kills)}")
        print_line(f"other faults {totals.faults.total()}: {_listed(totals.faults)}")
        for line in recovery_lines(totals.recoveries):
            print_line(line)
        for row in reasons:
            print_line(f"failed       {row['n']}: {row['why']}")
        print_line(
            f"breaches     {len(report.breaches)}" + (f" (not looked at: {', '.join(undone)})" if undone else "")
        )
        for line in judgement.lines():
            print_line(line)
        print_line(f"doubled      {doubled}")
        return not (report.breaches or judgement.lost or doubled or undone)


#: breaches that say that something was made or charged twice
DOUBLES = {("I3", "repeated"), ("I5", "repeated"), ("I5", "too_many"), ("I6", "same_key"), ("I8", "shared")}


def recovery_lines(recoveries: Sequence[Recovery]) -> Iterator[str]:
    """How soon work came back, for each kind of kill: where nothing else was broken meanwhile, and at all."""
    for what, promised in PROMISED.items():
        for kind in ("alone", "amid other faults"):
            times = sorted(r.seconds for r in recoveries if r.killed == what and r.disturbed == (kind != "alone"))
            if not times:
                continue
            late = sum(1 for seconds in times if seconds > promised)
            middle, high = times[len(times) // 2], times[int(len(times) * 0.95)]
            yield (
                f"recovery     after killing a {what}, {kind}: {len(times)} times, median {middle:.1f} s,"
                f" 95 % {high:.1f} s, slowest {times[-1]:.1f} s; {late} above {promised:g} s"
            )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.most_common())


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def soak(site: Installation, *, seconds: float, seed: int, every: float) -> bool:
    site.gemini.state.latency = 0.3
    desk = Desk.at(site)
    try:
        work = Soak(site, desk, random.Random(seed), every)  # noqa: S311 - replayable, not secret
        await work.run(seconds)
        return await work.verdict()
    finally:
        await desk.aclose()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--every", type=float, default=2.2, metavar="SECONDS", help="between two faults, on average")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and data")
    options = parser.parse_args()
    print_line(f"seed {options.seed}, {options.minutes:g} minutes, a fault every {options.every:g} s on average")
    with ExitStack() as exits:
        if options.keep:
            home = tempfile.mkdtemp(prefix="quel-soak-")
            print_line(f"data and logs stay in {home}")
        else:
            home = exits.enter_context(tempfile.TemporaryDirectory(prefix="quel-soak-", ignore_cleanup_errors=True))
        # more attempts than an answer is spoilt in a row, and outages are much shorter than what is waited for
        site = exits.enter_context(
            installation(
                Path(home), children=2, runs_per_process=30, slots=None, gemini_attempts=6, gemini_outage_hours=1.0
            )
        )
        site.add_host("b", children=2, runs_per_process=30)
        good = asyncio.run(soak(site, seconds=options.minutes * 60, seed=options.seed, every=options.every))
    print_line("" if good else "NOT CLEAN")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
