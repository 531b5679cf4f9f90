"""S1: many ids wait. How long a tick of the queue sensor takes, whether the last jobs go as quickly as the first, and
how much every process grows.

    python -m bench.backlog [--jobs 10000] [--members 20] [--seconds 36000]

The jobs are of one picture each, and Gemini takes no time: what is measured is the way through Redis and Dagster. The
ids of one member after the other are pushed at once, to an installation that is up. The "first" and "last" are a tenth
of the jobs. A short loop is timed now and then: where it takes longer at the end, the machine has slowed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import psutil
import psycopg
from dagster import DagsterInstance

from bench.installation import installation
from bench.speed import glimpse
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.pipeline.sensors import APART_SECONDS, RUNS_PER_TICK

SENSOR = "jobs_queue_sensor"
#: a look at the memory of every process
SAMPLE_SECONDS = 5.0
MEGABYTE = 2**20
#: shares of the jobs that have ended, in the first tenth and in the last
TENTHS = ((0.0, 0.1), (0.9, 1.0))


@dataclass(frozen=True)
class Tick:
    """One evaluation of the queue sensor, the making of its runs included."""

    #: of work, without what the tick slept at its start to keep its distance from the one before
    seconds: float
    runs: int
    slept: float


@dataclass(frozen=True)
class Growth:
    """The proportional set size of one process, once a tenth of the jobs was done and at the end; bytes."""

    name: str
    before: int
    after: int

    @property
    def megabytes(self) -> float:
        return (self.after - self.before) / MEGABYTE


@dataclass(frozen=True)
class Backlog:
    """What was measured."""

    jobs: int
    #: ticks that asked for runs
    ticks: Sequence[Tick]
    #: jobs a second from the push of the first to the end of the last
    rate: float
    #: jobs a second over the first tenth and the last
    first: float
    last: float
    #: the machine's loop in the last tenth over that in the first; above 1 it has slowed
    slowed: float
    growth: Sequence[Growth]
    #: how many places a job began before an older one of its member, at most: about as many as there are workers
    out_of_order: int

    @property
    def slowest_tick(self) -> float:
        return max(tick.seconds for tick in self.ticks)

    @property
    def ratio(self) -> float:
        """Throughput of the last tenth over that of the first, on a machine of steady speed."""
        return self.last * self.slowed / self.first

    @property
    def largest_growth(self) -> float:
        """Megabytes."""
        return max(process.megabytes for process in self.growth)


def measure(jobs: int = 10_000, *, members: int = 20, seconds: float = 36_000.0) -> Backlog:
    """Run the benchmark.

    Raises:
        RuntimeError: not all jobs were completed within `seconds`.
    """
    with (
        installation() as at,
        at.dagster() as instance,
        psycopg.connect(at.stack.endpoints.database_url, autocommit=True) as connection,
    ):
        at.gemini.latency(0.0)
        waiting = insert(connection, jobs, members)
        queue = JobQueue(at.stack.endpoints.redis_url)
        with at.worker():
            pushed = time.time()
            for start in range(0, jobs, 1000):
                queue.push(*waiting[start : start + 1000])
            before, after, drained, loops = _watch(connection, queue, jobs, seconds)
        queue.close()
        first, last, ended = _throughput(connection, waiting)
        early, late = ([loop for done, loop in loops if low <= done <= high] for low, high in TENTHS)
        return Backlog(
            jobs=jobs,
            ticks=ticks_between(instance, pushed, drained),
            rate=jobs / (ended - pushed),
            first=first,
            last=last,
            slowed=statistics.mean(late) / statistics.mean(early),
            growth=[Growth(name, before[name], size) for name, size in after.items() if name in before],
            out_of_order=_out_of_order(connection, waiting),
        )


def insert(connection: psycopg.Connection, jobs: int, members: int) -> list[UUID]:
    """Jobs of one picture in the tables, those of one member after the other."""
    made: list[UUID] = []
    for number in range(members):
        member_id = uuid4()
        connection.execute(
            "insert into quel_member (quel_member_id, quel_email, provider, provider_sub, quel_member_credit)"
            " values (%s, %s, 'bench', 'bench', 1000000000)",
            (member_id, f"{member_id}@localhost"),
        )
        count = jobs // members + (number < jobs % members)
        rows = connection.execute(
            "with productions as (insert into quel_production_photo (quel_member_id, quel_production_path)"
            " select %(member)s, 'cartoon' from generate_series(1, %(count)s) returning production_id)"
            " insert into quel_production_jobs (production_id, job_type, batch_index, total_images, job_input_data,"
            " quel_member_id, quel_production_path)"
            " select production_id, 'simple_general', 0, 1, %(input)s, %(member)s, 'cartoon' from productions"
            " returning job_id",
            {"member": member_id, "count": count, "input": json.dumps({"prompt": "A red fox", "aspect-ratio": "1:1"})},
        )
        made += [row[0] for row in rows]
    return made


def _watch(
    connection: psycopg.Connection, queue: JobQueue, jobs: int, seconds: float
) -> tuple[dict[str, int], dict[str, int], float, list[tuple[float, float]]]:
    """Memory after a tenth of the jobs and at the end; when the last id had left the queue; loops, and the share of
    the jobs that had ended then."""
    deadline = time.monotonic() + seconds
    loops: list[tuple[float, float]] = []
    before: dict[str, int] = {}
    drained = 0.0
    while True:
        row = connection.execute("select count(completed_at) from quel_production_jobs").fetchone()
        done = row[0] if row else 0
        loops.append((done / jobs, glimpse()))
        if not drained and not queue.depths()["queue"]:
            drained = time.time()
        if not before and done >= jobs / 10:
            before = memory()
        if done >= jobs:
            return before, memory(), drained, loops
        if time.monotonic() > deadline:
            raise RuntimeError(f"{done} of {jobs} jobs ended within {seconds:g} s")
        time.sleep(min(SAMPLE_SECONDS, max(0.2, jobs / 2000)))


def memory() -> dict[str, int]:
    """The proportional set size of every process of the installation, by a name that tells which it is."""
    found: dict[str, int] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            size = process.memory_full_info().pss
            found[f"{process.pid} {_name(process.cmdline())}"] = size
        except psutil.Error:
            continue  # it has ended
    return found


def _name(command: Sequence[str]) -> str:
    line = " ".join(command)
    known = {
        "webserver": "webserver",
        "platform.daemon": "daemon",
        "api grpc": "code server",
        "quel_dagster.platform.worker": "worker",
        "gemini_server": "Gemini stand-in",
        "valkey-server": "Valkey",
        "postgres": "PostgreSQL",
    }
    return next((name for part, name in known.items() if part in line), line[:40])


def ticks_between(instance: DagsterInstance, start: float, end: float) -> list[Tick]:
    """The queue sensor's ticks that began in this time and asked for runs; the others wait for ids or for room."""
    (state,) = [state for state in instance.all_instigator_state() if state.instigator_name == SENSOR]
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=start, before=end)
    found, not_before = [], 0.0
    for tick in sorted(ticks, key=lambda tick: tick.timestamp):
        slept = max(0.0, not_before - tick.timestamp)
        full = len(tick.run_ids) >= RUNS_PER_TICK
        not_before = 0.0 if full else tick.timestamp + slept + APART_SECONDS
        if tick.end_timestamp is not None and tick.run_ids:
            found.append(Tick(tick.end_timestamp - tick.timestamp - slept, len(tick.run_ids), slept))
    return found


