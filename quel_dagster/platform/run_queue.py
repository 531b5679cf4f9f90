"""Dagster's run queue: the limit of concurrent runs per member, and the start order.

Must stay light to import: each of Dagster's processes does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dagster import DagsterRun
from typing_extensions import override

from quel_dagster.platform.internals import PRIORITY_TAG, RETRY_NUMBER_TAG, QueuedRunCoordinator, SubmitRunContext
from quel_dagster.platform.runs import job_of
from quel_dagster.platform.tags import JOB_ID_TAG, LOST_STARTS_TAG, MEMBER_TAG
from quel_dagster.settings import Settings

#: values of `dagster/priority`; a run without one has 0
SMALL_FIRST = 1
BEGUN_FIRST = 2
#: seconds in the queue after which small runs no longer have precedence over a run
AGED = 60.0
#: set by every submission in this process
run_submitted = threading.Event()


class RunQueue(QueuedRunCoordinator[Any]):
    """At most QUEL_MAX_RUNS_PER_MEMBER concurrent runs per member; without it, no such limit.

    Dagster reads `max_concurrent_runs` from a variable, but not the limits by tag: those would have to be numbers in
    dagster.yaml, the same for every installation.
    """

    def __init__(self, *, tag_concurrency_limits: Sequence[Mapping[str, Any]] | None = None, **config: Any) -> None:
        limits = list(tag_concurrency_limits or ())
        settings = Settings.of_process()
        self._max_runs = settings.max_runs
        limit = settings.max_runs_per_member
        if limit is not None:
            limits.append({"key": MEMBER_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": limit})
        super().__init__(tag_concurrency_limits=limits, **config)

    @override
    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Queue a run, and wake the queue's daemon if it is in this process.

        A run launched by hand is first tagged with its job, for Terminate, the sweep and people.
        """
        run = context.dagster_run
        if JOB_ID_TAG not in run.tags and (job_id := job_of(run)) is not None:
            self._instance.add_run_tags(run.run_id, {JOB_ID_TAG: str(job_id)})
        submitted = super().submit_run(context)
        run_submitted.set()
        return submitted

    @override
    def get_run_queue_config(self) -> Any:
        """Return the current limits: workers come and go, and a broker that refuses pauses the queue."""
        from quel_dagster.platform.launcher import QuelRunLauncher  # noqa: PLC0415  brings Celery

        config = super().get_run_queue_config()
        launcher = self._instance.run_launcher
        if not isinstance(launcher, QuelRunLauncher):
            return config
        capacity = launcher.capacity() if launcher.takes_runs() else 0
        return config._replace(
            max_concurrent_runs=capacity if self._max_runs is None else min(capacity, self._max_runs)
        )


class StartOrder:
    """The start order of queued runs: highest priority first; within a priority members take turns, oldest first.

    A run that replaces a dead one, or that was launched before, has the priority of begun work, although its tags hold
    the original one. A run without a priority gets that of small jobs after AGED seconds in the queue; that is decided
    once per iteration, so that small ones keep their order among each other (F2, F5 of `fairness`).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: when each run was first seen in the queue: as of the previous iteration, and of the current one
        self._known: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def sort(self, runs: Iterable[DagsterRun]) -> list[DagsterRun]:
        """Return the runs in start order. One iteration may sort several times, with one more page each."""
        now = self._clock()

        turns: Counter[tuple[int, str]] = Counter()

        def place(run: DagsterRun) -> tuple[int, int]:
            since = self._seen.setdefault(run.run_id, self._known.get(run.run_id, now))
            priority = _priority(run, waited=now - since)
            lane = (priority, run.tags.get(MEMBER_TAG, ""))
            turns[lane] += 1
            return -priority, turns[lane]

        return sorted(runs, key=place)

    def end_iteration(self) -> None:
        """Forget the runs that this iteration did not see; while no slot is free, Dagster reads none."""
        if self._seen:
            self._known, self._seen = self._seen, {}


def continues_work(run: DagsterRun) -> bool:
    """Return whether this run continues work that another one began."""
    return RETRY_NUMBER_TAG in run.tags or LOST_STARTS_TAG in run.tags


def _priority(run: DagsterRun, *, waited: float) -> int:
    tag = run.tags.get(PRIORITY_TAG)
    try:
        tagged = int(tag or 0)
    except ValueError:  # as Dagster reads it
        tagged = 0
    if continues_work(run):
        return max(tagged, BEGUN_FIRST)
    return SMALL_FIRST if tag is None and waited >= AGED else tagged
