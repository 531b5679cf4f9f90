"""Let the whole installation wait for an overloaded or unreachable Gemini instead of failing its jobs.

Three different pictures that ended in unavailability, without an answer between, begin an outage: the intake is
paused (`intake`), and pictures wait. One of them at a time makes one call, after pauses that grow to a minute; the
first answer ends the outage for all. A picture gives up when the outage is older than GEMINI_OUTAGE_HOURS.

The state is in Redis, beside the shared limits of `gemini_quota`. Waiting pictures renew the pause, so it lapses
without them. Without Redis each picture waits by itself. Any worker's answer ends the outage. A picture alone in its
unavailability waits without a pause of the intake, and fails when others are made again and again meanwhile. A new job
that is let through (`intake.admits_a_probe`) shows whether the waiting pictures are unavailable for reasons of their
own, or Gemini is.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis.asyncio

from quel_dagster.adapters.intake import KEYS, LAPSE_SECONDS, NEXT_PROBE, PROBE_JOB_SECONDS, Pause, Pauser
from quel_dagster.adapters.redis_connection import answer_within, open_redis
from quel_dagster.errors import GeminiError, GeminiUnavailableError
from quel_dagster.settings import Settings

PAUSE = KEYS[Pauser.GEMINI]
#: set: tokens of the pictures that ended in unavailability since the last answer
UNAVAILABLE = "quel:gemini:unavailable_pictures"
#: string: number of reports that Gemini answered
ANSWERS = "quel:gemini:answers"
#: string: token of the picture that makes the next call; `none` until the pause before that call is over
PROBE = "quel:gemini:probe"
#: string: calls of this outage that failed
PROBES = "quel:gemini:probes"

#: different pictures that begin an outage; also how often others are made until a picture fails alone
PICTURES = 3
#: seconds after which unavailable pictures no longer count
ROW_SECONDS = 600
#: seconds after the last answer in which their number is kept
ANSWERS_SECONDS = 86_400
#: seconds for which a killed worker holds the right to the next call
PROBE_SECONDS = 90.0
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0
#: a waiting picture looks again within this time
LOOK_SECONDS = 1.0
#: seconds to wait for Redis
ANSWER_SECONDS = 2.0
#: seconds between reports of an answer to Redis, in the background
REPORT_SECONDS = 5.0

# A picture ended in unavailability. → {the pause in force or nothing, reports of answers}
_ENDED = """
local pause, unavailable, probe, probes, next_job, answers = unpack(KEYS)
local token, record, lapse_ms, pictures, row_s, first_ms, longest_ms, next_job_ms = unpack(ARGV)
if redis.call('GET', probe) == token then
    local failed = redis.call('INCR', probes)
    redis.call('EXPIRE', probes, row_s)
    redis.call('SET', probe, 'none', 'PX', math.floor(math.min(longest_ms, first_ms * 2 ^ math.min(failed - 1, 20))))
end
redis.call('SADD', unavailable, token)
redis.call('EXPIRE', unavailable, row_s)
if redis.call('SCARD', unavailable) >= tonumber(pictures) and redis.call('EXISTS', pause) == 0 then
    redis.call('SET', pause, record, 'PX', lapse_ms)
    redis.call('SET', probe, 'none', 'PX', math.max(1, math.floor(tonumber(first_ms))))
    redis.call('SET', next_job, 'none', 'PX', next_job_ms)