def _throughput(connection: psycopg.Connection, job_ids: Sequence[UUID]) -> tuple[float, float, float]:
    """Jobs a second over the first tenth and over the last, by when they ended, and when the last one did."""
    rows = connection.execute(
        "select extract(epoch from completed_at)::float, job_status from quel_production_jobs"
        " where job_id = any(%s) order by completed_at",
        (list(job_ids),),
    ).fetchall()
    wrong = [status for _, status in rows if status != "completed"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} jobs were not completed but {wrong[0]}")
    times = [row[0] for row in rows]
    part = max(2, len(times) // 10)
    return (part - 1) / (times[part - 1] - times[0]), (part - 1) / (times[-1] - times[-part]), times[-1]


def _out_of_order(connection: psycopg.Connection, job_ids: Sequence[UUID]) -> int:
    rows = connection.execute(
        "select job_id, quel_member_id from quel_production_jobs where job_id = any(%s) order by started_at",
        (list(job_ids),),
    ).fetchall()
    pushed = {job_id: place for place, job_id in enumerate(job_ids)}
    begun: dict[UUID, list[int]] = {}
    for job_id, member_id in rows:
        begun.setdefault(member_id, []).append(pushed[job_id])
    return max(
        abs(place - wanted) for places in begun.values() for place, wanted in zip(places, sorted(places), strict=True)
    )


def show(found: Backlog) -> str:
    """The figures, a few lines."""
    seconds, slept = sorted(tick.seconds for tick in found.ticks), [tick.slept for tick in found.ticks if tick.slept]
    largest = sorted(found.growth, key=lambda process: -process.megabytes)[:5]
    return "\n".join(
        [
            f"{found.jobs} ids of one-picture jobs wait, {len(found.ticks)} ticks ask for runs",
            f"tick             median {statistics.median(seconds):.2f} s, slowest {seconds[-1]:.2f} s,"
            f" {max(tick.runs for tick in found.ticks)} runs at most; {len(slept)} had slept,"
            f" {max(slept, default=0.0):.2f} s at most, after one without room for more",
            f"jobs a second    {found.rate:.2f}, first tenth {found.first:.2f},"
            f" last tenth {found.last:.2f}, in which the machine's loop took {found.slowed:.2f} × as long:"
            f" {found.ratio:.2f} ×",
            f"out of order     {found.out_of_order} places at most",
            "growth           "
            + ", ".join(f"{process.name.split(' ', 1)[1]} {process.megabytes:+.1f} MB" for process in largest),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=36_000.0, help="give up after so long")
    given = parser.parse_args(arguments)
    print(show(measure(given.jobs, members=given.members, seconds=given.seconds)))


if __name__ == "__main__":
    main()
