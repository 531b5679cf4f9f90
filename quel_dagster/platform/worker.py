"""The worker of a machine: a parent, and worker processes that each execute many runs at a time.

    python -m quel_dagster.platform.worker

Responsibilities of the parent: load the definitions once, wait for PostgreSQL, fork the processes, refresh their
records, report and replace a process that died, forward SIGTERM. It executes nothing, so that it answers on a busy
machine too.
Not here: the work of a process (`worker_process`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import psycopg
import redis
from sqlalchemy.exc import DBAPIError

from quel_dagster import redaction
from quel_dagster.errors import QuelError
from quel_dagster.platform.database_check import database_refusal
from quel_dagster.platform.internals import DagsterPostgresException, check_internals
from quel_dagster.platform.preload import preload
from quel_dagster.platform.worker_process import run_process
from quel_dagster.platform.workers import WorkerBoard
from quel_dagster.settings import Settings

DEFINITIONS = "quel_dagster.definitions"
#: Seconds between two refreshes of the records; a record expires after ten.
REFRESH_SECONDS = 2.0
#: A process that ends this soon after its start is replaced after a pause.
SHORT_LIFE_SECONDS = 5.0
#: Seconds between two questions whether PostgreSQL takes connections, and between two lines that it does not.
DATABASE_SECONDS, DATABASE_LINE_SECONDS = 1.0, 60.0

_log = logging.getLogger(__name__)


class Worker:
    """Keeps `processes` processes alive until it is stopped."""

    def __init__(self, *, processes: int, runs_per_process: int, definitions: str, import_first: Sequence[str]) -> None:
        self._processes = processes
        self._runs_per_process = runs_per_process
        self._definitions = definitions
        self._import_first = import_first
        self._children: dict[int, tuple[str, float]] = {}
        self._stopping = False
        self._made = 0
        self._fork_at = 0.0
        self._warn_at = 0.0
        self._settings = Settings.of_process()
        self._board = WorkerBoard(self._settings.required_redis_url())

    def run(self) -> None:
        """Return when every process has ended after a SIGTERM or SIGINT."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        preload(self._definitions, self._import_first)
        ready = False
        while self._children or not self._stopping:
            while not self._stopping and len(self._children) < self._processes and self._may_fork():
                self._fork()
            self._wait(REFRESH_SECONDS if ready else 0.2)
            with suppress(redis.RedisError):  # the processes refresh their own records as well
                names = [name for name, _ in self._children.values()]
                self._board.refresh(names)
                if not ready and len(names) == self._processes and all(map(self._board.published, names)):
                    ready = True
                    _log.info("%d processes of %d runs each: ready.", self._processes, self._runs_per_process)

    def _may_fork(self) -> bool:
        """Return whether a process that starts now could work; asks PostgreSQL at most once in DATABASE_SECONDS."""
        if time.monotonic() < self._fork_at:
            return False
        refusal = database_refusal(self._settings)
        now = time.monotonic()
        if refusal is None:
            self._warn_at = now
            return True
        if now >= self._warn_at:
            self._warn_at = now + DATABASE_LINE_SECONDS
            _log.warning("No worker process starts, waiting for PostgreSQL: %s", refusal)
        self._fork_at = now + DATABASE_SECONDS
        return False

    def _fork(self) -> None:
        self._made += 1
        name = f"{socket.gethostname()}:{os.getpid()}.{self._made}"
        parent = os.getpid()
        # signals must not reach the child in between, nor run the parent's handlers there
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent forwards it
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
                code = run_process(name, parent=parent, runs=self._runs_per_process, definitions=self._definitions)
            except (QuelError, DBAPIError, psycopg.Error, DagsterPostgresException) as error:
                _log.error("Worker process %s cannot start: %s", name, _in_one_line(error))
            except BaseException:  # noqa: BLE001  the child must end here in any case
                _log.exception("Worker process %s ended early", name)
            finally:
                logging.shutdown()
                sys.stdout.flush()
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        self._children[pid] = (name, time.monotonic())

    def _wait(self, seconds: float) -> None:
        """Wait for the end of a child, at most `seconds`."""
        until = time.monotonic() + seconds
        while True:
            for pid in list(self._children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._ended(pid, status)
                    return
            if time.monotonic() >= until:
                return
            time.sleep(0.05)

    def _ended(self, pid: int, status: int) -> None:
        name, started = self._children.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if time.monotonic() - started < SHORT_LIFE_SECONDS:
            self._fork_at = time.monotonic() + SHORT_LIFE_SECONDS
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if code == -signal.SIGALRM:
            how = "before its runs were handed over: its grace period was over"
        if code or not self._stopping:
            next_step = "the leases of its runs expire" if self._stopping else "starting another one"
            _log.warning("Worker process %s (pid %d) ended %s; %s", name, pid, how, next_step)
        try:
            self._board.report_death(name, f"Worker process {name} (pid {pid}) ended {how}.")
        except redis.RedisError as error:
            _log.warning("The end of %s could not be reported (%s); its record will expire", name, type(error).__name__)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        for pid in list(self._children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _in_one_line(error: Exception) -> str:
    """Return an error without its traceback and without the statement that PostgreSQL refused."""
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="quel_dagster.platform.worker", description=__doc__)
    parser.add_argument("--definitions", default=DEFINITIONS, help="module with the `defs` to execute")
    parser.add_argument("--import-first", action="append", default=[], help="module to import before the definitions")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--runs-per-process", type=int, default=None)
    given = parser.parse_args()
    redaction.install()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "httpx2", "google_genai.models"):  # a line for every call
        logging.getLogger(noisy).setLevel(logging.WARNING)
    check_internals()
    settings = Settings.of_process()
    if settings.workers is not None:
        _log.warning(
            "QUEL_WORKERS=%d is the older name and means %d runs at a time here; see QUEL_WORKER_PROCESSES",
            settings.workers,
            settings.runs_here,
        )
    Worker(
        processes=given.processes or settings.processes,
        runs_per_process=given.runs_per_process or settings.runs_in_each_process,
        definitions=given.definitions,
        import_first=given.import_first,
    ).run()


if __name__ == "__main__":
    main()
