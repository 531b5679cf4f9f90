"""How often, how long and with which pauses a call to an outside system is tried: one policy, and its figures.

Responsibilities: attempts, time limits, pauses with jitter, log lines. tenacity runs the attempts, once the first has
failed: for a small statement it would cost more than the statement.
Not here: which errors are retried, because each adapter knows those of its system; outages that all calls wait out
together (`storage/outages`, `gemini_outage`).

A stop cancels the task of a `call`, in an attempt or in a pause. Nothing cancels `call_blocking`; its seconds are few.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, stop_after_attempt, stop_after_delay
from tenacity import asyncio as tenacity_async
from tenacity import retry_if_exception as retry_if

T = TypeVar("T")

#: An outage of hours is logged once in this many failures of a call.
LOG_EVERY = 20

#: callback(failures so far, the last error, seconds until the next attempt)
Report = Callable[[int, BaseException, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The limits and pauses of one call. Times in seconds."""

    first_pause: float
    #: the pauses double up to this
    longest_pause: float
    attempts: float = math.inf
    #: no failure is followed by another attempt once this much time has passed
    retry_seconds: float = math.inf
    #: deadline of each attempt, and of all attempts and pauses together; the adapter applies them, to name them
    attempt_timeout: float = math.inf
    total_timeout: float = math.inf

    def pause(self, failures: int, *, asked: float | None = None) -> float:
        """Return the seconds before the next attempt, after this many failures.

        Args:
            asked: seconds that the server asked to wait. It asks all callers alike, so they are spread out after it.
        """
        jitter = random.uniform(0, self.first_pause)  # noqa: S311  not a secret
        pause = min(self.longest_pause, self.first_pause * 2.0 ** min(failures - 1, 20) + jitter)
        return pause if asked is None else max(pause, asked + jitter)

    async def call(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        retry: Callable[[BaseException], bool | Awaitable[bool]],
        report: Report = lambda _failures, _error, _pause: None,
    ) -> T:
        """Return the result of the first attempt that succeeds; raise the error of the last one.

        Args:
            retry: whether this error may be followed by another attempt.
            report: called before each pause.
        """

        began = time.monotonic()
        try:
            return await attempt()
        except Exception as error:  # noqa: BLE001  raised again by the next attempt; a cancellation is none
            failed = [error]

        async def again(error: BaseException) -> bool:
            answer = isinstance(error, Exception) and retry(error)
            return answer if isinstance(answer, bool) else await answer

        async def next_attempt() -> T:
            if failed:
                raise failed.pop()
            return await attempt()

        limits = self._limits(report, began)
        return await AsyncRetrying(**limits, retry=tenacity_async.retry_if_exception(again))(next_attempt)

    def call_blocking(self, attempt: Callable[[], T], *, retry: Callable[[BaseException], bool], report: Report) -> T:
        """As `call`, from a thread without an event loop."""
        began = time.monotonic()
        try:
            return attempt()
        except Exception as error:  # noqa: BLE001  raised again by the next attempt
            failed = [error]

        def next_attempt() -> T:
            if failed:
                raise failed.pop()
            return attempt()

        again = retry_if(lambda error: isinstance(error, Exception) and retry(error))
        return Retrying(**self._limits(report, began), retry=again)(next_attempt)

    def _limits(self, report: Report, began: float) -> dict[str, Any]:
        # tenacity's clock begins now, after the first attempt
        seconds = max(0.0, self.retry_seconds - (time.monotonic() - began))

        def pause(state: RetryCallState) -> float:
            return self.pause(state.attempt_number, asked=getattr(_error_of(state), "retry_after", None))

        return {
            "stop": stop_after_attempt(self.attempts) | stop_after_delay(seconds),  # type: ignore[arg-type]
            "wait": pause,
            "before_sleep": lambda state: report(state.attempt_number, _error_of(state), state.upcoming_sleep),
            "reraise": True,
        }


def log_outage(system: str, log: logging.Logger) -> Report:
    """Return a callback that logs the first failure of a call, and then one in LOG_EVERY."""

    def report(failures: int, error: BaseException, _pause: float) -> None:
        if failures % LOG_EVERY == 1:
            kind = type(getattr(error, "orig", None) or error).__name__
            log.warning("%s is unreachable (%s); the call is retried", system, kind)

    return report


def _error_of(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # noqa: S101  only errors are retried
    return error


# --- the figures -------------------------------------------------------------------------------------

#: Statements, this project's and Dagster's. The next four say how long, depending on what waits.
POSTGRESQL = RetryPolicy(first_pause=0.1, longest_pause=2.0)
#: A person at a prompt or in front of a page; longer for `quel up`, and for Dagster's pages and loops.
PERSON_SECONDS, START_SECONDS = 2.0, 5.0
#: Dagster ends a sensor's tick after 60 s and repeats it.
TICK_SECONDS = 20.0
#: A run: a restart or a failover. The pictures of a worker wait longer, as long as QUEL_OUTAGE_HOURS allows.
RUN_SECONDS = 60.0

OBJECT_STORE = RetryPolicy(first_pause=0.2, longest_pause=5.0, attempts=5, attempt_timeout=30.0, total_timeout=60.0)
#: The first pause is a setting, GEMINI_BACKOFF_SECONDS; `gemini/attempts` decides how often a call is made.
GEMINI = RetryPolicy(first_pause=1.0, longest_pause=60.0)
ALERT_WEBHOOK = RetryPolicy(first_pause=0.2, longest_pause=2.0, attempts=3, attempt_timeout=5.0)
#: The payer's credits are reserved for other pictures, which may fail and give them back.
RESERVATION = RetryPolicy(first_pause=0.1, longest_pause=2.0)
#: A service of `quel up` that ended by itself.
RESTART = RetryPolicy(first_pause=1.0, longest_pause=30.0)
