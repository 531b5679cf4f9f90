"""One worker process: a Celery worker with a thread pool that executes runs, and what all these runs share.

Shared by all runs: the engine and its event loop, Dagster's instance, its pooled connections, the event writer, the
lease renewer. A run has a thread, and one more for each of its open steps.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import redis
import setproctitle
from celery import signals
from celery.platforms import SecurityWarning
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from quel_dagster.engine.process import EngineProcess
from quel_dagster.platform.broker import QUEUE, TASK, celery_app
from quel_dagster.platform.event_log import shorten_logging
from quel_dagster.platform.event_writer import gather_events
from quel_dagster.platform.outages import retry_long
from quel_dagster.platform.run_execution import RunExecution, keep_resource_types, resolve_config_once
from quel_dagster.platform.stops import stops
from quel_dagster.platform.workers import WorkerBoard
from quel_dagster.settings import Settings

#: Seconds between two checks: terminated runs, the process's record, its memory.
POLL_SECONDS = 1.0
#: A stopped process ends itself this many seconds before the grace period is over: a process manager that kills the
#: worker then would prevent its parent from reporting the end of the process.
REPORT_SECONDS = 1.0
#: glibc gives each of many threads its own heap, and returns little of the memory that pictures needed there.
MEMORY_ARENAS = 2
_M_ARENA_MAX = -8
#: Seconds between two returns of free memory to the system.
TRIM_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1

_log = logging.getLogger(__name__)


class WorkerProcess:
    """The state that the runs of this process share. Created after the fork."""

    def __init__(self, name: str, *, parent: int, runs: int, definitions: str) -> None:
        self._name = name
        self._parent = parent
        self._capacity = runs
        settings = Settings.of_process()
        self._memory_limit = settings.worker_memory_mb * 2**20
        self._drain_seconds = settings.drain_seconds
        self._grace_seconds = settings.worker_grace_seconds
        self._board = WorkerBoard(settings.required_redis_url())
        self._lock = threading.Lock()
        self._runs: set[str] = set()
        self._drain_from: float | None = None
        self._trimmed = time.monotonic()
        self._over = threading.Event()
        self._psutil = psutil.Process()
        gather_events()
        retry_long()
        resolve_config_once()
        keep_resource_types()
        shorten_logging()
        self._instance = DagsterInstance.get()
        self._instance.get_runs(limit=1)
        self._execution = RunExecution(definitions)
        process = EngineProcess.current()
        process.run(process.engine.dependencies.database.installation.ensure_schema)

    def execute(self, run_id: str) -> None:
        """Execute a run after taking its message."""
        try:
            if not self._board.claim(run_id, self._name):
                _log.info("Run %s was launched twice; another process has it", run_id)
                return
        except redis.RedisError as error:  # it counts as never begun, and is launched again
            _log.warning("Run %s cannot be claimed (%s)", run_id, type(error).__name__)
            return
        with self._lock:
            self._runs.add(run_id)
        try:
            self.publish()
            self._execution.execute(self._instance, run_id)
        finally:
            with self._lock:
                self._runs.discard(run_id)

    def drain(self) -> None:
        """Hand over: runs finish their calls, or are cut short after a while. Called by a signal handler.

        A run cannot be handed over while PostgreSQL is unreachable. So the kernel ends the process before the grace
        period is over, also while its threads wait; the leases of its runs expire.
        """
        if self._drain_from is None:
            self._drain_from = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, self._grace_seconds - REPORT_SECONDS)
            _log.info("%s stops: %d runs are handed over", self._name, len(self._runs))
            stops.drain()
            threading.Thread(target=self.publish, name="last record", daemon=True).start()

    def watch(self) -> None:
        """Publish the record, then check periodically until the process ends.

        Each check has a thread of its own: while one waits for Redis or PostgreSQL, the others continue.
        """
        self.publish()
        checks = {"record": self.publish, "terminated runs": self._terminate_runs, "process": self._check_process}
        for name, check in checks.items():
            threading.Thread(target=self._repeat, args=(check,), name=name, daemon=True).start()

    def close(self) -> None:
        """Close the shared state after the last run."""
        self._over.set()
        with suppress(redis.RedisError):
            self._board.remove(self._name)
        EngineProcess.current().close()
        self._instance.dispose()

    def publish(self) -> None:
        """Write this process's record."""
        with self._lock:
            runs = set(self._runs)
        capacity = 0 if self._drain_from is not None else self._capacity
        try:
            self._board.publish(self._name, pid=os.getpid(), capacity=capacity, runs=runs)
        except redis.RedisError as error:
            _log.warning("The record of %s cannot be written (%s)", self._name, type(error).__name__)

    def _repeat(self, check: Callable[[], None]) -> None:
        while not self._over.wait(POLL_SECONDS):
            check()

    def _terminate_runs(self) -> None:
        with self._lock:
            mine = set(self._runs)
        if not mine:
            return
        try:
            terminated = self._instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.CANCELING]))
        except Exception as error:  # noqa: BLE001  PostgreSQL is unreachable: the next check finds the same runs
            _log.warning("Terminated runs cannot be read (%s)", type(error).__name__)
            return
        for run in terminated:
            if run.run_id in mine and not stops.terminated(run.run_id):
                stops.terminate(run.run_id)

    def _check_process(self) -> None:
        """Check memory, parent, and the time to finish calls."""
        now = time.monotonic()
        if now - self._trimmed > TRIM_SECONDS:
            self._trimmed = now
            _trim_memory()
            self._replace_if_grown()
        if self._drain_from is None:
            if os.getppid() != self._parent:
                os.kill(os.getpid(), signal.SIGTERM)
        elif now - self._drain_from > self._drain_seconds:
            EngineProcess.current().post(lambda engine: engine.hand_over_now())

    def _replace_if_grown(self) -> None:
        resident = self._psutil.memory_info().rss
        if self._drain_from is None and resident > self._memory_limit:
            _log.warning(
                "%s holds %d MB, more than QUEL_WORKER_MEMORY_MB: it hands its runs over and is replaced",
                self._name,
                resident // 2**20,
            )
            os.kill(os.getpid(), signal.SIGTERM)


def run_process(name: str, *, parent: int, runs: int, definitions: str) -> int:
    """Execute runs until SIGTERM; returns the exit code."""
    with suppress(AttributeError, OSError):  # another C library or system manages this itself
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, MEMORY_ARENAS)
    process = WorkerProcess(name, parent=parent, runs=runs, definitions=definitions)
    app = celery_app()

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def execute_run(run_id: str) -> None:
        process.execute(run_id)

    # a warning about root is meant for workers that accept pickles
    warnings.simplefilter("ignore", SecurityWarning)

    def on_stop(**_: Any) -> None:
        process.drain()

    def on_ready(**_: Any) -> None:
        setproctitle.setproctitle(f"{title} ({name})")  # Celery has set one that names neither
        process.watch()

    title = setproctitle.getproctitle()
    signals.worker_shutting_down.connect(on_stop)
    signals.worker_ready.connect(on_ready)
    worker = app.Worker(
        pool="threads",
        concurrency=runs,
        hostname=name,
        queues=[QUEUE],
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        optimization="fair",
        quiet=True,
    )
    try:
        worker.start()
    finally:
        process.close()
    return int(worker.exitcode or 0)


def _trim_memory() -> None:
    """Return free memory to the system; the C library would keep it."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
