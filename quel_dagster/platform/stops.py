"""Stop requests for the runs of this process: by an operator for one run, or at the end of the process for all.

Dagster's own flag exists once per process and is set only by a signal on the main thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quel_dagster.engine.process import EngineProcess


class RunStops:
    """The stops of one process. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake: dict[str, Callable[[], None]] = {}
        self._terminated: set[str] = set()
        self._draining = False

    @contextmanager
    def watch(self, run_id: str, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when the run is terminated while the context is open."""
        with self._lock:
            self._wake[run_id] = wake
        try:
            yield
        finally:
            with self._lock:
                self._wake.pop(run_id, None)
                self._terminated.discard(run_id)

    def terminate(self, run_id: str) -> bool:
        """Stop a run for an operator: cancel its calls. False: this process does not execute the run."""
        with self._lock:
            wake = self._wake.get(run_id)
            if wake is None:
                return False
            self._terminated.add(run_id)
        self.apply(run_id)
        wake()
        return True

    def drain(self) -> None:
        """Prepare to stop the process: every run finishes its calls and leaves the rest to other processes."""
        with self._lock:
            self._draining = True
            run_ids = list(self._wake)
        for run_id in run_ids:
            self.apply(run_id)

    def watches(self, run_id: str) -> bool:
        """Return whether `ThreadExecutor` executes this run in this process."""
        return run_id in self._wake

    def terminated(self, run_id: str) -> bool:
        """Return whether an operator requested this run to stop."""
        return run_id in self._terminated

    def apply(self, run_id: str) -> None:
        """Forward a stop to the run's session. Also called when a session opens, which may be after the stop."""
        process = EngineProcess.opened()
        if process is None:
            return
        if self.terminated(run_id):
            process.post(lambda engine: engine.terminate(run_id))
        elif self._draining:
            process.post(lambda engine: engine.drain())


#: Of this process. A worker never forks once it executes runs.
stops = RunStops()
