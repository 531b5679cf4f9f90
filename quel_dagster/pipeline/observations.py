"""What keeps the web app's tables alive in the lineage: figures of the queue each minute, and checks of them.

No run is launched for it: the sensor's tick reports the events itself. A minute in which nothing changed is not
written down, but for one in ten, so that a quiet night leaves a line in the plots and not a thousand rows.
"""

from __future__ import annotations

import json
import time

from dagster import (
    AssetObservation,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)
from redis import RedisError

from quel_dagster.adapters.database.figures import Backlog, backlog
from quel_dagster.adapters.queue import unreachable
from quel_dagster.pipeline import checks
from quel_dagster.pipeline.names import JOBS_TABLE, REFERENCES
from quel_dagster.pipeline.resources import QueueResource, StudioResource
from quel_dagster.settings import Settings

OBSERVE_SECONDS = 60
#: A minute like the last one is written down all the same after this many seconds.
QUIET_SECONDS = 600


@sensor(
    minimum_interval_seconds=OBSERVE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Each minute: how many jobs wait and for how long, what is at work, what is dead. Plots and checks of "
    "quel_production_jobs.",
)
def queue_observer(context: SensorEvaluationContext, queue: QueueResource, studio: StudioResource) -> SensorResult:
    process = studio.process
    waiting = process.run(lambda: backlog(process.studio.parts.database))
    job_queue = queue.open()
    try:
        depths = job_queue.depths()
    except RedisError as error:
        raise unreachable(error) from None
    finally:
        job_queue.close()
    figures = {
        "jobs_pending": waiting.pending,
        "jobs_processing": waiting.processing,
        "queue_depth": depths["queue"],
        "becoming_runs": depths["processing"],
        "runs_waiting": _count(context.instance, DagsterRunStatus.QUEUED),
        "runs_at_work": _count(context.instance, DagsterRunStatus.STARTED),
        "dead_letters": depths["dead"],
    }
    verdicts = list(checks.of_queue(waiting, depths["dead"], warn_seconds=Settings.read().warn_queue_seconds))
    state = {**figures, "passed": [verdict.passed for verdict in verdicts]}
    if not _worth_writing(context.cursor, state, waiting):
        return SensorResult(cursor=context.cursor)
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items() if value) or "nothing waits"
    context.log.info(said)
    return SensorResult(
        asset_events=[*_observations(figures, waiting), *verdicts],
        cursor=json.dumps({"at": round(time.time()), **state}),
    )


def _observations(figures: dict[str, int], waiting: Backlog) -> list[AssetObservation]:
    age = round(waiting.oldest_waiting_seconds or 0.0, 1)
    jobs: dict[str, int | float | str] = {
        **figures,
        "oldest_waiting_seconds": age,
        "oldest_waiting_job": waiting.oldest_waiting_job or "none",
    }
    observed = [AssetObservation(JOBS_TABLE, metadata=jobs, description=f"{figures['jobs_pending']} jobs wait")]
    if waiting.newest_attach_id is not None:
        observed.append(AssetObservation(REFERENCES, metadata={"newest_attach_id": waiting.newest_attach_id}))
    return observed


def _worth_writing(cursor: str | None, state: dict[str, object], waiting: Backlog) -> bool:
    """Has anything changed, does anybody wait, or has the plot been without a point for long?"""
    if cursor is None or waiting.pending:
        return True
    last = json.loads(cursor)
    return bool(time.time() - last.pop("at") >= QUIET_SECONDS or last != state)


def _count(instance: DagsterInstance, status: DagsterRunStatus) -> int:
    return instance.get_runs_count(RunsFilter(statuses=[status]))
