"""The warm part of a worker process: one event loop on a thread of its own, and the studio that lives on it.

Dagster gives every run a new event loop and writes its events on it, blocking. Pictures are made here instead:
connections outlive runs, and neither an event write nor another step holds up a call, a commit or a cancel.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from quel_dagster.settings import Settings
from quel_dagster.studio.studio import Studio

T = TypeVar("T")


class StudioProcess:
    """A studio on its own event loop thread. Build one per process: `StudioProcess.current()`."""

    _lock = threading.Lock()
    _current: StudioProcess | None = None

    def __init__(self, open_studio: Callable[[], Studio]) -> None:
        """`open_studio` is called on the studio's loop, as its parts belong there."""
        self.pid = os.getpid()
        self._manager: AbstractContextManager[BlockingPortal] = start_blocking_portal(name="studio")
        self._portal = self._manager.__enter__()
        try:
            self._loop = self._portal.call(_awaitable(asyncio.get_running_loop))
            self.studio = self._portal.call(_awaitable(open_studio))
        except BaseException:
            self._manager.__exit__(None, None, None)
            raise

    @classmethod
    def current(cls, open_studio: Callable[[], Studio] | None = None) -> StudioProcess:
        """The one of this process; a forked child gets its own.

        Raises:
            SettingsError: a setting is missing or wrong.
        """
        with cls._lock:
            if cls._current is None or cls._current.pid != os.getpid():
                cls._current = cls(open_studio or (lambda: Studio.from_settings(Settings.read())))
            return cls._current

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run on the studio's loop and wait, from a thread without a loop of its own."""
        return self._portal.call(work)

    def start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Run on the studio's loop, beside what the caller does."""
        return self._portal.start_task_soon(work)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run on the studio's loop, awaited from another loop; cancelling the waiter cancels the work."""
        return await asyncio.wrap_future(self._portal.start_task_soon(work))

    def post(self, act: Callable[[Studio], None]) -> None:
        """Have this done on the studio's loop, without waiting."""
        self._loop.call_soon_threadsafe(act, self.studio)

    def close(self) -> None:
        """Close the studio and end its thread."""
        self._portal.call(self.studio.aclose)
        self._manager.__exit__(None, None, None)
        with StudioProcess._lock:
            if StudioProcess._current is self:
                StudioProcess._current = None


def _awaitable(function: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    async def call() -> T:
        return function()

    return call
