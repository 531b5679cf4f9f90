"""Dagster's run queue: how many runs of one member go on at a time, and which of those that wait starts first.

Light to import: each of Dagster's processes does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dagster import DagsterRun
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.storage.tags import PRIORITY_TAG, RETRY_NUMBER_TAG

from quel_dagster.pipeline.tags import LOST_STARTS_TAG, MEMBER_TAG
from quel_dagster.settings import Settings

#: values of `dagster/priority`; a run without one has 0
SMALL_FIRST = 1
BEGUN_FIRST = 2
#: seconds that a run waits before others' being small counts against it no longer
AGED = 60.0


class RunQueue(QueuedRunCoordinator[Any]):
    """At most QUEL_MAX_RUNS_PER_MEMBER runs of one member at a time; without it, no such limit.

    Dagster reads `max_concurrent_runs` from a variable, but not the limits by tag: those would have to stand in
    dagster.yaml as numbers, the same for every installation.
    """

    def __init__(self, *, tag_concurrency_limits: Sequence[Mapping[str, Any]] | None = None, **config: Any) -> None:
        limits = list(tag_concurrency_limits or ())
        limit = Settings.read().max_runs_per_member
        if limit is not None:
            limits.append({"key": MEMBER_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": limit})
        super().__init__(tag_concurrency_limits=limits, **config)


class StartOrder:
    """Which waiting run starts first: that of the highest priority, among equals the oldest.

    A run that takes the place of one that died, or that was launched before, has the priority of what was begun, though
    its tags say what they said at first. A run without a priority has that of small jobs once it has been seen to wait
    for AGED; that is decided at each look, so that small ones keep their order among each other (F2, F5 of `fairness`).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: when each run was first seen to wait: as of the last look, and of the one that goes on
        self._known: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def sort(self, runs: Iterable[DagsterRun]) -> list[DagsterRun]:
        """The runs, given as they came, in their order. One look may sort several times, with a page more each."""
        now = self._clock()

        def place(run: DagsterRun) -> int:
            since = self._seen.setdefault(run.run_id, self._known.get(run.run_id, now))
            return -_priority(run, waited=now - since)

        return sorted(runs, key=place)

    def end_look(self) -> None:
        """Forget the runs that this look did not see; while no slot is free, Dagster looks at none."""
        if self._seen:
            self._known, self._seen = self._seen, {}


def _priority(run: DagsterRun, *, waited: float) -> int:
    tag = run.tags.get(PRIORITY_TAG)
    try:
        tagged = int(tag or 0)
    except ValueError:  # as Dagster reads it
        tagged = 0
    if RETRY_NUMBER_TAG in run.tags or LOST_STARTS_TAG in run.tags:
        return max(tagged, BEGUN_FIRST)
    return SMALL_FIRST if tag is None and waited >= AGED else tagged
