"""Deletes what is old of Dagster's storage and of our own: off unless QUEL_KEEP_RUNS_DAYS is set.

With a run go its events, and so the materializations of that job in the lineage; the pictures, the ledger and every
other row of the web app stay. Ticks are purged by dagster.yaml.
"""

import time
from datetime import UTC, datetime, timedelta

import sqlalchemy
from dagster import (
    Config,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    Failure,
    OpExecutionContext,
    RunConfig,
    RunsFilter,
    ScheduleDefinition,
    job,
    op,
)
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from pydantic import Field

from quel_dagster.adapters.database.figures import forget_op_outputs
from quel_dagster.pipeline.resources import StudioResource
from quel_dagster.settings import Settings

FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
RUNS_PER_PAGE = 100
OP_OUTPUTS_PER_PAGE = 5_000
#: One run of this job deletes for so long; what is left is for the next one.
LONGEST_SECONDS = 600.0


class RetentionConfig(Config):
    """How much to keep."""

    keep_days: int | None = Field(
        default=None, ge=1, description="Delete what is older than so many days; default: QUEL_KEEP_RUNS_DAYS."
    )


@op(description="Deletes finished runs with their events, figures of the queue, check results and op outputs.")
def forget_old_runs(context: OpExecutionContext, config: RetentionConfig, studio: StudioResource) -> None:
    days = config.keep_days or Settings.read().keep_runs_days
    if days is None:
        raise Failure("keep_days: say how many days to keep, here or in QUEL_KEEP_RUNS_DAYS.", allow_retries=False)
    before = datetime.now(UTC) - timedelta(days=days)
    until = time.monotonic() + LONGEST_SECONDS
    runs = forget_runs(context.instance, before=before, until=until)
    events = forget_runless(context.instance, before=before)
    process = studio.process
    values = 0
    while time.monotonic() < until:
        some = process.run(
            lambda: forget_op_outputs(process.studio.parts.database, before=before, most=OP_OUTPUTS_PER_PAGE)
        )
        values += some
        if some < OP_OUTPUTS_PER_PAGE:
            break
    context.log.info(f"Deleted what is older than {days} days: {runs} runs, {events} figures, {values} op outputs")
    context.add_output_metadata({"runs": runs, "figures": events, "op_outputs": values, "before": before.isoformat()})


def forget_runs(instance: DagsterInstance, *, before: datetime, until: float) -> int:
    """Delete finished runs created before then, oldest first, with their events; stops at `until` (monotonic)."""
    deleted = 0
    while time.monotonic() < until:
        page = instance.get_run_records(
            RunsFilter(statuses=FINISHED, created_before=before), limit=RUNS_PER_PAGE, ascending=True
        )
        for record in page:
            instance.delete_run(record.dagster_run.run_id)
            deleted += 1
        if len(page) < RUNS_PER_PAGE:
            break
    return deleted


def forget_runless(instance: DagsterInstance, *, before: datetime) -> int:
    """Delete what no run holds: figures of the queue, and check results; returns how many rows."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    events, results = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    naive = before.replace(tzinfo=None)
    with storage.index_connection() as connection:
        gone = connection.execute(
            sqlalchemy.delete(SqlEventLogStorageTable).where(events.run_id == "", events.timestamp < naive)
        ).rowcount
        gone += connection.execute(
            sqlalchemy.delete(AssetCheckExecutionsTable).where(results.create_timestamp < naive)
        ).rowcount
    return gone


@job(description="Deletes runs, their events and op outputs that are older than QUEL_KEEP_RUNS_DAYS.")
def retention_job() -> None:
    forget_old_runs()


def retention_schedule(keep_days: int | None) -> ScheduleDefinition:
    """Nightly; on when a number of days is set."""
    return ScheduleDefinition(
        name="nightly_retention",
        job=retention_job,
        cron_schedule="40 3 * * *",
        run_config=RunConfig(ops={"forget_old_runs": RetentionConfig(keep_days=keep_days)}) if keep_days else {},
        default_status=DefaultScheduleStatus.RUNNING if keep_days else DefaultScheduleStatus.STOPPED,
        description="Deletes runs, their events and op outputs older than QUEL_KEEP_RUNS_DAYS; off without it.",
    )
