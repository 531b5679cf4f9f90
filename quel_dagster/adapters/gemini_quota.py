"""Gemini's limits over all workers and hosts: calls begun in a minute, calls in flight, and a pause for everybody.

One place in Redis, one clock (that of the Redis server), one script that looks and decides at once. What must hold:

    Q1  In any window, and for a margin beyond it, no more calls are begun than the limit. The margin covers calls
        that take different times to arrive: Gemini counts arrivals.
    Q2  No more calls are in flight than the limit. A place is a lease that its process renews, so that a process
        that dies gives its places back within PLACE_SECONDS.
    Q3  Who waits is served in the order of asking. Who stops asking (a cancel, a kill) leaves the line, by itself or
        within SEEN_SECONDS, and holds nobody up.
    Q4  After a 429 nobody begins a call until the moment that Gemini named; then few at first, one more with every
        success. Where there is no limit, a process that has calls under way hears of it within KNOWN_SECONDS.
    Q5  Without Redis calls go on: it is the limit that is lost, not the pictures.
    Q6  Waiting ends at once with the task that waits.
    Q7  Where there is no limit and nobody pauses, a call waits for no answer of Redis.

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
from redis import RedisError

from quel_dagster.adapters.queue import open_redis
from quel_dagster.errors import GeminiRateLimitedError
from quel_dagster.settings import Settings

#: sorted sets: calls by when they were begun, by when their place lapses; those who wait by when they first asked,
#: and by when they count as gone. Strings: until when all pause, and how many may be in flight after a pause.
CALLS = "quel:gemini:calls"
FLIGHT = "quel:gemini:flight"
LINE = "quel:gemini:line"
SEEN = "quel:gemini:seen"
PAUSE = "quel:gemini:pause"
WIDTH = "quel:gemini:width"
KEYS = (CALLS, FLIGHT, LINE, SEEN, PAUSE, WIDTH)

#: A place in flight lapses after so long, unless it is renewed, three times in that time.
PLACE_SECONDS = 15.0
#: Who waits asks again within LONGEST_SLEEP_SECONDS, and is gone after SEEN_SECONDS.
LONGEST_SLEEP_SECONDS = 1.0
SEEN_SECONDS = 5.0
#: After a 429 that names no moment.
PAUSE_SECONDS = 2.0
#: A pause that is longer stops nobody but its caller, who gives up: a daily quota does not come back within a run.
LONGEST_PAUSE_SECONDS = 300.0
#: How long after a pause few calls are in flight, if no success widens them.
NARROW_SECONDS = 60.0
#: Where there is no limit: that nobody pauses is believed for so long, and asked twice in that time.
KNOWN_SECONDS = 2.0
#: A shorter wait is not told.
WORTH_SAYING_SECONDS = 1.0
#: Redis is asked so long for an answer, and after none left alone for so long.
ANSWER_SECONDS = 2.0
AWAY_SECONDS = 5.0

_log = logging.getLogger(__name__)

_NOW = """
local calls, flight, line, seen, pause, width = unpack(KEYS)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

# → is nobody pausing, and nobody held back after a pause?
_TELL = """
return (tonumber(redis.call('GET', pause) or 0) <= now and redis.call('EXISTS', width) == 0) and 1 or 0
"""

# → {milliseconds to wait, why, when this caller first asked}; 0: a place is taken
_ENTER = (
    _NOW
    + """
local token, limit, window, places, place_ms, seen_ms, asked = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]),
    tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if asked == 0 then asked = now end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now)) do
    redis.call('ZREM', seen, gone)
    redis.call('ZREM', line, gone)
end
redis.call('ZREMRANGEBYSCORE', flight, '-inf', now)
redis.call('ZREMRANGEBYSCORE', calls, '-inf', now - window)
redis.call('ZADD', line, asked, token)
redis.call('ZADD', seen, now + seen_ms, token)
redis.call('PEXPIRE', line, 2 * seen_ms)
redis.call('PEXPIRE', seen, 2 * seen_ms)
local rank = redis.call('ZRANK', line, token)

local resume = tonumber(redis.call('GET', pause) or 0)
if resume > now then return {resume - now, 'pause', asked} end

local narrow = tonumber(redis.call('GET', width) or 0)
if narrow > 0 and (places == 0 or narrow < places) then places = narrow end
if places > 0 and rank >= places - redis.call('ZCARD', flight) then return {40 + 20 * rank, 'flight', asked} end

if limit > 0 then
    local behind = rank - (limit - redis.call('ZCARD', calls))
    if behind >= 0 then
        local last = redis.call('ZRANGE', calls, behind, behind, 'WITHSCORES')
        return {last[2] and last[2] + window - now + 1 or window, 'rate', asked}
    end
    redis.call('ZADD', calls, now, token)
    redis.call('PEXPIRE', calls, window)
end
redis.call('ZREM', line, token)
redis.call('ZREM', seen, token)
redis.call('ZADD', flight, now + place_ms, token)
redis.call('PEXPIRE', flight, 2 * place_ms)
return {0, '', asked}
"""
)

