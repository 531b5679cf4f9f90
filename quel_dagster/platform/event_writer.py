"""Write rows in batches and in parallel with the work.

The outputs of steps are collected too, and written together before the events that report them: a step that has
succeeded has stored its values for the steps that follow.

A killed process loses the events of its last moment. Nothing depends on them: which pictures exist and who paid for
them is recorded in the web app's tables.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from quel_dagster.adapters.database.records import OutputPlace
from quel_dagster.adapters.retry_policy import RUN_SECONDS
from quel_dagster.errors import DatabaseRefusedError, QuelError
from quel_dagster.platform.outages import retrying

#: Seconds to collect events; short enough for a person who watches the page.
GATHER_SECONDS = 0.1

Row = TypeVar("Row")
_gathering = False


def gather_events() -> None:
    """From now on, storages of this process write the events of steps in batches."""
    global _gathering  # noqa: PLW0603  a property of the process, like its signal handlers
    _gathering = True


def gathering() -> bool:
    """Return whether this process writes the events of steps in batches: whether it is a worker."""
    return _gathering


class StepOutputs:
    """The outputs of steps of all runs of this process that are not written yet."""

    def __init__(self) -> None:
        self._waiting: dict[OutputPlace, Any] = {}
        self._write: Callable[[Mapping[OutputPlace, Any]], None] | None = None
        #: run → the error that lost an output, until it was raised to the run
        self._errors: dict[str, Exception] = {}
        self._adding = threading.Lock()
        self._writing = threading.Lock()

    def add(self, place: OutputPlace, value: Any, write: Callable[[Mapping[OutputPlace, Any]], None]) -> None:
        """Write an output with `write` before any later event of its run; at once where events are not collected.

        Raises:
            Exception: the error of the write, if events are not collected.
        """
        if not _gathering:
            write({place: value})
            return
        with self._adding:
            self._waiting[place] = value
            self._write = write

    def write(self, run_id: str) -> None:
        """Write all outputs that wait, and return when those of this run are written.

        Raises:
            QuelError: one of this run could not be stored: then the events that report it must not be, either.
        """
        with self._writing:
            with self._adding:
                outputs, self._waiting = self._waiting, {}
            if outputs:
                self._try(outputs)
            error = self._errors.pop(run_id, None)
        if error is not None:
            raise QuelError(f"The output of a step could not be stored: {error}") from error

    def _try(self, outputs: Mapping[OutputPlace, Any]) -> None:
        assert self._write is not None  # noqa: S101  set with the first output
        try:
            self._write(outputs)
        except DatabaseRefusedError as refusal:  # of one of them: not for the fault of another run
            if len(outputs) == 1:
                self._errors.update((place.run_id, refusal) for place in outputs)
                return
            for place, value in outputs.items():
                self._try({place: value})
        except Exception as error:  # noqa: BLE001  raised at the next event of each run
            self._errors.update((place.run_id, error) for place in outputs)


step_outputs = StepOutputs()


class EventWriter(Generic[Row]):
    """Writes rows in order, on its own thread."""

    def __init__(
        self,
        write: Callable[[Sequence[Row]], None],
        *,
        gather_seconds: float = GATHER_SECONDS,
        retry_seconds: float = RUN_SECONDS,
    ) -> None:
        """`write` is called on the thread, and retried for `retry_seconds` while the database is unreachable."""
        self._write = retrying(write, seconds=retry_seconds)
        self._gather_seconds = gather_seconds
        self._retry_seconds = retry_seconds
        #: run and row
        self._rows: list[tuple[str, Row]] = []
        self._added = self._written = 0
        #: run → the error that lost its rows, until it was raised to the run
        self._errors: dict[str, Exception] = {}
        self._changed = threading.Condition()
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def add(self, run_id: str, row: Row) -> None:
        """Queue a row of this run for writing.

        Raises:
            Exception: the error that lost earlier rows of the run.
        """
        with self._changed:
            self._raise_error(run_id)
            self._rows.append((run_id, row))
            self._added += 1
        self._some.set()

    def flush(self, run_id: str | None = None) -> None:
        """Return when all queued rows are written, or known to be lost; at once on the thread that writes them.

        Raises:
            Exception: the error that lost rows of this run.
        """
        if threading.current_thread() is self._thread:
            return
        with self._changed:
            wanted = self._added
            if self._written < wanted:
                self._hurry.set()
                self._changed.wait_for(lambda: self._written >= wanted)
            if run_id is not None:
                self._raise_error(run_id)

    def close(self) -> None:
        """Write the rest, then end the thread."""
        self._closed = True
        self._hurry.set()
        self._some.set()
        self._thread.join(self._retry_seconds)

    def _raise_error(self, run_id: str) -> None:
        if error := self._errors.pop(run_id, None):
            raise error

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._hurry.wait(self._gather_seconds)
            with self._changed:
                self._hurry.clear()
                if not self._closed:
                    self._some.clear()
                rows, self._rows = self._rows, []
            if not rows:
                if self._closed:
                    return
                continue
            errors = self._try(rows)
            with self._changed:
                self._written += len(rows)
                self._errors.update(errors)
                self._changed.notify_all()

    def _try(self, rows: Sequence[tuple[str, Row]]) -> dict[str, Exception]:
        """Write; return the errors per run. The thread survives every failure."""
        errors: dict[str, Exception] = {}
        for run_id in dict.fromkeys(run_id for run_id, _ in rows):
            try:
                step_outputs.write(run_id)
            except QuelError as error:
                errors[run_id] = error
        whole = [(run_id, row) for run_id, row in rows if run_id not in errors]
        try:
            if whole:
                self._write([row for _, row in whole])
        except Exception as error:  # noqa: BLE001  raised again at the next call for these runs
            errors.update(dict.fromkeys((run_id for run_id, _ in whole), error))
        return errors
