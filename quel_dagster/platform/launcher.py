"""Send runs to the worker processes, stop them, and check whether a process still works on one.

A live run is never declared dead because of a late answer: only when its process is known to have ended, or when both
the lease of its job and the record of its process have expired (docs/decisions/worker.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import redis
from dagster import DagsterEvent, DagsterRun
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from quel_dagster.adapters.database.lease import LeaseBoard
from quel_dagster.errors import SettingsError
from quel_dagster.platform.broker import BROKER_ERRORS, RunMessages
from quel_dagster.platform.internals import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from quel_dagster.platform.workers import WorkerBoard, Workers
from quel_dagster.settings import Settings

#: Seconds for which one reading of the workers and leases serves all runs.
POLL_SECONDS = 0.5
#: Seconds until a run without a record and a lease is given up: it may be just beginning or ending.
SUSPICION_SECONDS = 3.0
#: A process is hung when its lease is expired for this many seconds.
HUNG_SECONDS = 180.0
#: Seconds between two attempts at a broker that refused.
BROKER_PAUSE_SECONDS = 1.0

_log = logging.getLogger(__name__)


class QuelRunLauncher(RunLauncher, ConfigurableClass):
    """Launches a run by a message with its id on `REDIS_URL`."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        #: run → time (monotonic seconds) when it was first seen without a process
        self._suspected: dict[str, float] = {}
        self._seen: tuple[float, Workers, frozenset[str]] | None = None
        #: monotonic seconds; None while the broker accepts messages
        self._refused_at: float | None = None
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:
        return {}

    @classmethod
    @override
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data)

    @cached_property
    def board(self) -> WorkerBoard:
        """The records of the worker processes."""
        return WorkerBoard(Settings.of_process().required_redis_url())

    @cached_property
    def messages(self) -> RunMessages:
        """The messages in the broker."""
        return RunMessages()

    @cached_property
    def _leases(self) -> LeaseBoard | None:
        url = Settings.of_process().database_url
        return LeaseBoard(url.get_secret_value()) if url else None

    # --- launching -----------------------------------------------------------------------------------

    @override
    def launch_run(self, context: LaunchRunContext) -> None:
        """Send the run to the workers. If the broker refuses, the run stays in the queue, and the queue pauses."""
        run = context.dagster_run
        try:
            self.board.release(run.run_id)
            self.messages.send(run.run_id)
        except BROKER_ERRORS as error:
            self._refused_at = time.monotonic()
            reason = (
                f"Redis did not accept the run ({type(error).__name__}: {str(error)[:200]}). It waits in the queue."
            )
            _log.warning("Run %s: %s", run.run_id, reason)
            self._instance.report_engine_event(reason, run, cls=type(self))
            self._instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)
        else:
            self._refused_at = None

    def takes_runs(self) -> bool:
        """Return whether a launch is worth trying; asks a broker that refused at most once a second."""
        if self._refused_at is None:
            return True
        if time.monotonic() - self._refused_at < BROKER_PAUSE_SECONDS:
            return False
        try:
            self.board.probe()
        except redis.RedisError:
            self._refused_at = time.monotonic()
            return False
        self._refused_at = None
        return True

    @override
    def terminate(self, run_id: str) -> bool:
        """Mark the run; its process checks for this mark every second, and settles its job."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return True

    @property
    @override
    def supports_check_run_worker_health(self) -> bool:
        return True

    @property
    @override
    def supports_resume_run(self) -> bool:
        return False  # a retry makes only the missing pictures

    # --- watching ------------------------------------------------------------------------------------

    @override
    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether a process still works on this run."""
        try:
            workers, leased = self._snapshot()
        except (redis.RedisError, DBAPIError) as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Not known: {type(error).__name__}")
        holder = workers.holders.get(run.run_id)
        if run.run_id in leased and (holder or run.run_id not in workers.deaths):
            self._suspected.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if holder:
            return self._suspect(run, f"Worker process {holder} hangs: its lease is not renewed.", HUNG_SECONDS)
        if run.run_id in workers.deaths:
            self._suspected.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.FAILED, workers.deaths[run.run_id])
        return self._suspect(run, "No live worker process has this run, and it holds no live lease.", SUSPICION_SECONDS)

    def lost_starts(self, run_ids: set[str]) -> dict[str, str]:
        """Return which of these launched runs will never begin, with reasons.

        Raises:
            one of BROKER_ERRORS: unknown now.
        """
        holders_before = self.board.read().holders
        waiting = self.messages.waiting()
        workers = self.board.read()  # after the messages: a run moves from there to a process
        lost = run_ids - waiting - workers.holders.keys() - holders_before.keys()
        return {
            run_id: workers.deaths.get(run_id, "Its message left the broker and no worker process has it.")
            for run_id in lost
        }

    def capacity(self) -> int:
        """Return the maximum of concurrent runs of the live worker processes.

        0 while Redis does not answer, and without a REDIS_URL, as under `dg dev`.
        """
        try:
            return self.board.read().capacity
        except (redis.RedisError, SettingsError):
            return 0

    def _snapshot(self) -> tuple[Workers, frozenset[str]]:
        now = time.monotonic()
        if self._seen is None or now - self._seen[0] > POLL_SECONDS:
            leased = self._leases.live_runs() if self._leases is not None else frozenset()
            self._seen = (now, self.board.read(), leased)
        return self._seen[1], self._seen[2]

    def _suspect(self, run: DagsterRun, finding: str, seconds: float) -> CheckRunHealthResult:
        now = time.monotonic()
        if now - self._suspected.setdefault(run.run_id, now) < seconds:
            return CheckRunHealthResult(WorkerStatus.RUNNING, finding)
        del self._suspected[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, finding)