# A place without asking whether there is one.
_JOIN = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', flight, '-inf', now)
redis.call('ZADD', flight, now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', flight, 2 * ARGV[2])
"""
    + _TELL
)

_LEAVE = (
    _NOW
    + """
local token, outcome, pause_ms, narrow_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local in_flight = redis.call('ZCARD', flight)
redis.call('ZREM', flight, token)
redis.call('ZREM', line, token)
redis.call('ZREM', seen, token)
if outcome == 'ok' and redis.call('EXISTS', width) == 1 then redis.call('INCR', width) end
if outcome == 'limited' then
    local narrow = math.max(1, math.floor(in_flight / 2))
    redis.call('SET', width, math.min(narrow, tonumber(redis.call('GET', width) or narrow)), 'PX', pause_ms + narrow_ms)
    if now + pause_ms > tonumber(redis.call('GET', pause) or 0) then
        redis.call('SET', pause, now + pause_ms, 'PX', pause_ms)
    end
end
"""
    + _TELL
)

_RENEW = (
    _NOW
    + """
for place = 2, #ARGV do redis.call('ZADD', flight, 'XX', now + ARGV[1], ARGV[place]) end
redis.call('PEXPIRE', flight, 2 * ARGV[1])
"""
    + _TELL
)

#: Told why, once, when a call has to wait.
OnWait = Callable[[str], None]


class GeminiQuota:
    """The door to the shared limits. Lives on one event loop; give it back with `aclose`."""

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
            self._redis.register_script(code) for code in (_ENTER, _JOIN, _LEAVE, _RENEW)
        )
        self._held: set[str] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        #: on this process's own clock: the end of a pause that it caused itself, and until when Redis is left alone
        self._resume_at = 0.0
        #: and what is known where there is no limit: until when nobody pauses, and when this process had its last 429
        self._free_until = 0.0
        self._limited_at = 0.0
        self._away_until = 0.0
        self._away = False

    @classmethod
    def from_settings(cls, settings: Settings, url: str) -> GeminiQuota:
        """The limits that the environment describes.

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
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper}, timeout=ANSWER_SECONDS)
        await self._redis.aclose()

    @asynccontextmanager
    async def place(self, on_wait: OnWait = lambda _why: None) -> AsyncIterator[None]:
        """A call's place: entered when it may begin. A `GeminiRateLimitedError` passing through pauses everybody."""
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
            # not awaited: a call that is done waits for nobody, a cancelled one least of all
            self._held.discard(token)
            self._give_back(token, outcome, asked, after=joining)

    def look_ahead(self) -> None:
        """Calls will come: where there is no limit, ask now whether anybody pauses, so that they need not wait."""
        if not self._limited and not self._is_free():
            self._in_background(self._look(self._renew, round(PLACE_SECONDS * 1000)))

    def _is_free(self) -> bool:
        """May a call begin without asking?"""
        now = time.monotonic()
        return not self._limited and self._resume_at <= now < self._free_until

    @property
    def _limited(self) -> bool:
        return self._requests is not None or self._max_in_flight is not None

    async def _admitted(self, token: str, on_wait: OnWait) -> None:
        told = False
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
            if not told and time.monotonic() + wait - since > WORTH_SAYING_SECONDS:
                told = True
                on_wait(self._in_words(why, wait))
            await asyncio.sleep(min(wait, LONGEST_SLEEP_SECONDS) + random.uniform(0, 0.01))  # noqa: S311  not a secret

    def _limits(self) -> tuple[int, int, int, int, int]:
        """The arguments of the script that are the same for every call."""
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
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="places in flight at Gemini")

    async def _keep(self) -> None:
        while self._held:
            await asyncio.sleep(PLACE_SECONDS / 3 if self._limited else KNOWN_SECONDS / 2)
            if self._held:
                await self._look(self._renew, round(PLACE_SECONDS * 1000), *self._held)

    def _give_back(self, token: str, outcome: str, pause: float, after: asyncio.Task[None] | None = None) -> None:
        """Leave the line and the air, in the background, once `after` is done."""

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
        """Run a script that tells whether nobody pauses, and remember that."""
        asked_at = time.monotonic()
        free = await self._ask(script, *arguments)
        if free is not None and asked_at > self._limited_at:  # an older answer knows nothing of the 429
            self._free_until = asked_at + KNOWN_SECONDS if free else 0.0

    async def _ask(self, script: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """What the script says; None while Redis is away.

        redis-py may swallow a cancellation (Python 3.11), so that it is not its answer that is awaited.
        """
        if time.monotonic() < self._away_until:
            return None
        question = asyncio.ensure_future(script(keys=KEYS, args=arguments))
        try:
            await asyncio.wait({question}, timeout=ANSWER_SECONDS)
        finally:
            if not question.done():
                question.add_done_callback(_forget)
                question.cancel()
        if question.done() and not question.cancelled():
            error = question.exception()
            if error is None:
                self._away = False
                return question.result()
            if not isinstance(error, RedisError | OSError):
                raise error
        self._away_until = time.monotonic() + AWAY_SECONDS
        if not self._away:
            self._away = True
            _log.warning("Redis does not answer, so Gemini's limits are not kept until it does; calls go on.")
        return None


def _forget(question: asyncio.Future[Any]) -> None:
    if not question.cancelled():
        question.exception()
