"""Let uploads and downloads wait while the object store is unreachable.

The operator has paid Gemini for a picture, so its bytes are kept until the store takes them. One object per process;
`wait_until_available` holds back new Gemini calls during an outage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.errors import StorageError, StorageUnavailableError

#: an object that does not exist: a store that reports this is reachable
PROBE_KEY: Final = "quel-probe/missing"
PAUSE_SECONDS: Final = 2.0
#: failures of one object while the store serves others: the object is the cause, not the store
FAILURES_OF_ONE_OBJECT: Final = 3

Report = Callable[[str], None]
_log = logging.getLogger(__name__)


class OutageTolerantStore:
    """Waits for the end of an outage of `store`; a call waits for `outage_seconds` at most. For one event loop.

    While the store is unreachable one request at a time asks it again, every `pause_seconds`; the others wait for that
    one. Kept uploads ask first: a store may answer reads while its disk is full.
    """

    def __init__(self, store: ObjectStore, *, outage_seconds: float, pause_seconds: float = PAUSE_SECONDS) -> None:
        self.store = store
        self._outage_seconds = outage_seconds
        self._pause_seconds = pause_seconds
        self._available = asyncio.Event()
        self._available.set()
        self._asking = asyncio.Lock()
        self._unreachable_since = 0.0
        self._reason = ""
        self._kept_uploads = 0
        #: times that the store took an upload or answered a probe
        self._successes = 0

    @property
    def backend(self) -> str:
        return self.store.backend

    async def wait_until_available(self, report: Report, check: Callable[[], None] = lambda: None) -> None:
        """Return at once while the store is reachable; otherwise wait until it is.

        Args:
            check: called every `pause_seconds`; what it raises ends the wait.

        Raises:
            StorageUnavailableError: the outage lasted too long.
        """
        if not self._available.is_set():
            report(f"The object store is unreachable ({self._reason}); no Gemini call begins until it answers")
            await self._until_available(self._deadline(), check)

    async def put(self, key: str, data: bytes, *, content_type: str, report: Report = _log.info) -> None:
        """Store an object, waiting out an outage.

        Raises:
            StorageUnavailableError: the outage lasted too long, or this object alone cannot be stored.
            StorageError: the store refuses.
        """
        deadline = self._deadline()
        if await self._attempt(key, data, content_type):
            return
        report(f"The object store is unreachable ({self._reason}); the picture is kept until it answers")
        successes, failures = self._successes, 0
        self._kept_uploads += 1
        try:
            while not await self._attempt_in_turn(key, data, content_type):
                if self._successes > successes:
                    successes, failures = self._successes, failures + 1
                if failures == FAILURES_OF_ONE_OBJECT:
                    raise StorageUnavailableError(f"{self._reason}, while other objects are stored")
                if time.monotonic() >= deadline:
                    raise self._given_up()
        finally:
            self._kept_uploads -= 1

    async def get(self, key: str, *, max_bytes: int, report: Report = _log.info) -> bytes:
        """Read an object, waiting out an outage.

        A probe distinguishes an unreachable store, for which the call waits, from an object that cannot be read. It may
        be answered because the outage has just ended, so the object is asked for again.

        Raises:
            StorageUnavailableError: the outage lasted too long, or this object alone cannot be read.
            StorageError: as `ObjectStore.get`.
        """
        deadline = self._deadline()
        failures = 0
        while True:
            try:
                return await self.store.get(key, max_bytes=max_bytes)
            except StorageUnavailableError as error:
                if await self._reachable():
                    failures += 1
                    if failures == FAILURES_OF_ONE_OBJECT:
                        raise
                    await asyncio.sleep(self._pause_seconds)
                    continue
                self._failed(error)
            report(f"The object store is unreachable ({self._reason}); the reference is downloaded when it answers")
            await self._until_available(deadline, lambda: None)

    async def delete(self, key: str) -> None:
        """Delete an object, without waiting out an outage."""
        await self.store.delete(key)

    async def aclose(self) -> None:
        await self.store.aclose()

    async def _until_available(self, deadline: float, check: Callable[[], None]) -> None:
        while not self._available.is_set():
            check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._given_up()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._pause_seconds, left)):
                    await self._available.wait()
            if not (self._available.is_set() or self._kept_uploads or self._asking.locked()):
                async with self._asking:
                    if await self._reachable():
                        self._succeeded()

    async def _attempt_in_turn(self, key: str, data: bytes, content_type: str) -> bool:
        """Return whether the store took the object; while it is unreachable, ask in turn and after a pause."""
        async with self._asking:
            if not self._available.is_set():
                await asyncio.sleep(self._pause_seconds)
                return await self._attempt(key, data, content_type)
        return await self._attempt(key, data, content_type)

    async def _attempt(self, key: str, data: bytes, content_type: str) -> bool:
        try:
            await self.store.put(key, data, content_type=content_type)
        except StorageUnavailableError as error:
            self._failed(error)
            return False
        self._succeeded()
        return True

    async def _reachable(self) -> bool:
        try:
            await self.store.size(PROBE_KEY)
        except StorageUnavailableError:
            return False
        except StorageError:
            pass  # it answered
        return True

    def _failed(self, error: StorageUnavailableError) -> None:
        self._reason = str(error)
        if self._available.is_set():
            self._available.clear()
            self._unreachable_since = time.monotonic()
            _log.warning("The object store is unreachable; no Gemini call begins until it answers: %s", error)

    def _succeeded(self) -> None:
        self._successes += 1
        if not self._available.is_set():
            self._available.set()
            seconds = time.monotonic() - self._unreachable_since
            _log.warning("The object store answers again after %.0f s", seconds)

    def _deadline(self) -> float:
        return time.monotonic() + self._outage_seconds

    def _given_up(self) -> StorageUnavailableError:
        return StorageUnavailableError(
            f"The object store was unreachable for {self._outage_seconds / 3600:g} h ({self._reason}); "
            "run the job again when it answers (QUEL_OUTAGE_HOURS is the limit)"
        )
