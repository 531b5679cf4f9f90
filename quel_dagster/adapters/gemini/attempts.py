"""Whether a failed call is made again, and when.

Retried, with growing pauses, up to GEMINI_ATTEMPTS:
    GeminiRateLimitedError  429; not before Retry-After or RetryInfo allow it, and no attempt while others are made
    GeminiUnavailableError  5xx, 409; connection refused, reset or cut
    GeminiTimeoutError      no complete answer before the deadline; 408, 504
    GeminiBadAnswerError    not JSON, cut short, no candidate, bytes that are no image
Retried as often as the error says:
    GeminiNoPictureError    words or NO_IMAGE: twice
    GeminiRefusedError      not at all, or once where Gemini asks for it
Not retried:
    GeminiRejectedError     bad key, unknown model, spent quota, a redirect: no other request passes either
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from quel_dagster.adapters.gemini.generation import Spent
from quel_dagster.adapters.gemini.observer import Observer
from quel_dagster.adapters.gemini_outage import GeminiOutage
from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.errors import GeminiError, GeminiRateLimitedError, GeminiTimeoutError, GeminiUnavailableError

T = TypeVar("T")

#: Asked to wait longer than this, a picture fails instead: a daily quota does not come back within a run.
LONGEST_RETRY_AFTER_SECONDS = 300.0
#: So many refusals for lack of quota are no attempts: an hour or two, with the pauses between.
MOST_WAITS = 100


class GeminiRetries:
    """Decides about the calls of all pictures of a client, by picture and model."""

    def __init__(self, attempts: int, policy: RetryPolicy, outage: GeminiOutage | None) -> None:
        """
        Args:
            attempts: calls at most, the first one included.
            policy: the pauses.
        """
        self._attempts = attempts
        self._policy = policy
        self._outage = outage
        #: model → pictures that it has made
        self._made = Counter[str]()

    async def call(self, attempt: Callable[[], Awaitable[T]], model: str, spent: Spent, observer: Observer) -> T:
        """Return the result of the first call to this model that succeeds; raise the error of the last one."""
        met = Counter[type[BaseException]]()
        made, waits = self._made[model], 0

        async def again(error: BaseException) -> bool:
            if not isinstance(error, GeminiError) or error is not spent.last_error:
                return False
            met[type(error)] += 1
            nonlocal made, waits
            if isinstance(error, GeminiRateLimitedError) and self._made[model] > made and waits < MOST_WAITS:
                made, waits = self._made[model], waits + 1  # other pictures have used the quota: this one waits for it
            return await self._allows(error, calls=met.total() - waits, alike=met[type(error)])

        def report(_failures: int, error: BaseException, pause: float) -> None:
            assert isinstance(error, GeminiError)  # noqa: S101  others are not retried
            spent.waiting += pause
            observer.retrying(spent.calls, error, pause)

        try:
            result = await self._policy.call(attempt, retry=again, report=report)
        except GeminiError as error:
            if error is spent.last_error and met.total() > 1:
                error.args = (f"{error} (tried {met.total()} times)",)
            raise
        self._made[model] += 1
        return result

    async def _allows(self, error: GeminiError, *, calls: int, alike: int) -> bool:
        """Return whether another call may follow this error.

        Args:
            calls: to this model so far that count as attempts.
            alike: errors of this class among them.
        """
        if error.ask_again is not None and alike > error.ask_again:
            return False
        if error.ask_again is None and (not error.transient or calls >= self._attempts):
            return False
        if (error.retry_after or 0) > LONGEST_RETRY_AFTER_SECONDS:
            return False
        # In an outage that all workers know of, one picture at a time asks once: the others wait.
        return not (may_be_an_outage(error) and self._outage is not None and await self._outage.begun())


def may_be_an_outage(error: GeminiError) -> bool:
    """Return whether other requests may meet this error now too."""
    return isinstance(error, GeminiTimeoutError) or (isinstance(error, GeminiUnavailableError) and error.everybody)
