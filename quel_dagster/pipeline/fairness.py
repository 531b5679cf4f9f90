"""Choose the job that becomes a run next, and limit the runs waiting in Dagster (docs/decisions/fairness.md).

Ids wait in Redis; only a few are runs in Dagster's queue, because Dagster reads all of those on every iteration.
The rules, for `jobs:queue` and for the runs:

    F1  An id leaves `jobs:queue` or `jobs:again` only into `jobs:processing`, atomically, with all of its copies.
    F2  The ids of one member become runs in the order in which they were pushed.
    F3  No starvation: the next id is of the member with the fewest live runs; on a tie, the oldest id. A member who
        pushed a thousand ids has live runs; a member who pushed one has none, and comes first.
    F4  No member's runs fill Dagster's queue: a run that waits for its member's limit leaves room for others.
        The runs in Dagster's queue take turns by member, too (`run_queue`).
    F5  A large job starts even if small ones keep coming: after one minute in Dagster's queue, small jobs no longer
        have precedence over it (`run_queue`).
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self
from uuid import UUID

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.adapters.queue_entries import job_id_of
from quel_dagster.jobs.model import JobStatus
from quel_dagster.platform.internals import NOT_FINISHED_STATUSES, PRIORITY_TAG
from quel_dagster.platform.run_queue import BEGUN_FIRST, SMALL_FIRST
from quel_dagster.platform.tags import MEMBER_TAG
from quel_dagster.settings import Settings

#: Maximum of runs in Dagster's queue: enough for a burst, few enough to be read on every iteration.
QUEUED_RUNS = 100
#: and of one member's runs.
QUEUED_RUNS_OF_ONE_MEMBER = 25
#: Number of ids at the front of `jobs:queue` to choose from, and of rows that one tick reads for that.
LOOK_AHEAD = 20_000
ROWS_PER_TICK, ROWS_PER_QUERY = 2_000, 1_000
#: Beside the older worker, an id waits in `jobs:queue` this many seconds for its row, which names its member.
ROW_SECONDS = 5.0

#: reads the rows of these ids that exist
Describe = Callable[[list[UUID]], Mapping[UUID, JobDescription]]
#: member id; "" for ids that have no member or row, or are invalid
Lane = str


@dataclass(frozen=True)
class Bounds:
    """The limits on runs in Dagster's queue."""

    queued: int
    queued_of_one_member: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """With a limit per member, at most that many more of its runs wait: then blocked runs are never more than
        running ones, and the rest of the queue is free for others (F4)."""
        limit = settings.max_runs_per_member
        return cls(
            queued=max(QUEUED_RUNS, 2 * settings.runs_here),
            queued_of_one_member=min(QUEUED_RUNS_OF_ONE_MEMBER, limit or QUEUED_RUNS_OF_ONE_MEMBER),
        )


@dataclass(frozen=True)
class Load:
    """The runs that have not ended, by member."""

    #: number of runs that may be requested now
    room: int
    queued: Mapping[Lane, int] = field(default_factory=Counter)
    live: Mapping[Lane, int] = field(default_factory=Counter)

    def with_room_for_one(self) -> Self:
        """Return this load with room for one run in Dagster's queue, when none waits there."""
        return replace(self, room=max(0, min(self.room, 1 - sum(self.queued.values()))))

    def with_queued(self, lanes: Iterable[Lane]) -> Self:
        """Return this load plus requested runs of these lanes."""
        more = Counter(lanes)
        return replace(self, queued=Counter(self.queued) + more, live=Counter(self.live) + more)


