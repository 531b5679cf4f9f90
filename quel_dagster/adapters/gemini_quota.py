"""A rate limiter for Gemini over all workers and hosts: calls per minute, calls in flight, and a common pause.

The state is in Redis, on the clock of the Redis server; one script reads and decides in one step. Invariants:

    Q1  In any window, and for a margin beyond it, no more calls are begun than the limit. The margin covers calls
        that take different times to arrive: Gemini counts arrivals.
    Q2  No more calls are in flight than the limit. A place is a lease that its process renews, so that a process
        that dies gives its places back within PLACE_SECONDS.
    Q3  Waiting calls are served in the order of asking. A call that stops asking (a cancel, a kill) leaves the line, by
        itself or within SEEN_SECONDS, and delays no other call.
    Q4  After a 429 no call begins until the moment that Gemini named; then few at first, one more with every
        success. Where there is no limit, a process that has calls under way hears of it within KNOWN_SECONDS.
    Q5  Without Redis calls go on without limits.
    Q6  Waiting ends at once with the task that waits.
    Q7  Without a limit and without a pause a call waits for no answer of Redis.

Why no library: docs/decisions/gemini-quota.md.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio

from quel_dagster.adapters.gemini_quota_scripts import ENTER, JOIN, KEYS, LEAVE, RENEW
from quel_dagster.adapters.redis_connection import answer_within, open_redis
from quel_dagster.errors import GeminiRateLimitedError
from quel_dagster.settings import Settings

#: Seconds after which a place in flight lapses; it is renewed three times in that time.
PLACE_SECONDS = 15.0
#: A waiting call asks again within LONGEST_SLEEP_SECONDS, and is removed after SEEN_SECONDS.
LONGEST_SLEEP_SECONDS = 1.0
SEEN_SECONDS = 5.0
#: After a 429 that names no moment.
PAUSE_SECONDS = 2.0
#: A longer pause stops only its caller, which gives up: a daily quota does not come back within a run.
LONGEST_PAUSE_SECONDS = 300.0
#: How long after a pause few calls are in flight, if no success widens them.
NARROW_SECONDS = 60.0
#: Without a limit: "no pause" is assumed for so long after an answer, and asked twice in that time.
KNOWN_SECONDS = 2.0
#: A shorter wait is not reported.
WORTH_SAYING_SECONDS = 1.0
#: Deadline of an answer of Redis, and the time without requests after it was missed.
ANSWER_SECONDS = 2.0
UNREACHABLE_SECONDS = 5.0

_log = logging.getLogger(__name__)

#: callback(reason), once, when a call has to wait.
OnWait = Callable[[str], None]


class GeminiQuota:
    """The shared limits. For one event loop; close it with `aclose`."""

    def __init__(
        self,
        url: str,
        *,
        requests: int | None = None,
        max_in_flight: int | None = None,
        window_seconds: float = 60.0,
        margin_seconds: float = 1.0,
    ) -> None:
        """
        Args:
            url: of Redis.
            requests: calls begun in any window; None: no limit.
            max_in_flight: calls under way; None: no limit.
            window_seconds: what Gemini counts over.
            margin_seconds: how much longer our window is than Gemini's: one call may take so much less time to arrive
                than another.

        Raises:
            SettingsError: `url` is no Redis URL.
        """
        self._requests = requests
        self._max_in_flight = max_in_flight
        self._window = window_seconds
        self._margin = margin_seconds
        self._redis: redis.asyncio.Redis = open_redis(redis.asyncio.Redis, url)
        self._enter, self._join, self._leave, self._renew = (
            self._redis.register_script(code) for code in (ENTER, JOIN, LEAVE, RENEW)
        )
        self._held: set[str] = set()
        self._renewer: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        #: on this process's own clock: the end of a pause that it caused itself, and until when Redis is not asked
        self._resume_at = 0.0
        #: without a limit: until when there is no pause, and when this process had its last 429
        self._free_until = 0.0
        self._limited_at = 0.0
        self._unreachable_until = 0.0
        self._unreachable = False

    @classmethod
    def from_settings(cls, settings: Settings, url: str) -> GeminiQuota:
        """Return the limits of the settings.

        Raises:
            SettingsError: `url` is no Redis URL.
        """
        return cls(url, requests=settings.gemini_requests_per_minute, max_in_flight=settings.gemini_max_in_flight)

    async def aclose(self) -> None:
        """Give back what is held, and close the connections."""
        for token in list(self._held):
            self._give_back(token, "given up", 0.0)
        if self._background:
            await asyncio.wait(self._background, timeout=ANSWER_SECONDS)
        if self._renewer is not None:
            self._renewer.cancel()
            await asyncio.wait({self._renewer}, timeout=ANSWER_SECONDS)
        await self._redis.aclose()

    @asynccontextmanager
    async def place(self, on_wait: OnWait = lambda _why: None) -> AsyncIterator[None]:
        """A call's place: entered when it may begin. A `GeminiRateLimitedError` passing through pauses all workers."""
        token = secrets.token_hex(8)
        outcome, asked = "failed", 0.0
        joining: asyncio.Task[None] | None = None
        try:
            if self._is_free():
                self._hold(token)
                joining = self._in_background(self._look(self._join, token, round(PLACE_SECONDS * 1000)))
            else:
                await self._admitted(token, on_wait)
            try:
                yield
                outcome = "ok"
            except GeminiRateLimitedError as error:
                asked = error.retry_after if error.retry_after is not None else PAUSE_SECONDS
                if asked <= LONGEST_PAUSE_SECONDS:
                    outcome = "limited"
                    self._limited_at, self._free_until = time.monotonic(), 0.0
                    self._resume_at = max(self._resume_at, self._limited_at + asked)
                raise
        finally:
            # not awaited: neither a finished nor a cancelled call has to wait
            self._held.discard(token)
            self._give_back(token, outcome, asked, after=joining)

    def look_ahead(self) -> None:
        """Ask now whether there is a pause, if there is no limit, so that the next calls need not wait."""
        if not self._limited and not self._is_free():
            self._in_background(self._look(self._renew, round(PLACE_SECONDS * 1000)))

    def _is_free(self) -> bool:
        """Return whether a call may begin without asking Redis."""
        now = time.monotonic()
        return not self._limited and self._resume_at <= now < self._free_until

    @property
    def _limited(self) -> bool:
        return self._requests is not None or self._max_in_flight is not None

    async def _admitted(self, token: str, on_wait: OnWait) -> None:
        reported = False
        since = time.monotonic()
        asked = 0
        while True:
            answer = await self._ask(self._enter, token, *self._limits(), asked)
            if answer is None:
                wait, why = self._resume_at - time.monotonic(), b"pause"
            else:
                milliseconds, why, asked = answer
                wait = milliseconds / 1000
            if wait <= 0:
                if answer is not None:
                    self._hold(token)
                return
            if not reported and time.monotonic() + wait - since > WORTH_SAYING_SECONDS:
                reported = True
                on_wait(self._in_words(why, wait))
            await asyncio.sleep(min(wait, LONGEST_SLEEP_SECONDS) + random.uniform(0, 0.01))  # noqa: S311  not a secret

    def _limits(self) -> tuple[int, int, int, int, int]:
        """Return the arguments of the script that are the same for every call."""
        return (
            self._requests or 0,
            round((self._window + self._margin) * 1000),
            self._max_in_flight or 0,
            round(PLACE_SECONDS * 1000),
            round(SEEN_SECONDS * 1000),
        )

    def _in_words(self, why: bytes, wait: float) -> str:
        if why == b"rate":
            return f"Waiting for Gemini's quota: {self._requests} calls in {self._window:g} s are used up"
        if why == b"flight":
            return "Waiting for Gemini's quota: all calls that may be in flight are"
        return f"Waiting for Gemini's quota: it asked for a pause, {wait:.1f} s are left"

    # --- what is held --------------------------------------------------------------------------------

    def _hold(self, token: str) -> None:
        self._held.add(token)
        if self._renewer is None or self._renewer.done():
            self._renewer = asyncio.create_task(self._keep(), name="places in flight at Gemini")

    async def _keep(self) -> None:
        while self._held:
            await asyncio.sleep(PLACE_SECONDS / 3 if self._limited else KNOWN_SECONDS / 2)
            if self._held:
                await self._look(self._renew, round(PLACE_SECONDS * 1000), *self._held)

    def _give_back(self, token: str, outcome: str, pause: float, after: asyncio.Task[None] | None = None) -> None:
        """Leave the line and release the place, in the background, once `after` is done."""

        async def leave() -> None:
            if after is not None:
                await asyncio.wait({after})
            await self._look(self._leave, token, outcome, max(1, round(pause * 1000)), round(NARROW_SECONDS * 1000))

        self._in_background(leave())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="places at Gemini")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # --- Redis ---------------------------------------------------------------------------------------

    async def _look(self, script: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Run a script that returns whether there is no pause, and remember that."""
        asked_at = time.monotonic()
        free = await self._ask(script, *arguments)
        if free is not None and asked_at > self._limited_at:  # an older answer knows nothing of the 429
            self._free_until = asked_at + KNOWN_SECONDS if free else 0.0

    async def _ask(self, script: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Return the script's answer; None while Redis is unreachable."""
        if time.monotonic() < self._unreachable_until:
            return None
        answer = await answer_within(ANSWER_SECONDS, script(keys=KEYS, args=arguments))
        if answer is not None:
            self._unreachable = False
            return answer
        self._unreachable_until = time.monotonic() + UNREACHABLE_SECONDS
        if not self._unreachable:
            self._unreachable = True
            _log.warning("Redis does not answer, so Gemini's limits are not kept until it does; calls go on.")
        return None
