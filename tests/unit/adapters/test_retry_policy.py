"""The retry policy: pauses, limits, and the end of a retry by a cancelled task."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from quel_dagster.adapters.retry_policy import LOG_EVERY, RetryPolicy, log_outage

QUICK = RetryPolicy(first_pause=0.001, longest_pause=0.002)


class BrokenError(Exception):
    """As an adapter raises it; a server may have named a moment."""

    retry_after: float | None = None


class Calls:
    """Fails `failures` times, then answers."""

    def __init__(self, failures: int = 10_000) -> None:
        self.made = 0
        self._failures = failures

    def blocking(self) -> str:
        self.made += 1
        if self.made <= self._failures:
            raise BrokenError(str(self.made))
        return "answer"

    async def __call__(self) -> str:
        return self.blocking()


def always(_error: BaseException) -> bool:
    return True


def test_pauses_double_up_to_the_longest_and_are_spread_out() -> None:
    policy = RetryPolicy(first_pause=1.0, longest_pause=6.0)
    for failures, least in enumerate((1.0, 2.0, 4.0, 6.0, 6.0), start=1):
        pauses = {policy.pause(failures) for _ in range(50)}
        assert least <= min(pauses)
        assert max(pauses) <= min(least + 1.0, 6.0)
        assert least == 6.0 or len(pauses) > 1, "all callers would come back at the same moment"


def test_pause_after_a_million_failures_is_the_longest() -> None:
    assert RetryPolicy(first_pause=1.0, longest_pause=6.0).pause(1_000_000) == 6.0


def test_pause_that_the_server_asked_for_is_kept_and_spread_out() -> None:
    policy = RetryPolicy(first_pause=1.0, longest_pause=6.0)
    pauses = {policy.pause(1, asked=20.0) for _ in range(50)}
    assert 20.0 <= min(pauses) <= max(pauses) <= 21.0
    assert len(pauses) > 1
    assert policy.pause(3, asked=0.5) >= 4.0, "a server that asks for less does not shorten the backoff"


async def test_error_that_is_retried_until_the_answer() -> None:
    calls = Calls(failures=3)
    assert await QUICK.call(calls, retry=always) == "answer"
    assert calls.made == 4


async def test_attempt_may_be_a_function_that_returns_an_awaitable() -> None:
    calls = Calls(failures=1)
    assert await QUICK.call(lambda: calls(), retry=always) == "answer"  # noqa: PLW0108  a method or a partial, as well
    assert calls.made == 2


async def test_error_that_is_not_retried_is_raised_at_once() -> None:
    calls = Calls()
    with pytest.raises(BrokenError, match=r"^1$"):
        await QUICK.call(calls, retry=lambda _error: False)


async def test_last_error_is_raised_after_all_attempts() -> None:
    calls = Calls()
    with pytest.raises(BrokenError, match=r"^3$"):
        await RetryPolicy(first_pause=0.001, longest_pause=0.002, attempts=3).call(calls, retry=always)


def test_time_limit_holds_in_a_thread() -> None:
    calls = Calls()
    policy = RetryPolicy(first_pause=0.001, longest_pause=0.01, retry_seconds=0.05)
    with pytest.raises(BrokenError):
        policy.call_blocking(calls.blocking, retry=always, report=lambda *_: None)
    assert calls.made > 2


async def test_report_gets_the_error_and_the_pause_that_the_server_asked_for() -> None:
    reports: list[tuple[int, str, float]] = []

    async def limited() -> str:
        if reports:
            return "answer"
        error = BrokenError("busy")
        error.retry_after = 0.05
        raise error

    await QUICK.call(
        limited, retry=always, report=lambda number, error, pause: reports.append((number, str(error), pause))
    )

    ((number, error, pause),) = reports
    assert (number, error) == (1, "busy")
    assert pause >= 0.05


async def test_decision_to_retry_may_be_awaited() -> None:
    async def never(_error: BaseException) -> bool:
        return False

    with pytest.raises(BrokenError, match=r"^1$"):
        await QUICK.call(Calls(), retry=never)


async def test_cancelled_task_ends_in_the_pause() -> None:
    pausing = asyncio.Event()
    endless = RetryPolicy(first_pause=3600.0, longest_pause=3600.0)
    call = asyncio.create_task(endless.call(Calls(), retry=always, report=lambda *_: pausing.set()))
    await pausing.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 10)


async def test_cancelled_task_ends_in_an_attempt() -> None:
    attempts: list[asyncio.Event] = []

    async def hangs() -> None:
        attempts.append(asyncio.Event())
        began.set()
        await attempts[-1].wait()

    began = asyncio.Event()
    call = asyncio.create_task(QUICK.call(hangs, retry=always))
    await began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 10)
    assert len(attempts) == 1


def test_long_outage_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    report = log_outage("PostgreSQL", logging.getLogger("quel"))
    for failures in range(1, 2 * LOG_EVERY + 1):
        report(failures, BrokenError("password=geheim"), 1.0)
    assert [record.message for record in caplog.records] == [
        "PostgreSQL is unreachable (BrokenError); the call is retried"
    ] * 2


def test_time_limit_counts_the_first_attempt() -> None:
    """An attempt that took as long as all may take is not followed by another one."""
    policy = RetryPolicy(first_pause=0.001, longest_pause=0.002, retry_seconds=0.05)
    made = 0

    def slow() -> str:
        nonlocal made
        made += 1
        time.sleep(0.06)
        raise BrokenError

    with pytest.raises(BrokenError):
        policy.call_blocking(slow, retry=always, report=lambda *_: None)
    assert made == 1
