"""What Dagster loads: `defs`, made by `build_defs` with every resource replaceable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import Definitions, ExecutorDefinition, IOManagerDefinition

from quel_dagster.pipeline.alerts import failure_alerts
from quel_dagster.pipeline.assets import image_job, results
from quel_dagster.pipeline.audit_checks import audit_checks, audit_job, audit_schedule
from quel_dagster.pipeline.checks import queue_now, recent_jobs
from quel_dagster.pipeline.io_manager import JsonIOManager
from quel_dagster.pipeline.observations import observe_tables, queue_observer
from quel_dagster.pipeline.recovery import (
    settle_cancelled_runs,
    settle_failed_runs,
    stranded_jobs_sensor,
)
from quel_dagster.pipeline.resources import DatabaseResource, EngineResource, QueueResource
from quel_dagster.pipeline.retention import retention_job, retention_schedule
from quel_dagster.pipeline.sensors import jobs_queue_sensor
from quel_dagster.pipeline.summary import daily_summary, daily_summary_job, daily_summary_schedule
from quel_dagster.platform.executor import thread_executor
from quel_dagster.settings import Settings

#: Open steps beyond those that make pictures: one prepares its references meanwhile.
STEPS_AHEAD = 1


def build_defs(
    *,
    resource_overrides: Mapping[str, Any] | None = None,
    executor: ExecutorDefinition | None = None,
    settings: Settings | None = None,
) -> Definitions:
    """The definitions, with any resource (`database`, `queue`, `engine`, `io_manager`) replaced.

    Raises:
        SettingsError: the environment holds a value that cannot be used; a missing one is noticed when used.
    """
    settings = settings or Settings.of_process()
    engine = EngineResource()

    def json_io_manager(_context: object) -> JsonIOManager:
        return JsonIOManager(engine)

    resources: dict[str, Any] = {
        "database": DatabaseResource().definition(),
        "queue": QueueResource().definition(),
        "engine": engine.definition(),
        "io_manager": IOManagerDefinition(json_io_manager, description=JsonIOManager.__doc__),
    }
    return Definitions(
        assets=[observe_tables, results, daily_summary],
        asset_checks=[recent_jobs, queue_now, audit_checks],
        jobs=[image_job, audit_job, daily_summary_job, retention_job],
        schedules=[audit_schedule, daily_summary_schedule, retention_schedule(settings.keep_runs_days)],
        sensors=[
            jobs_queue_sensor,
            settle_failed_runs,
            settle_cancelled_runs,
            stranded_jobs_sensor,
            queue_observer,
            failure_alerts(settings),
        ],
        resources={**resources, **(resource_overrides or {})},
        # Forty units at once would each pay Dagster's overhead before the first call is made.
        executor=executor or thread_executor(settings.max_concurrent_images + STEPS_AHEAD),
    )


defs = build_defs()
