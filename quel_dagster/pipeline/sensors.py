"""The queue sensor: launch one run for each id pushed onto `jobs:queue` or `jobs:again`."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from redis import RedisError

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.adapters.intake import Pauser, intake_paused
from quel_dagster.adapters.queue import AGAIN, QUEUE, JobQueue
from quel_dagster.adapters.queue_entries import Delivery
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.pipeline.assets import image_job, run_config
from quel_dagster.pipeline.fairness import LOOK_AHEAD, Bounds, Describe, Lanes, LiveRuns, Load, next_ids, priority_tags
from quel_dagster.pipeline.resources import DatabaseResource, QueueResource
from quel_dagster.pipeline.run_tags import run_tags
from quel_dagster.platform.internals import RUN_KEY_TAG
from quel_dagster.platform.tags import LAUNCH_TAG
from quel_dagster.settings import Settings

#: Seconds that a tick blocks on Redis. The daemon starts the next one within 0.2 s of its end, and an id that is pushed
#: between them waits. A daemon that stops waits for its tick, which must end within the grace of a service (10 s).
WAIT_SECONDS = 6.0
#: Seconds between the starts of two ticks, except after one that waited for an id, or that claimed as many as it may:
#: others may follow at once.
APART_SECONDS = 1.0
#: Maximum of runs that one tick requests; more ids stay in Redis. The daemon creates them one after the other within
#: the tick, which stays well below a second with this number; a burst of 20 ids takes two ticks.
RUNS_PER_TICK = 10
#: An id may be pushed a moment before its row is committed: after this many checks, one per tick, it is dead.
ROW_CHECKS = 3
NOT_A_UUID = "not a UUID"
NO_SUCH_ROW = "no such row in quel_production_jobs"
NOTHING_WAITS = "No job id is waiting in jobs:queue."

_lanes, _live_runs = Lanes(), LiveRuns()


class _Pace:
    """Keeps ticks apart. The daemon starts a tick of this sensor as soon as the last one has ended."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        self._sleep = sleep
        #: monotonic seconds
        self._not_before = 0.0

    def begin(self) -> None:
        self._sleep(max(0.0, self._not_before - time.monotonic()))
        self._not_before = time.monotonic() + APART_SECONDS

    def hurry(self) -> None:
        """Let the next tick begin at once."""
        self._not_before = 0.0


_pace = _Pace()


@sensor(
    job=image_job,
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Waits on the Redis lists jobs:again and jobs:queue and launches one run per job id.",
)
def jobs_queue_sensor(
    context: SensorEvaluationContext, queue: QueueResource, database: DatabaseResource
) -> SensorResult | SkipReason:
    """Claim ids into `jobs:processing`, request their runs, and remove an entry once its run exists.

    A repeated tick finds the same entries with the same run keys, so Dagster starts no run twice.
    """
    _pace.begin()
    job_queue = queue.open()
    try:
        for entry in job_queue.dead_letter_long_entries(NOT_A_UUID):
            context.log.warning(f"{entry} went to jobs:dead: {NOT_A_UUID}")
        finish_launched(job_queue, context.instance)
        pause = intake_paused(job_queue.client)
        if pause is not None and pause.pauser is Pauser.OPERATOR:
            return SkipReason(str(pause))
        settings = Settings.of_process()
        bounds = Bounds.of(settings)
        load = _live_runs.load(context.instance, bounds)
        if pause is not None:  # one run waits in Dagster's queue: the daemon starts it as a probe of Gemini
            load = load.with_room_for_one()
        describe = _described_once(database.describe_jobs)
        claim_next(job_queue, describe, load, bounds, older_worker=settings.older_worker)
        result = requests(context, job_queue, describe)
        return SkipReason(str(pause)) if pause is not None and isinstance(result, SkipReason) else result
    except RedisError as error:
        raise unreachable(error) from None
    finally:
        job_queue.close()


def finish_launched(queue: JobQueue, instance: DagsterInstance) -> None:
    """Remove the entries that have a run in Dagster's storage."""
    deliveries = [delivery for delivery in queue.deliveries() if delivery.job_id]
    if not deliveries:
        return
    runs = instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: [delivery.run_key for delivery in deliveries]}))
    launched = {run.tags[RUN_KEY_TAG] for run in runs}
    queue.finish([delivery for delivery in deliveries if delivery.run_key in launched])


def _described_once(describe: Describe) -> Describe:
    """Return a function that reads each row once; one that is not there is looked for again."""
    known: dict[UUID, JobDescription] = {}

    def described(job_ids: list[UUID]) -> Mapping[UUID, JobDescription]:
        if new := [job_id for job_id in job_ids if job_id not in known]:
            known.update(describe(new))
        return known

    return described


