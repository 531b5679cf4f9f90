"""The resources: the engine that makes pictures, the queue of job ids, the database.

Responsibilities: what ops and sensors request from Dagster. Not here: any logic.

They are plain objects, since they have no config: Dagster makes a configurable resource and its schema anew in every
run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar
from uuid import UUID

from dagster import (
    DagsterInstance,
    DagsterRun,
    Failure,
    InitResourceContext,
    OpExecutionContext,
    ResourceDefinition,
    RunsFilter,
)

from quel_dagster.adapters.database.process import DatabaseProcess
from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.engine.engine import Engine
from quel_dagster.engine.process import EngineProcess
from quel_dagster.engine.session import JobSession
from quel_dagster.engine.timeline import LogLine
from quel_dagster.errors import QuelError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.platform.failures import PlainFailureError
from quel_dagster.platform.internals import RETRY_ON_ASSET_OR_OP_FAILURE_TAG, TreatAsResourceParam
from quel_dagster.platform.runs import is_by_hand
from quel_dagster.platform.stops import stops
from quel_dagster.settings import Settings

T = TypeVar("T")


def retried_runs(instance: DagsterInstance, run: DagsterRun) -> tuple[str, ...]:
    """Return the runs that this run inherits the lease of: those it re-executes, if they have ended.

    A re-execution of a live run inherits nothing and is refused; otherwise it would take the job from that run.
    """
    run_ids = [run_id for run_id in (run.parent_run_id, run.root_run_id) if run_id]
    if not run_ids:
        return ()
    return tuple(before.run_id for before in instance.get_runs(RunsFilter(run_ids=run_ids)) if before.is_finished)


def permanent_failure(context: OpExecutionContext, reason: str) -> Failure:
    """Return a permanent failure: neither the op nor its run is retried, as that would only repeat it.

    Other errors, for example a storage outage that lasted too long, are worth a retry of the run.
    """
    context.instance.add_run_tags(context.run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "false"})
    return PlainFailureError(reason)


class PlainResource(TreatAsResourceParam):
    """An object that runs and sensors request by its class."""

    def definition(self) -> ResourceDefinition:
        """Return what Dagster's page of resources shows: the class and its docstring."""

        def opened(context: InitResourceContext) -> Iterator[PlainResource]:
            try:
                yield self
            finally:
                self.end_run(context.run)

        opened.__module__, opened.__name__ = type(self).__module__, type(self).__name__
        return ResourceDefinition(contextmanager(opened), description=type(self).__doc__)

    def end_run(self, run: DagsterRun | None) -> None:
        """Close what a run has opened in this process."""


class EngineResource(PlainResource):
    """Makes pictures. Override `open_engine` to use other adapters."""

    def open_engine(self) -> Engine:
        """Open the engine of this process; the environment selects its adapters."""
        return Engine.from_settings(Settings.of_process())

    @property
    def process(self) -> EngineProcess:
        return EngineProcess.current(self.open_engine)

    def session(self, context: OpExecutionContext, job_id: UUID) -> JobSession:
        """Return this run's session; the first op to call this claims the job.

        Raises:
            JobNotFoundError, LeaseHeldError
        """
        process, run = self.process, context.run
        retry_of = retried_runs(context.instance, run)
        session = process.run(lambda: process.engine.session(job_id, run_id=run.run_id, retry_of=retry_of))
        if session.job.job_status is JobStatus.CANCELLED and not is_by_hand(run):
            process.run(session.obey_operators_cancel)
        stops.apply(run.run_id)
        return session

    def work(self, context: OpExecutionContext, work: Callable[[LogLine], Awaitable[T]]) -> T:
        """Run on the engine's loop and wait; forward its log lines to the step as they come."""
        lines: SimpleQueue[str | None] = SimpleQueue()
        future = self.process.start(lambda: work(lines.put))
        future.add_done_callback(lambda _: lines.put(None))
        try:
            while (line := lines.get()) is not None:
                context.log.info(line)
            return future.result()
        finally:
            future.cancel()  # if work still runs because a line could not be logged

    @contextmanager
    def failing_op(self, context: OpExecutionContext) -> Iterator[None]:
        """Fail the op with the message of a QuelError; the session ends its job with the same reason."""
        try:
            yield
        except QuelError as error:
            process, run_id, reason = self.process, context.run_id, error

            async def stop() -> None:
                if session := process.engine.current(run_id):
                    session.stop(reason)

            process.run(stop)
            raise permanent_failure(context, str(reason)) from None

    def hand_over(self, context: OpExecutionContext, queue: JobQueue, job_id: UUID) -> None:
        """Let another worker finish the job: release the lease, then push the id onto `jobs:again`.

        If this process dies in between, the sweep finds the job by its expired lease.
        """
        process, run_id = self.process, context.run_id
        process.run(lambda: process.engine.close_session(run_id))
        queue.push_again(job_id)

    def end_run(self, run: DagsterRun | None) -> None:
        """Close the run's session in this process: end its job, release its lease."""
        process = EngineProcess.opened()
        if run is not None and process is not None and process.engine.current(run.run_id) is not None:
            process.run(lambda: process.engine.close_session(run.run_id))


class QueueResource(PlainResource):
    """The queue of job ids in Redis."""

    def open(self) -> JobQueue:
        """Open the queue. Raises SettingsError when no Redis is set."""
        return JobQueue(Settings.of_process().required_redis_url())


class DatabaseResource(PlainResource):
    """The web app's tables and the schema quel_dagster, for callers without an event loop. Needs only DATABASE_URL."""

    def run(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Run `work` with the database, and wait.

        Raises:
            SettingsError: no database is set.
        """
        engine = EngineProcess.opened()
        if engine is not None:  # in a worker: use its connections
            return engine.run(lambda: work(engine.engine.dependencies.database))
        return DatabaseProcess.current(Settings.of_process().required_database_url()).run(work)

    def describe_jobs(self, job_ids: list[UUID]) -> dict[UUID, JobDescription]:
        """Return the rows of these ids that exist."""
        return self.run(lambda database: database.recovery.describe_jobs(job_ids))
