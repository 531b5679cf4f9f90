"""Whether and why the work on one job stops: the user's cancel, Terminate, a lost lease, an error that ends the job.

A stop cancels the calls under way and refuses new ones. Committed pictures stay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

from quel_dagster.errors import HandedOverError, QuelError

#: Reads the job's cancel flags; returns the error to stop with if it was cancelled.
ReadCancelFlags = Callable[[], Awaitable[QuelError | None]]

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end even if the caller is cancelled; raise the cancellation afterwards.

    A scope of anyio shields the task that enters it, not the tasks of a `gather`: those are cancelled one by one.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        if not task.cancelled() and (error_of_work := task.exception()) is not None:
            _log.warning("Work failed after its caller was cancelled: %s", error_of_work)
        raise cancelled
    return task.result()


class Stop:
    """The stop state of one job, on one event loop. The first reason is kept; only a hand-over can be replaced."""

    def __init__(self, read_flags: ReadCancelFlags, flag_seen: Callable[[], Awaitable[None]], *, name: str) -> None:
        """Reads the flags now, and whenever `flag_seen` returns."""
        self._read_flags = read_flags
        self._flag_seen = flag_seen
        self._reason: QuelError | None = None
        self._scopes: set[anyio.CancelScope] = set()
        self._closed = False
        #: reads the flags at once, in parallel with the preparation of the first call
        self._first_check = asyncio.ensure_future(read_flags())
        self._watcher = asyncio.create_task(self._watch(), name=f"cancel flags of {name}")

    @property
    def reason(self) -> QuelError | None:
        """Why no more pictures are made; None while the work continues."""
        return self._reason

    @property
    def is_hand_over(self) -> bool:
        """Return whether another worker should finish the job."""
        return isinstance(self._reason, HandedOverError)

    def __call__(self, reason: QuelError) -> None:
        """Cancel the calls under way and refuse new ones."""
        if self._reason is None or self.is_hand_over:
            self._reason = reason
            for scope in self._scopes:
                scope.cancel()

    def drain(self) -> None:
        """Prepare to stop this worker: finish the calls under way, begin no new ones."""
        if self._reason is None:
            self._reason = HandedOverError()

    def check(self) -> None:
        """Raise the stop reason, if there is one."""
        if self._reason is not None:
            raise self._reason

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Run the block so that a stop cancels it and raises the stop reason."""
        self.check()
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            self.check()

    async def first_check(self) -> None:
        """Wait until the flags were read once. Raise the stop reason, if there is one."""
        if cancelled := await asyncio.shield(self._first_check):
            self(cancelled)
        self.check()

    def close(self, reason: QuelError) -> None:
        """Stop what is still running, and end the watch of the flags."""
        self._closed = True
        self(reason)

    async def aclose(self) -> None:
        self._closed = True
        self._watcher.cancel()
        await asyncio.gather(self._watcher, self._first_check, return_exceptions=True)

    async def _watch(self) -> None:
        cancelled = await asyncio.shield(self._first_check)
        while cancelled is None and not self._closed:  # redis-py may swallow the cancellation of this task
            await self._flag_seen()
            cancelled = await self._read_flags()
        if cancelled is not None:
            self(cancelled)
