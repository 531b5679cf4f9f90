"""Random faults against an installation at work, for as long as asked, and the totals.

    python -m tests.faults.soak --minutes 20 --seed 7

Jobs keep coming while processes are killed, servers restarted, connections cut and answers spoilt. Then the faults
stop, everything may come to rest, and the audit looks at all of it. Exit code 1 on any breach, loss, or double.
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
import psutil
import psycopg
import redis
import sqlalchemy.exc

from quel_dagster.adapters.database.store import Database
from quel_dagster.sandbox.gemini_server import Behaviour, Rule
from tests.faults.desk import ENDED, Desk
from tests.faults.installation import Installation, WorkerHost, installation

#: jobs that are open at any time
OPEN_JOBS = 10
#: seconds that a service that was killed needs until it serves again
SERVICE_SECONDS = 10.0
#: seconds within which another run is to have the job (what was killed → seconds)
PROMISED = {"process": 15.0, "host": 45.0}
#: what may be away for a moment because we took it away
AWAY = (psycopg.OperationalError, sqlalchemy.exc.DBAPIError, redis.RedisError, psutil.Error, ProcessLookupError)
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
    """What was done, and what came of it."""

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
    #: when something on the way back to work was broken: from, until (monotonic seconds)
    _disturbances: list[tuple[float, float]] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Faults for so long, then rest."""
        await self._prepare()
        until = time.monotonic() + seconds
        workers = [asyncio.create_task(self._order(until)), asyncio.create_task(self._break(until))]
        reporter = asyncio.create_task(self._report(until))
        await asyncio.gather(*workers)
        reporter.cancel()
        for task in self._side:
            task.cancel()
        await asyncio.gather(*self._side, return_exceptions=True)
        self._mend()

    def _mend(self) -> None:
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
            with suppress(*AWAY):
                self._forget_ended()
                while len(self._open) < OPEN_JOBS:
                    self._open.add(await self._one_job())
            await asyncio.sleep(0.3)

    def _forget_ended(self) -> None:
        rows = self.desk.rows(
            "select job_id from quel_production_jobs where job_id = any(%s) and job_status::text = any(%s)",
            list(self._open),
            list(ENDED),
        )
        self._open -= {row["job_id"] for row in rows}

    async def _one_job(self) -> UUID:
        member, org = self.rng.choice(self._payers)
        total = self.rng.choice((4, 6, 8, 10, 12, 16))
        job_id = await self.desk.job(total, member=member, org=org, push=False, **self._input(total, member))
        await self._push(job_id, self.rng.choice((1, 1, 1, 1, 3)))
        mischief = self.rng.random()
        if mischief < 0.05:
            self._aside(self._later(lambda: self._count("user cancels", lambda: self.desk.cancel(job_id))))
        elif mischief < 0.1:
            self._aside(self._later(lambda: self._terminate(job_id)))
        elif mischief < 0.2:
            self._aside(self._later(lambda: self._push(job_id, 2)))
        return job_id

    def _input(self, total: int, member: UUID) -> dict[str, Any]:
        references = [{"attachId": each, "type": "top"} for each in self.rng.sample(self._references, 1)]
        kind = self.rng.choice(("simple_general", "single_batch", "pipeline_stage"))
        data: dict[str, Any] = {"userId": str(member)}
        match kind:
            case "simple_general":
                data |= {"prompt": "a coat in the rain", "uploadedAttachIds": references}
            case "single_batch":
                data |= {
                    "basePrompt": "a coat in the rain",
                    "individualImageAttachIds": references,
                    "combinations": [{"angle": "front", "quantity": 2}, {"angle": "side", "quantity": total - 2}],
                }
            case _:
                data |= {"stages": [{"prompt": f"stage {n}", "quantity": 2} for n in range(total // 2)]}
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

    async def _terminate(self, job_id: UUID) -> None:
        for run in self.desk.runs(job_id)[:1]:
            if not run.is_finished:
                self.totals.faults["terminates"] += 1
                with suppress(AssertionError, httpx.HTTPError, ValueError):
                    await self.desk.terminate(run.run_id)

    async def _count(self, what: str, act: Callable[[], None]) -> None:
        self.totals.faults[what] += 1
        act()

    async def _later(self, act: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self.rng.uniform(0.1, 6.0))
        with suppress(*AWAY):
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
            with suppress(*AWAY):
                await fault()

    def _some_host(self) -> WorkerHost | None:
        alive = [host for host in self.site.hosts.values() if host.alive]
        return self.rng.choice(alive) if alive else None

    async def _kill_child(self) -> None:
        if (host := self._some_host()) is None:
            return
        children = host.processes()[1:]
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
        held = self._held_by({process.pid for process in host.processes()})
        host.kill()
        self.totals.kills["hosts"] += 1
        self._follow("host", held)

    async def _kill_service(self, name: str) -> None:
        stack = self.site.backing if name in {"postgres", "redis"} else self.site.platform
        if stack.supervisor.state(name) != "ready":
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
        behaviour = self.rng.choice(SPOILT)
        self.totals.faults[f"Gemini {behaviour.value}"] += 1
        self.site.gemini.state.add_rules(Rule(behaviour=behaviour, times=self.rng.randint(1, 3)))

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
                with suppress(ProcessLookupError):
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
            with suppress(*AWAY):
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
            with suppress(*AWAY):
                made = self.pictures()
                line = f"{until - time.monotonic():5.0f} s left: {len(self.desk.jobs)} jobs, {made} pictures,"
                say(f"{line} {self.totals.kills.total()} kills, {self.totals.faults.total()} other faults")

    def pictures(self) -> int:
        (row,) = self.desk.rows("select coalesce(sum(completed_images), 0) as n from quel_production_jobs")
        return int(row["n"])

    async def verdict(self) -> bool:
        """Wait for rest, audit everything, print the totals; True when all is well."""
        desk = self.desk
        lost: list[UUID] = []
        deadline = time.monotonic() + 420  # a job that Redis forgot is pushed again after a minute or two
        for job_id in desk.jobs:
            try:
                await desk.until_ended(job_id, seconds=max(1.0, deadline - time.monotonic()))
            except TimeoutError as error:
                lost.append(job_id)
                say(str(error))
        with suppress(TimeoutError):
            await desk.until_at_rest(seconds=120)
        report = await desk.audit(job_ids=None, grace_seconds=5.0)
        for breach in report.breaches:
            say(f"BREACH {breach.code} {breach.line}")
        undone = [finding.code for finding in report.findings if finding.not_done]
        doubled = sum(1 for breach in report.breaches if (breach.code, breach.kind) in DOUBLES)
        rows = desk.rows("select job_status::text as status, count(*) as n from quel_production_jobs group by 1")
        reasons = desk.rows(
            "select regexp_replace(left(error_message, 90), '[0-9a-f-]{36}', '…', 'g') as why, count(*) as n"
            " from quel_production_jobs where job_status = 'failed' group by 1 order by 2 desc limit 8"
        )
        totals = self.totals
        say("")
        say(f"jobs         {len(desk.jobs)}: " + ", ".join(f"{row['n']} {row['status']}" for row in rows))
        say(f"pictures     {self.pictures()}")
        say(f"kills        {totals.kills.total()}: {_listed(totals.kills)}")
        say(f"other faults {totals.faults.total()}: {_listed(totals.faults)}")
        for line in recovery_lines(totals.recoveries):
            say(line)
        for row in reasons:
            say(f"failed       {row['n']}: {row['why']}")
        say(f"breaches     {len(report.breaches)}" + (f" (not looked at: {', '.join(undone)})" if undone else ""))
        say(f"lost         {len(lost)}")
        say(f"doubled      {doubled}")
        return not (report.breaches or lost or doubled or undone)


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


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def soak(site: Installation, *, seconds: float, seed: int, every: float) -> bool:
    database = Database(site.database_url)
    await database.create_web_app_tables()
    await database.ensure_schema()
    await database.aclose()
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
    say(f"seed {options.seed}, {options.minutes:g} minutes, a fault every {options.every:g} s on average")
    with ExitStack() as exits:
        if options.keep:
            home = tempfile.mkdtemp(prefix="quel-soak-")
            say(f"data and logs stay in {home}")
        else:
            home = exits.enter_context(tempfile.TemporaryDirectory(prefix="quel-soak-", ignore_cleanup_errors=True))
        site = exits.enter_context(installation(Path(home), children=3, slots=5))
        site.add_host("b", children=2)
        good = asyncio.run(soak(site, seconds=options.minutes * 60, seed=options.seed, every=options.every))
    say("" if good else "NOT CLEAN")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
