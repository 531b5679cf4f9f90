"""Delete old rows of Dagster's storage and of this project: off unless QUEL_KEEP_RUNS_DAYS is set.

Deleting a run also deletes its events, and so its materializations in the lineage. Pictures, the ledger and all
other rows of the web app stay. Ticks are purged by dagster.yaml.
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
from pydantic import Field

from quel_dagster.adapters.database.figures import forget_op_outputs
from quel_dagster.pipeline.resources import DatabaseResource
from quel_dagster.platform.internals import AssetCheckExecutionsTable, SqlEventLogStorage, SqlEventLogStorageTable
from quel_dagster.settings import Settings

FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
RUNS_PER_PAGE = 100
OP_OUTPUTS_PER_PAGE = 5_000
#: Seconds that one run of this job deletes for; the next run continues.
LONGEST_SECONDS = 600.0


class RetentionConfig(Config):
    """How much to keep."""

    keep_days: int | None = Field(
        default=None, ge=1, description="Delete what is older than this many days; default: QUEL_KEEP_RUNS_DAYS."
    )


@op(description="Deletes finished runs with their events, figures of the queue, check results and op outputs.")
def forget_old_runs(context: OpExecutionContext, config: RetentionConfig, database: DatabaseResource) -> None:
    days = config.keep_days or Settings.of_process().keep_runs_days
    if days is None:
        raise Failure("keep_days: set the number of days here or in QUEL_KEEP_RUNS_DAYS.", allow_retries=False)
    before = datetime.now(UTC) - timedelta(days=days)
    until = time.monotonic() + LONGEST_SECONDS
    runs = delete_runs(context.instance, before=before, until=until)
    events = delete_runless_events(context.instance, before=before)
    values = 0
    while time.monotonic() < until:
        some = database.run(lambda opened: forget_op_outputs(opened, before=before, most=OP_OUTPUTS_PER_PAGE))
        values += some
        if some < OP_OUTPUTS_PER_PAGE:
            break
    context.log.info(f"Deleted what is older than {days} days: {runs} runs, {events} figures, {values} op outputs")
    context.add_output_metadata({"runs": runs, "figures": events, "op_outputs": values, "before": before.isoformat()})


def delete_runs(instance: DagsterInstance, *, before: datetime, until: float) -> int:
    """Delete finished runs created before then, oldest first, with their events. Stops at `until` (monotonic)."""
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


def delete_runless_events(instance: DagsterInstance, *, before: datetime) -> int:
    """Delete events without a run: figures of the queue, and check results. Return the number of rows."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    events, results = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    naive = before.replace(tzinfo=None)
    with storage.index_connection() as connection:
        deleted = connection.execute(
            sqlalchemy.delete(SqlEventLogStorageTable).where(events.run_id == "", events.timestamp < naive)
        ).rowcount
        deleted += connection.execute(
            sqlalchemy.delete(AssetCheckExecutionsTable).where(results.create_timestamp < naive)
        ).rowcount
    return deleted


@job(description="Deletes runs, their events and op outputs that are older than QUEL_KEEP_RUNS_DAYS.")
def retention_job() -> None:
    forget_old_runs()


def retention_schedule(keep_days: int | None) -> ScheduleDefinition:
    """Return the nightly schedule; on when a number of days is set."""
    return ScheduleDefinition(
        name="nightly_retention",
        job=retention_job,
        cron_schedule="40 3 * * *",
        run_config=RunConfig(ops={"forget_old_runs": RetentionConfig(keep_days=keep_days)}) if keep_days else {},
        default_status=DefaultScheduleStatus.RUNNING if keep_days else DefaultScheduleStatus.STOPPED,
        description="Deletes runs, their events and op outputs older than QUEL_KEEP_RUNS_DAYS; off without it.",
    )