class LiveRuns:
    """Reads the load. Remembers the lane of each live run, so that a run is read once; its tag does not change."""

    def __init__(self) -> None:
        self._known: dict[str, Lane] = {}

    def load(self, instance: DagsterInstance, bounds: Bounds) -> Load:
        """Return the current load. For a full queue only that is determined, at the cost of one query."""
        queued = instance.run_storage.get_run_ids(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))
        if len(queued) >= bounds.queued:
            return Load(room=0)
        live = instance.run_storage.get_run_ids(RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
        lanes = self._lanes(instance, dict.fromkeys([*queued, *live]))
        return Load(
            room=bounds.queued - len(queued),
            queued=Counter(lanes.get(run_id, "") for run_id in queued),
            live=Counter(lanes.values()),
        )

    def _lanes(self, instance: DagsterInstance, run_ids: Iterable[str]) -> dict[str, Lane]:
        lanes = {run_id: self._known.get(run_id, "") for run_id in run_ids}
        if unknown := [run_id for run_id in lanes if run_id not in self._known]:
            for run in instance.get_runs(RunsFilter(run_ids=unknown)):
                lanes[run.run_id] = run.tags.get(MEMBER_TAG, "")
        # a run launched by hand gets its tag later
        self._known = {run_id: lane for run_id, lane in lanes.items() if lane}
        return lanes


def next_ids(waiting: Mapping[bytes, Lane], load: Load, *, room: int, of_one_member: int) -> list[bytes]:
    """Return the entries that become runs next, in this order (F2, F3).

    Args:
        waiting: entries of `jobs:queue` and their lanes, oldest first.
        room: maximum of entries.
        of_one_member: maximum of runs of a lane in Dagster's queue, including those already there.
    """
    lanes: dict[Lane, deque[tuple[int, bytes]]] = {}
    for place, (raw, lane) in enumerate(waiting.items()):
        lanes.setdefault(lane, deque()).append((place, raw))
    left = {lane: of_one_member - load.queued.get(lane, 0) for lane in lanes}
    line = [(load.live.get(lane, 0), ids[0][0], lane) for lane, ids in lanes.items() if left[lane] > 0]
    heapq.heapify(line)
    chosen: list[bytes] = []
    while line and len(chosen) < room:
        runs, _, lane = heapq.heappop(line)
        chosen.append(lanes[lane].popleft()[1])
        left[lane] -= 1
        if lanes[lane] and left[lane] > 0:
            heapq.heappush(line, (runs + 1, lanes[lane][0][0], lane))
    return chosen


class Lanes:
    """The lane of each waiting entry. Remembers waiting entries, so that a row is read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Lane] = {}
        #: waiting ids of the older worker's kinds
        self.foreign: frozenset[bytes] = frozenset()
        #: ids without a row, and the time each was first seen
        self._without_row: dict[bytes, float] = {}

    @property
    def of_older_worker(self) -> frozenset[bytes]:
        """Waiting entries only for the older worker: its kinds, and ids without a row yet, so of unknown kind.
        After `ROW_SECONDS` an id without a row counts as one that never gets one."""
        now = time.monotonic()
        young = (raw for raw, since in self._without_row.items() if now - since < ROW_SECONDS)
        return self.foreign.union(young)

    def of(self, entries: Iterable[bytes], describe: Describe) -> dict[bytes, Lane]:
        """Return the entries and their lanes in order, without duplicates. Leaves out entries beyond a tick's limit."""
        order = list(dict.fromkeys(entries))
        known = {raw: self._known[raw] for raw in order if raw in self._known}
        new = [raw for raw in order if raw not in known][:ROWS_PER_TICK]
        foreign = self.foreign.intersection(known)
        for start in range(0, len(new), ROWS_PER_QUERY):
            some = {raw: job_id_of(raw) for raw in new[start : start + ROWS_PER_QUERY]}
            rows = describe([job_id for job_id in some.values() if job_id])
            for raw, job_id in some.items():
                if job_id and job_id in rows:
                    known[raw] = str(rows[job_id].member_id or "")
                    if rows[job_id].foreign_kind:
                        foreign |= {raw}
        self._known, self.foreign = known, foreign
        looked_up, now = set(new), time.monotonic()
        self._without_row = {
            raw: self._without_row.get(raw, now) for raw in new if raw not in known and job_id_of(raw) is not None
        }
        return {raw: known.get(raw, "") for raw in order if raw in known or raw in looked_up}


def priority_tags(job: JobDescription, settings: Settings) -> dict[str, str]:
    """Return the priority tags: a job begun before (handed over or swept) continues before others begin.

    A small job starts before larger ones.
    """
    if job.job_status == JobStatus.PROCESSING:
        return {PRIORITY_TAG: str(BEGUN_FIRST)}
    small = 0 < job.total_images <= settings.small_job_pictures
    return {PRIORITY_TAG: str(SMALL_FIRST)} if small else {}
