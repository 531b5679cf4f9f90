"""The resources of a run, thin over the library: the studio that makes pictures, and the queue that feeds it.

Belongs here: what an op or a sensor asks Dagster for. Does not belong here: how anything is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID

from dagster import (
    ConfigurableResource,
    DagsterRun,
    DagsterRunStatus,
    Failure,
    InitResourceContext,
    OpExecutionContext,
)
from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG
from dagster._utils.interrupts import check_captured_interrupt

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.pipeline import draining
from quel_dagster.pipeline.process import StudioProcess
from quel_dagster.settings import Settings
from quel_dagster.studio.session import JobSession
from quel_dagster.studio.studio import Studio
from quel_dagster.studio.timeline import Say

T = TypeVar("T")

STOP_POLL_SECONDS = 0.2


def retried_runs(run: DagsterRun) -> tuple[str, ...]:
    """The runs whose lease this run inherits: it re-executes them."""
    return tuple(run_id for run_id in (run.parent_run_id, run.root_run_id) if run_id)


def in_words(context: OpExecutionContext, reason: str) -> Failure:
    """A failure that another try would only repeat: neither the op nor its run is retried.

    Whatever fails in another way, say for a storage that was away too long, is worth a retry of the run.
    """
    context.instance.add_run_tags(context.run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "false"})
    return Failure(reason, allow_retries=False)


class StudioResource(ConfigurableResource[None]):
    """Makes pictures. Override `open_studio` to work with other parts."""

    def open_studio(self) -> Studio:
        """The studio of this process; the environment says with which parts."""
        return Studio.from_settings(Settings.read())

    @property
    def process(self) -> StudioProcess:
        return StudioProcess.current(self.open_studio)

    async def session(self, context: OpExecutionContext, job_id: UUID) -> JobSession:
        """This run's session; the first op that asks claims the job.

        Raises:
            JobNotFoundError, LeaseHeldError
        """
        process, run = self.process, context.run
        return await process.call(lambda: process.studio.session(job_id, run_id=run.run_id, retry_of=retried_runs(run)))

    async def work(self, context: OpExecutionContext, work: Callable[[Say], Awaitable[T]]) -> T:
        """Run on the studio's loop; what it says becomes log lines of the step, as it happens."""
        process = self.process
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        def say(line: str) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, line)

        stops = asyncio.create_task(self._watch_for_stops(context))
        task = asyncio.ensure_future(process.call(lambda: work(say)))
        task.add_done_callback(lambda _task: lines.put_nowait(None))
        try:
            while (line := await lines.get()) is not None:
                context.log.info(line)
            return await task
        finally:
            task.cancel()
            stops.cancel()

    async def _watch_for_stops(self, context: OpExecutionContext) -> None:
        """Stop the pictures as soon as the run is to be terminated, or its worker to be stopped.

        The launcher's SIGINT is only noted by Dagster, until the executor has an event to look at.
        """
        while not check_captured_interrupt():
            if draining.asked():
                self.process.post(lambda studio: studio.drain())
            await asyncio.sleep(STOP_POLL_SECONDS)
        run = context.instance.get_run_by_id(context.run_id)
        if run is not None and run.status is DagsterRunStatus.CANCELING:
            self.process.post(lambda studio: studio.terminate(context.run_id))
        else:  # nobody asked for the run's end: somebody stops this process
            self.process.post(lambda studio: studio.drain())

    @asynccontextmanager
    async def failure_in_words(self, context: OpExecutionContext) -> AsyncIterator[None]:
        """An error of ours fails the op in its own words; the session ends its job with the same reason."""
        try:
            yield
        except QuelError as error:
            process, run_id, reason = self.process, context.run_id, error

            async def stop() -> None:
                if session := process.studio.current(run_id):
                    session.stop(reason)

            await process.call(stop)
            raise in_words(context, str(reason)) from None

    async def hand_over(self, context: OpExecutionContext, queue: JobQueue, job_id: UUID) -> None:
        """Let another worker go on with the job: give the lease back, then push the id to the head of the queue.

        Should this process end in between, the sweep finds the job by its lease that has run out.
        """
        process, run_id = self.process, context.run_id
        await process.call(lambda: process.studio.close_session(run_id))
        queue.push_next(job_id)

    def describe_jobs(self, job_ids: list[UUID]) -> dict[UUID, JobDescription]:
        """The rows of these ids that exist, for the sensor."""
        process = self.process
        return process.run(lambda: process.studio.parts.database.describe_jobs(job_ids))

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """The run is over in this process: end its job, give its lease back."""
        run_id, process = context.run.run_id if context.run else None, self.process
        if run_id is not None and process.studio.current(run_id) is not None:
            process.run(lambda: process.studio.close_session(run_id))


class QueueResource(ConfigurableResource[None]):
    """The queue of job ids in Redis."""

    def open(self) -> JobQueue:
        """Raises SettingsError when no Redis is set."""
        url = Settings.read().redis()
        if url is None:
            raise SettingsError('REDIS_URL is not set. Set it, or run eval "$(quel env)" beside a `quel up`.')
        return JobQueue(url)