def claim_next(queue: JobQueue, describe: Describe, load: Load, bounds: Bounds, *, older_worker: bool) -> None:
    """Claim the ids that may become runs now; wait for an id if there is none.

    `jobs:again` comes first: its jobs were begun, or have waited before.

    Args:
        older_worker: the older worker reads `jobs:queue` too, and ids of its kinds stay there for it (domain.md §1).
    """
    claimed = len(queue.deliveries())
    room = min(load.room, RUNS_PER_TICK) - claimed
    if room <= 0:
        return
    foreign = _lanes.foreign if older_worker else ()
    # An empty queue must not delay entries that are claimed already.
    if not claimed and not queue.wait(0, left_alone=foreign):
        if queue.wait(WAIT_SECONDS, left_alone=foreign):
            _pace.hurry()
        pause = intake_paused(queue.client)
        if pause is not None and pause.pauser is Pauser.OPERATOR:  # it began during the wait
            return
    again, waiting = queue.peek(LOOK_AHEAD, source=AGAIN), queue.peek(LOOK_AHEAD + len(_lanes.foreign))
    lanes = _lanes.of([*again, *waiting], describe)
    left_alone = _lanes.of_older_worker if older_worker else frozenset()
    for source, entries in ((AGAIN, again), (QUEUE, waiting)):
        here = {raw: lanes[raw] for raw in dict.fromkeys(entries) if raw in lanes}
        if source == QUEUE:
            here = {raw: lane for raw, lane in here.items() if raw not in left_alone}
        chosen = next_ids(here, load, room=room, of_one_member=bounds.queued_of_one_member)
        queue.take(chosen, sources=[source])
        claimed += len(chosen)
        room -= len(chosen)
        load = load.with_queued(here[raw] for raw in chosen)
    if claimed >= RUNS_PER_TICK:
        _pace.hurry()


def requests(context: SensorEvaluationContext, queue: JobQueue, describe: Describe) -> SensorResult | SkipReason:
    """Return one run request per entry that has a row; move what can never run to `jobs:dead`.

    Dagster shows a reason only for skipped ticks. The cursor, which is never read back, is shown beside every tick
    and at the top of the sensor's page: it holds the result of the last tick that did something.
    """
    settings = Settings.of_process()
    deliveries = queue.deliveries()[:RUNS_PER_TICK]
    described = describe([delivery.job_id for delivery in deliveries if delivery.job_id])
    run_requests: list[RunRequest] = []
    did = Counter[str]()
    messages: list[str] = []
    for delivery in deliveries:
        if delivery.job_id is None:
            messages.append(_dead_letter(context, queue, delivery, NOT_A_UUID))
            did[f"to jobs:dead: {NOT_A_UUID}"] += delivery.copies
        elif (job := described.get(delivery.job_id)) and job.foreign_kind:
            messages.append(_dead_letter(context, queue, delivery, job.foreign_kind.reason))
            did[f"to jobs:dead: {job.foreign_kind.reason}"] += 1
        elif job:
            run_requests.append(
                RunRequest(
                    run_key=delivery.run_key,
                    run_config=run_config(delivery.job_id),
                    tags={**run_tags(job), **priority_tags(job, settings), LAUNCH_TAG: "queue"},
                )
            )
            did["launched"] += 1
            context.log.info(f"Received new job: {delivery.job_id}")
            if delivery.copies > 1:
                did["duplicate"] += delivery.copies - 1
                messages.append(f"{delivery.job_id} was pushed {delivery.copies} times; one run")
        elif (misses := queue.missed(delivery)) >= ROW_CHECKS:
            messages.append(_dead_letter(context, queue, delivery, NO_SUCH_ROW))
            did[f"to jobs:dead: {NO_SUCH_ROW}"] += 1
        else:
            did["without a row yet"] += 1
            messages.append(f"{delivery.job_id} has no row yet (check {misses} of {ROW_CHECKS})")
    for line in messages:
        context.log.warning(line)
    if did:
        summary = summary_of(did)
        context.log.info(summary)
        context.update_cursor(f"{datetime.now(UTC):%H:%M:%S} {summary}")
    if run_requests:
        return SensorResult(run_requests=run_requests)
    return SkipReason("; ".join(messages) or _skip_reason(queue, older_worker=settings.older_worker))


def _skip_reason(queue: JobQueue, *, older_worker: bool) -> str:
    depths = queue.depths()
    foreign = len(_lanes.foreign) if older_worker else 0
    held_back = depths["again"] + depths["queue"] - foreign
    if held_back > 0:
        return f"{held_back} ids wait in jobs:queue: the limit of queued runs is reached."
    return f"{foreign} ids in jobs:queue are left for the older worker." if foreign else NOTHING_WAITS


def summary_of(did: Mapping[str, int]) -> str:
    """Return a summary such as `launched 3, 1 duplicate, 1 to jobs:dead: not a UUID`."""
    launched = did.get("launched", 0)
    rest = [
        f"{count} {what}{'s' * (what == 'duplicate' and count > 1)}"
        for what, count in did.items()
        if what != "launched"
    ]
    return ", ".join([f"launched {launched}", *rest])


def _dead_letter(context: SensorEvaluationContext, queue: JobQueue, delivery: Delivery, reason: str) -> str:
    queue.dead_letter(delivery, reason)
    return f"{delivery.job_id or delivery.describe()} went to jobs:dead: {reason}"
