"""The queue sensor: an id pushed onto `jobs:queue` becomes one run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

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
from dagster._core.storage.tags import RUN_KEY_TAG
from redis import RedisError

from quel_dagster.adapters.queue import Delivery, JobQueue, unreachable
from quel_dagster.pipeline.assets import image_job, run_config
from quel_dagster.pipeline.fairness import LOOK_AHEAD, Bounds, Lanes, Load, next_ids, priority_tags
from quel_dagster.pipeline.metadata import run_tags
from quel_dagster.pipeline.resources import QueueResource, StudioResource
from quel_dagster.pipeline.tags import LAUNCH_TAG
from quel_dagster.settings import Settings

#: A tick blocks on Redis this long; the daemon starts the next one as soon as it ends.
WAIT_SECONDS = 5.0
#: Runs that one tick asks for: what is above stays in Redis. The daemon makes them one after the other, in the tick,
#: which takes well below a second so; a burst of 20 ids takes two.
RUNS_PER_TICK = 12
#: An id may be pushed a moment before its row is committed; this many looks, one a tick, then it is dead.
LOOKS_FOR_A_ROW = 3
NOT_A_UUID = "not a UUID"
NO_SUCH_ROW = "no such row in quel_production_jobs"
NOTHING_WAITS = "No job id is waiting in jobs:queue."

_lanes = Lanes()


@sensor(
    job=image_job,
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Waits on the Redis list jobs:queue and launches one run per job id.",
)
def jobs_queue_sensor(
    context: SensorEvaluationContext, queue: QueueResource, studio: StudioResource
) -> SensorResult | SkipReason:
    """Claims ids into `jobs:processing`, asks for their runs, and takes an entry away once its run exists.

    A repeated tick finds the same entries with the same run keys, so Dagster starts nothing twice.
    """
    job_queue = queue.open()
    try:
        finish_launched(job_queue, context.instance)
        bounds = Bounds.of(Settings.read())
        load = Load.of(context.instance, bounds)
        claim_next(job_queue, studio, load, bounds)
        return requests(context, job_queue, studio)
    except RedisError as error:
        raise unreachable(error) from None
    finally:
        job_queue.close()


def finish_launched(queue: JobQueue, instance: DagsterInstance) -> None:
    """Take away the entries whose run exists in Dagster's storage."""
    deliveries = [delivery for delivery in queue.deliveries() if delivery.job_id]
    if not deliveries:
        return
    runs = instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: [delivery.run_key for delivery in deliveries]}))
    launched = {run.tags[RUN_KEY_TAG] for run in runs}
    queue.finish([delivery for delivery in deliveries if delivery.run_key in launched])


def claim_next(queue: JobQueue, studio: StudioResource, load: Load, bounds: Bounds) -> None:
    """Claim what may become a run now; wait for an id if there is none at all."""
    claimed = len(queue.deliveries())
    room = min(load.room, RUNS_PER_TICK) - claimed
    if room > 0 and not queue.depths()["queue"]:
        # What is claimed already is not held up by an empty queue.
        room -= queue.claim(wait_seconds=0 if claimed else WAIT_SECONDS, limit=1)
    if room > 0 and (waiting := queue.peek(LOOK_AHEAD)):
        lanes = _lanes.of(waiting, studio.describe_jobs)
        queue.take(next_ids(lanes, load, room=room, of_one_member=bounds.queued_of_one_member))


def requests(context: SensorEvaluationContext, queue: JobQueue, studio: StudioResource) -> SensorResult | SkipReason:
    """One run request per entry whose row exists; what can never run goes to `jobs:dead`.

    Dagster shows a reason for skipped ticks alone. The cursor, which nothing is read from, stands beside every tick
    and on top of the sensor's page: it says what the last tick that did something did.
    """
    settings = Settings.read()
    deliveries = queue.deliveries()[:RUNS_PER_TICK]
    described = studio.describe_jobs([delivery.job_id for delivery in deliveries if delivery.job_id])
    asked: list[RunRequest] = []
    did = Counter[str]()
    said: list[str] = []
    for delivery in deliveries:
        if delivery.job_id is None:
            said.append(_bury(context, queue, delivery, NOT_A_UUID))
            did[f"to jobs:dead: {NOT_A_UUID}"] += delivery.copies
        elif delivery.job_id in described:
            asked.append(
                RunRequest(
                    run_key=delivery.run_key,
                    run_config=run_config(delivery.job_id),
                    tags={
                        **run_tags(described[delivery.job_id]),
                        **priority_tags(described[delivery.job_id], settings),
                        LAUNCH_TAG: "queue",
                    },
                )
            )
            did["launched"] += 1
            context.log.info(f"Received new job: {delivery.job_id}")
            if delivery.copies > 1:
                did["duplicate"] += delivery.copies - 1
                said.append(f"{delivery.job_id} was pushed {delivery.copies} times; one run")
        elif (looks := queue.missed(delivery)) >= LOOKS_FOR_A_ROW:
            said.append(_bury(context, queue, delivery, NO_SUCH_ROW))
            did[f"to jobs:dead: {NO_SUCH_ROW}"] += 1
        else:
            did["without a row yet"] += 1
            said.append(f"{delivery.job_id} has no row yet (look {looks} of {LOOKS_FOR_A_ROW})")
    for line in said:
        context.log.warning(line)
    if did:
        summary = summed_up(did)
        context.log.info(summary)
        context.update_cursor(f"{datetime.now(UTC):%H:%M:%S} {summary}")
    if asked:
        return SensorResult(run_requests=asked)
    held_back = queue.depths()["queue"]
    return SkipReason(
        _sentence(said)
        or (f"{held_back} ids wait in jobs:queue: enough runs wait already." if held_back else NOTHING_WAITS)
    )


def summed_up(did: Mapping[str, int]) -> str:
    """`launched 3, 1 duplicate, 1 to jobs:dead: not a UUID`."""
    launched = did.get("launched", 0)
    rest = [
        f"{count} {what}{'s' * (what == 'duplicate' and count > 1)}"
        for what, count in did.items()
        if what != "launched"
    ]
    return ", ".join([f"launched {launched}", *rest])


def _bury(context: SensorEvaluationContext, queue: JobQueue, delivery: Delivery, reason: str) -> str:
    queue.bury(delivery, reason)
    return f"{delivery.job_id or delivery.describe()} went to jobs:dead: {reason}"


def _sentence(lines: Sequence[str]) -> str:
    return "; ".join(lines)
