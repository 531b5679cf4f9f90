"""Observe the web app's tables each minute: figures of the queue, and checks of them.

Launches no run: the sensor's tick reports the events itself. An unchanged minute is recorded only once in ten
minutes, so that a quiet night adds a line to the plots but few rows. A minute is unchanged if no run reported pictures
either: Dagster shows a check as not evaluated until it is evaluated after the newest materialization of its asset.
"""

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime

from dagster import (
    AssetExecutionContext,
    AssetObservation,
    BetaWarning,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    ObserveResult,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    multi_observable_source_asset,
    sensor,
)
from redis import RedisError

from quel_dagster.adapters.database.figures import Backlog, backlog, outcomes
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.pipeline import checks
from quel_dagster.pipeline.assets import source_tables
from quel_dagster.pipeline.names import IMAGES_KEY, JOBS_TABLE, REFERENCES
from quel_dagster.pipeline.resources import DatabaseResource, QueueResource
from quel_dagster.settings import Settings

OBSERVE_SECONDS = 60
#: An unchanged minute is recorded after this many seconds.
QUIET_SECONDS = 600


@sensor(
    minimum_interval_seconds=OBSERVE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Records the queue each minute: waiting, running and dead jobs. Feeds the plots and checks of "
    "quel_production_jobs; and whether the jobs of the last hour got every picture.",
)
def queue_observer(context: SensorEvaluationContext, queue: QueueResource, database: DatabaseResource) -> SensorResult:
    waiting, figures = _figures(context.instance, queue, database)
    verdicts = list(
        checks.of_queue(waiting, figures["dead_letters"], warn_seconds=Settings.of_process().warn_queue_seconds)
    )
    now = datetime.now(UTC)
    verdicts.append(checks.of_last_hour(database.run(lambda opened: outcomes(opened, now - checks.LAST_HOUR, now))))
    state = {
        **figures,
        "passed": [verdict.passed for verdict in verdicts],
        "materialization": _newest_materialization(context.instance),
    }
    if not _should_record(context.cursor, state, waiting):
        return SensorResult(cursor=context.cursor)
    message = (
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items() if value) or "nothing waits"
    )
    context.log.info(message)
    return SensorResult(
        asset_events=[*_observations(figures, waiting), *verdicts],
        cursor=json.dumps({"at": round(time.time()), **state}),
    )


def _newest_materialization(instance: DagsterInstance) -> int | None:
    """Return the number of the event that reported the newest pictures."""
    records = instance.get_asset_records([IMAGES_KEY])
    return records[0].asset_entry.last_materialization_storage_id if records else None


def _figures(
    instance: DagsterInstance, queue: QueueResource, database: DatabaseResource
) -> tuple[Backlog, dict[str, int]]:
    waiting = database.run(backlog)
    try:
        with closing(queue.open()) as job_queue:
            depths = job_queue.depths()
    except RedisError as error:
        raise unreachable(error) from None
    figures = {
        "jobs_pending": waiting.pending,
        "jobs_processing": waiting.processing,
        "queue_depth": depths["queue"],
        "becoming_runs": depths["processing"],
        "runs_waiting": _count(instance, DagsterRunStatus.QUEUED),
        "runs_at_work": _count(instance, DagsterRunStatus.STARTED),
        "dead_letters": depths["dead"],
    }
    return waiting, figures


with warnings.catch_warnings():
    warnings.simplefilter("ignore", BetaWarning)

    @multi_observable_source_asset(  # type: ignore[untyped-decorator]
        specs=source_tables, name="observe_tables", description="Observe the web app's tables now.", can_subset=True
    )
    def observe_tables(
        context: AssetExecutionContext, queue: QueueResource, database: DatabaseResource
    ) -> Iterator[ObserveResult]:
        """Record what `queue_observer` records each minute. Observable, so that Dagster shows when they were seen."""
        waiting, figures = _figures(context.instance, queue, database)
        for observation in _observations(figures, waiting):
            if observation.asset_key in context.selected_asset_keys:
                yield ObserveResult(asset_key=observation.asset_key, metadata=observation.metadata)


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


def _should_record(cursor: str | None, state: Mapping[str, object], waiting: Backlog) -> bool:
    """Return whether anything changed, a job waits, or the plot had no point for a while."""
    if cursor is None or waiting.pending:
        return True
    last = json.loads(cursor)
    return bool(time.time() - last.pop("at") >= QUIET_SECONDS or last != state)


def _count(instance: DagsterInstance, status: DagsterRunStatus) -> int:
    return instance.get_runs_count(RunsFilter(statuses=[status]))
