"""The engine of a worker process, on an event loop in its own thread.

The ops of all runs wait for this loop in threads of their own. Connections outlive runs, and neither an event write
nor another step delays a call, a commit or a cancel.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

from quel_dagster.adapters.loop_thread import LoopThread
from quel_dagster.engine.engine import Engine
from quel_dagster.settings import Settings

T = TypeVar("T")


class EngineProcess:
    """An engine on its own event loop thread. Get the one of this process with `EngineProcess.current()`."""

    _lock = threading.Lock()
    _current: EngineProcess | None = None

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        """Call `open_engine` on the engine's loop, where its adapters belong."""
        self.pid = os.getpid()
        self._thread = LoopThread("engine", before_end=self._close_engine)
        self._engine: Engine | None = None
        try:
            self._engine = self._thread.call(open_engine)
        except BaseException:
            self._thread.close()
            raise

    @property
    def engine(self) -> Engine:
        assert self._engine is not None  # noqa: S101 - set by the constructor
        return self._engine

    @classmethod
    def current(cls, open_engine: Callable[[], Engine] | None = None) -> EngineProcess:
        """Return the engine process of this process; a forked child gets its own.

        Raises:
            SettingsError: a setting is missing or wrong.
        """
        with cls._lock:
            if cls._current is None or cls._current.pid != os.getpid():
                cls._current = cls(open_engine or (lambda: Engine.from_settings(Settings.of_process())))
            return cls._current

    @classmethod
    def opened(cls) -> EngineProcess | None:
        """Return the engine process of this process if it is open already."""
        with cls._lock:
            return cls._current if cls._current is not None and cls._current.pid == os.getpid() else None

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run on the engine's loop and wait. Call this from a thread without an event loop."""
        return self._thread.run(work)

    def start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Start on the engine's loop and return a future."""
        return self._thread.start(work)

    def post(self, act: Callable[[Engine], None]) -> None:
        """Schedule `act` on the engine's loop without waiting."""
        self._thread.loop.call_soon_threadsafe(act, self.engine)

    def close(self) -> None:
        """Close the engine and end its thread."""
        self._thread.close()
        with EngineProcess._lock:
            if EngineProcess._current is self:
                EngineProcess._current = None

    async def _close_engine(self) -> None:
        if self._engine is not None:
            await self._engine.aclose()
