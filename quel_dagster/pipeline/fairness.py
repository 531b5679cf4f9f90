"""Whose job becomes a run next, and how many runs may wait in Dagster at all (docs/decisions/fairness.md).

Ids wait in Redis; few of them are runs that wait in Dagster's queue, since Dagster reads all of those at every look.
What must hold, for `jobs:queue` as for the runs:

    F1  An id leaves `jobs:queue` only into `jobs:processing`, in one step, all of its copies together.
    F2  The ids of one member become runs in the order in which they were pushed.
    F3  No id is passed over for ever: the next one is of the member with the fewest live runs, and among equals the
        oldest. Whoever pushed a thousand has live runs; whoever pushed one has none, and comes first.
    F4  No member's runs fill Dagster's queue: a run that waits there for its member's limit leaves room for others.
    F5  A large job starts although small ones keep coming: once it has waited in Dagster's queue for a minute, small
        ones have no precedence over it any more (`run_queue`).
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

from dagster import DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PRIORITY_TAG

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.adapters.queue import job_id_of
from quel_dagster.jobs.model import JobStatus
from quel_dagster.pipeline.run_queue import BEGUN_FIRST, SMALL_FIRST
from quel_dagster.pipeline.tags import MEMBER_TAG
from quel_dagster.settings import Settings

#: Runs that wait in Dagster's queue, at most: enough for a burst, few enough to be read at every look.
QUEUED_RUNS = 100
#: and of one member.
QUEUED_RUNS_OF_ONE_MEMBER = 25
#: Ids from the front of `jobs:queue` among which the next ones are chosen, and rows that one tick looks up for it.
LOOK_AHEAD = 20_000
ROWS_PER_TICK, ROWS_PER_QUERY = 2_000, 1_000

#: member id; "" for ids without a member, a row, or any sense
Lane = str


@dataclass(frozen=True)
class Bounds:
    """How many runs may wait in Dagster's queue."""

    queued: int
    queued_of_one_member: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """With a limit per member, no more of its runs wait than may run: those that it blocks are then at most as
        many as run, and the rest of the queue is for others (F4)."""
        limit = settings.max_runs_per_member
        return cls(
            queued=max(QUEUED_RUNS, 2 * settings.workers),
            queued_of_one_member=min(QUEUED_RUNS_OF_ONE_MEMBER, limit or QUEUED_RUNS_OF_ONE_MEMBER),
        )


@dataclass(frozen=True)
class Load:
    """The runs that have not ended, by member."""

    #: runs that may be asked for now
    room: int
    queued: Mapping[Lane, int] = field(default_factory=Counter)
    live: Mapping[Lane, int] = field(default_factory=Counter)

    @classmethod
    def of(cls, instance: DagsterInstance, bounds: Bounds) -> Self:
        """As it is now. Of a full queue only that is known, so that a look at it costs one count."""
        waiting = instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))
        if waiting >= bounds.queued:
            return cls(room=0)
        records = instance.get_run_records(RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
        queued = (record for record in records if record.dagster_run.status is DagsterRunStatus.QUEUED)
        return cls(room=bounds.queued - waiting, queued=Counter(map(_lane, queued)), live=Counter(map(_lane, records)))


def _lane(record: RunRecord) -> Lane:
    return record.dagster_run.tags.get(MEMBER_TAG, "")


def next_ids(waiting: Mapping[bytes, Lane], load: Load, *, room: int, of_one_member: int) -> list[bytes]:
    """The entries that become runs next, in this order (F2, F3).

    Args:
        waiting: entries of `jobs:queue` and their lanes, oldest first.
        room: entries at most.
        of_one_member: runs of a lane that may wait in Dagster's queue, those that do included.
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
    """Whose the waiting entries are. Remembers those that wait, so that a row is read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Lane] = {}

    def of(
        self, entries: Iterable[bytes], describe: Callable[[list[UUID]], Mapping[UUID, JobDescription]]
    ) -> dict[bytes, Lane]:
        """The entries and their lanes, in their order, each once. What one tick cannot look up is left out."""
        order = list(dict.fromkeys(entries))
        known = {raw: self._known[raw] for raw in order if raw in self._known}
        new = [raw for raw in order if raw not in known][:ROWS_PER_TICK]
        for start in range(0, len(new), ROWS_PER_QUERY):
            some = {raw: job_id_of(raw) for raw in new[start : start + ROWS_PER_QUERY]}
            rows = describe([job_id for job_id in some.values() if job_id])
            known.update(
                (raw, str(rows[job_id].member_id or "")) for raw, job_id in some.items() if job_id and job_id in rows
            )
        self._known = known
        looked_up = set(new)
        return {raw: known.get(raw, "") for raw in order if raw in known or raw in looked_up}


def priority_tags(job: JobDescription, settings: Settings) -> dict[str, str]:
    """A job that was begun goes on before others begin: a worker that stops hands it over, the sweep finds it.

    A small job starts before larger ones.
    """
    if job.job_status == JobStatus.PROCESSING:
        return {PRIORITY_TAG: str(BEGUN_FIRST)}
    small = 0 < job.total_images <= settings.small_job_pictures
    return {PRIORITY_TAG: str(SMALL_FIRST)} if small else {}
