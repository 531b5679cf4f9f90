"""An event loop in a thread of its own, for callers without one; it ends with its process."""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")


class LoopThread:
    """Runs functions and coroutines on its loop.

    Python stops daemon threads before it collects the portal, which then waits for its thread forever: a process that
    leaves its portal open does not end. So the exit of the process closes it.

    Args:
        name: of the thread.
        before_end: called on the loop before it ends.
    """

    def __init__(self, name: str, *, before_end: Callable[[], Awaitable[None]]) -> None:
        self._pid = os.getpid()
        self._before_end = before_end
        self._closed = False
        self._manager: AbstractContextManager[BlockingPortal] = start_blocking_portal(name=name)
        self._portal = self._manager.__enter__()
        self.loop: asyncio.AbstractEventLoop = self._portal.call(asyncio.get_running_loop)
        atexit.register(self.close)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop and wait."""
        return self._portal.call(function)

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run on the loop and wait. Call this from a thread without an event loop."""
        return self._portal.call(work)

    def start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Start on the loop and return a future."""
        return self._portal.start_task_soon(work)

    def close(self) -> None:
        """End the loop and its thread. Does nothing the second time, and in a forked child, which has no thread."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._portal.call(self._before_end)
        finally:
            self._manager.__exit__(None, None, None)
