"""Which errors of Gemini use up the attempts of a picture."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from quel_dagster.adapters.gemini.attempts import MOST_WAITS, GeminiRetries
from quel_dagster.adapters.gemini.generation import Spent
from quel_dagster.adapters.gemini.observer import Observer
from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.errors import GeminiRateLimitedError, GeminiUnavailableError

ATTEMPTS = 3
REFUSALS = 10


@pytest.fixture
def retries() -> GeminiRetries:
    return GeminiRetries(ATTEMPTS, RetryPolicy(first_pause=0.0, longest_pause=0.0), None)


async def _picture(retries: GeminiRetries, attempt: Callable[[Spent], Awaitable[str]], model: str = "one") -> str:
    spent = Spent()
    return await retries.call(lambda: attempt(spent), model, spent, Observer())


def _failing(spent: Spent, error: GeminiRateLimitedError | GeminiUnavailableError) -> Exception:
    spent.calls += 1
    spent.last_error = error
    return error


async def _made(_spent: Spent) -> str:
    return "made"


async def test_a_429_beside_pictures_that_are_made_is_no_attempt(retries: GeminiRetries) -> None:
    """Those pictures took the quota: this one waits for it."""

    async def refused_often(spent: Spent) -> str:
        if spent.calls == REFUSALS:
            return "made"
        await _picture(retries, _made)
        raise _failing(spent, GeminiRateLimitedError("429"))

    assert await _picture(retries, refused_often) == "made"


async def test_a_429_while_nothing_is_made_is_an_attempt(retries: GeminiRetries) -> None:
    await _picture(retries, _made)

    async def refused(spent: Spent) -> str:
        raise _failing(spent, GeminiRateLimitedError("429"))

    with pytest.raises(GeminiRateLimitedError, match=rf"tried {ATTEMPTS} times"):
        await _picture(retries, refused)


async def test_a_429_beside_pictures_of_another_model_is_an_attempt(retries: GeminiRetries) -> None:
    """Quotas are by model."""

    async def refused(spent: Spent) -> str:
        await _picture(retries, _made, model="another")
        raise _failing(spent, GeminiRateLimitedError("429"))

    with pytest.raises(GeminiRateLimitedError, match=rf"tried {ATTEMPTS} times"):
        await _picture(retries, refused)


async def test_a_picture_that_is_always_refused_fails_in_the_end(retries: GeminiRetries) -> None:
    async def refused(spent: Spent) -> str:
        await _picture(retries, _made)
        raise _failing(spent, GeminiRateLimitedError("429"))

    with pytest.raises(GeminiRateLimitedError, match=rf"tried {MOST_WAITS + ATTEMPTS} times"):
        await _picture(retries, refused)


async def test_other_errors_beside_pictures_that_are_made_are_attempts(retries: GeminiRetries) -> None:
    async def broken(spent: Spent) -> str:
        await _picture(retries, _made)
        raise _failing(spent, GeminiUnavailableError("503"))

    with pytest.raises(GeminiUnavailableError, match=rf"tried {ATTEMPTS} times"):
        await _picture(retries, broken)
