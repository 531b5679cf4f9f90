"""The resources of a run, thin over the library: the studio that makes pictures, and the queue that feeds it.

Belongs here: what an op or a sensor asks Dagster for. Does not belong here: how anything is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
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

from quel_dagster.adapters.database.store import JobDescription
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.errors import LeaseLostError, QuelError, SettingsError
from quel_dagster.pipeline.process import StudioProcess
from quel_dagster.settings import Settings
from quel_dagster.studio.session import JobSession, Say
from quel_dagster.studio.studio import Studio

T = TypeVar("T")


def retried_runs(run: DagsterRun) -> tuple[str, ...]:
    """The runs whose lease this run inherits: it re-executes them."""
    return tuple(run_id for run_id in (run.parent_run_id, run.root_run_id) if run_id)


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

        task = asyncio.ensure_future(process.call(lambda: work(say)))
        task.add_done_callback(lambda _task: lines.put_nowait(None))
        try:
            while (line := await lines.get()) is not None:
                context.log.info(line)
            return await task
        finally:
            task.cancel()

    @asynccontextmanager
    async def job_ends_with_failure(self, context: OpExecutionContext) -> AsyncIterator[None]:
        """An op that fails for good ends its job as failed: nobody would come back to it.

        A run whose process dies is another matter: it is retried, and its job stays as it is until then.
        """
        try:
            yield
        except QuelError as error:
            await self._fail_job(context, error)
            raise Failure(str(error), allow_retries=False) from None
        except Exception as error:
            # A bug: the run page has the traceback, the user gets a sentence.
            reason = QuelError(f"Run {context.run_id} broke ({type(error).__name__}); see its page.")
            await self._fail_job(context, reason)
            raise

    async def _fail_job(self, context: OpExecutionContext, error: QuelError) -> None:
        process, run_id = self.process, context.run_id

        async def fail() -> None:
            session = process.studio.current(run_id)
            if session is not None and session.settled is None:
                session.stop(error)
                with suppress(LeaseLostError):  # then it is another run's job by now
                    await session.fail(error)

        await process.call(fail)

    def describe_jobs(self, job_ids: list[UUID]) -> dict[UUID, JobDescription]:
        """The rows of these ids that exist, for the sensor."""
        process = self.process
        return process.run(lambda: process.studio.parts.database.describe_jobs(job_ids))

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """The run is over in this process: give its lease back; a terminated run leaves its job `cancelled`."""
        run_id, process = context.run_id, self.process
        if run_id is None or process.studio.current(run_id) is None:
            return
        run = context.instance.get_run_by_id(run_id) if context.instance else None
        terminated = run is not None and run.status is DagsterRunStatus.CANCELING

        async def leave() -> None:
            session = process.studio.current(run_id)
            if terminated and session is not None and session.settled is None:
                reason = f"Stopped by an operator (run {run_id})."
                session.stop(QuelError(reason))
                with suppress(LeaseLostError):
                    await session.cancel(reason)
            await process.studio.close_session(run_id)

        process.run(leave)


class QueueResource(ConfigurableResource[None]):
    """The queue of job ids in Redis."""

    def open(self) -> JobQueue:
        """Raises SettingsError when no Redis is set."""
        url = Settings.read().redis()
        if url is None:
            raise SettingsError('REDIS_URL is not set. Set it, or run eval "$(quel env)" beside a `quel up`.')
        return JobQueue(url)