end
return {redis.call('GET', pause) or '', redis.call('GET', answers) or '0'}
"""

# May this picture make a call? → {the pause in force or false, 1 or 0}
_LOOK = """
local pause, probe = KEYS[1], KEYS[3]
local token, lapse_ms, probe_ms = unpack(ARGV)
local record = redis.call('GET', pause)
if not record then return {false, 1} end
redis.call('PEXPIRE', pause, lapse_ms)
if redis.call('SET', probe, token, 'NX', 'PX', probe_ms) then return {record, 1} end
return {record, 0}
"""

Turn = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Ended:
    """The state that a picture met which ended in unavailability."""

    #: the pause in force
    pause: Pause | None
    #: reports so far that Gemini answered
    answers: int


class GeminiOutage:
    """The shared state of an outage. Lives on one event loop; give it back with `aclose`."""

    def __init__(self, url: str, *, hours: float, first_pause_seconds: float = FIRST_PAUSE_SECONDS) -> None:
        """
        Args:
            url: of Redis.
            hours: longest wait for the end of an outage; 0: no wait.
            first_pause_seconds: before the first call of an outage; doubles up to a minute.

        Raises:
            SettingsError: `url` is no Redis URL.
        """
        self.hours = hours
        self.first_pause_seconds = first_pause_seconds
        self._redis: redis.asyncio.Redis = open_redis(redis.asyncio.Redis, url)
        self._ended, self._look = (self._redis.register_script(code) for code in (_ENDED, _LOOK))
        #: whether this process met unavailability since its last answer
        self._in_trouble = False
        self._reported_at = -REPORT_SECONDS
        self._background: set[asyncio.Task[Any]] = set()

    @classmethod
    def from_settings(cls, settings: Settings, url: str) -> GeminiOutage:
        """Return the outage that the environment describes."""
        return cls(
            url,
            hours=settings.gemini_outage_hours,
            first_pause_seconds=FIRST_PAUSE_SECONDS * settings.gemini_backoff_seconds,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._background:
            await asyncio.wait(self._background, timeout=ANSWER_SECONDS)
        await self._redis.aclose()

    def answered(self) -> None:
        """Report that Gemini answered: an outage is over. Does not wait; without an outage Redis is updated rarely."""
        now = time.monotonic()
        if self._in_trouble or now - self._reported_at >= REPORT_SECONDS:
            self._in_trouble, self._reported_at = False, now
            task = asyncio.create_task(self._end(), name="end of an outage of Gemini")
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def begun(self) -> bool:
        """Return whether an outage is known to all workers."""
        self._in_trouble = True
        return bool(self.hours and await self._ask(lambda: self._redis.exists(PAUSE)))

    async def picture_ended(self, token: str, error: GeminiError) -> Ended | None:
        """Count a picture that ended in unavailability; return None when Redis does not answer."""
        pause = Pause.new(Pauser.GEMINI, str(error), by=f"{socket.gethostname()}:{os.getpid()}")
        arguments = (
            token,
            pause.encoded(),
            round(LAPSE_SECONDS * 1000),
            PICTURES,
            ROW_SECONDS,
            max(1, round(self.first_pause_seconds * 1000)),
            round(LONGEST_PAUSE_SECONDS * 1000),
            round(PROBE_JOB_SECONDS * 1000),
        )
        answer = await self._ask(lambda: self._ended(keys=self._keys, args=arguments))
        if answer is None:
            return None
        record, answers = answer
        return Ended(Pause.read(Pauser.GEMINI, record) if record else None, int(answers))

    async def look(self, token: str) -> tuple[Pause | None, bool]:
        """Return the pause in force, and whether this picture may make a call now."""
        arguments = (token, round(LAPSE_SECONDS * 1000), round(PROBE_SECONDS * 1000))
        answer = await self._ask(lambda: self._look(keys=self._keys, args=arguments))
        if answer is None:
            return None, True
        record, may = answer
        return (Pause.read(Pauser.GEMINI, record) if record else None), bool(may)

    @property
    def _keys(self) -> tuple[str, ...]:
        return PAUSE, UNAVAILABLE, PROBE, PROBES, NEXT_PROBE, ANSWERS

    async def _end(self) -> None:
        async def end() -> None:
            async with self._redis.pipeline() as pipeline:
                pipeline.delete(PAUSE, UNAVAILABLE, PROBE, PROBES, NEXT_PROBE)
                pipeline.incr(ANSWERS)
                pipeline.expire(ANSWERS, ANSWERS_SECONDS)
                await pipeline.execute()

        await self._ask(end)

    async def _ask(self, question: Callable[[], Any]) -> Any:
        """Return Redis's answer; None when it does not answer in time."""
        return await answer_within(ANSWER_SECONDS, question())


class PictureWait:
    """One picture that waits for the end of an outage."""

    def __init__(self, outage: GeminiOutage, *, on_wait: Callable[[str], None], turn: Turn) -> None:
        self._outage = outage
        self._on_wait = on_wait
        self._turn = turn
        self._token = secrets.token_hex(8)
        self._rounds = 0
        #: reports of answers when this picture ended last, and rounds between which there were some
        self._answers: int | None = None
        self._others_made = 0
        #: whether the waits without and with a pause of the intake were reported
        self._reported: set[bool] = set()
        self._since = datetime.now(UTC)

    async def wait(self, error: GeminiError) -> None:
        """Wait until this picture, which ended in `error`, may be asked for again.

        A stop of the run ends the wait: `turn` raises its reason.

        Raises:
            GeminiUnavailableError: the outage is older than GEMINI_OUTAGE_HOURS, or there is none: others are made.
        """
        if not self._outage.hours:
            raise error
        self._rounds += 1
        ended = await self._outage.picture_ended(self._token, error)
        pause = ended.pause if ended else None
        if ended is not None:
            self._others_made += self._answers not in {None, ended.answers}
            self._answers = ended.answers
        if pause is None:
            if self._others_made >= PICTURES:
                raise error
            self._report(f"Waiting for Gemini: {error}", paused=False)
            doublings = min(self._rounds - 1, 20)
            await self._sleep(min(LONGEST_PAUSE_SECONDS, self._outage.first_pause_seconds * 2.0**doublings))
            self._check(error, self._since)
            return
        self._report(f"Waiting for Gemini, and no new job is begun: {pause.reason}", paused=True)
        while True:
            self._check(error, min(pause.since, self._since) if pause else self._since)
            pause, may = await self._outage.look(self._token)
            if may:
                return
            await self._sleep(LOOK_SECONDS)

    def _report(self, line: str, *, paused: bool) -> None:
        if paused not in self._reported:
            self._reported.add(paused)
            self._on_wait(line)

    def _check(self, error: GeminiError, since: datetime) -> None:
        hours = (datetime.now(UTC) - since).total_seconds() / 3600
        if hours >= self._outage.hours:
            raise GeminiUnavailableError(
                f"Gemini has been unavailable for {hours:.1f} h, longer than GEMINI_OUTAGE_HOURS: {error}"
            ) from None

    async def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds * random.uniform(0.9, 1.1)  # noqa: S311  not a secret
        while (left := until - time.monotonic()) > 0:
            async with self._turn():  # raises the reason of a stop
                pass
            await asyncio.sleep(min(left, LOOK_SECONDS))
