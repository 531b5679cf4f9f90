"""Whether a failed call is made again, and when.

Retried, with growing pauses, up to GEMINI_ATTEMPTS:
    GeminiRateLimitedError  429; not before Retry-After or RetryInfo allow it
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
from dataclasses import dataclass
from typing import TypeVar

from quel_dagster.adapters.gemini.generation import Spent
from quel_dagster.adapters.gemini.observer import Observer
from quel_dagster.adapters.gemini_outage import GeminiOutage
from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.errors import GeminiError, GeminiTimeoutError, GeminiUnavailableError

T = TypeVar("T")

#: Asked to wait longer than this, a picture fails instead: a daily quota does not come back within a run.
LONGEST_RETRY_AFTER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class GeminiRetries:
    """Decides about the calls of one picture to one model."""

    #: calls at most, the first one included
    attempts: int
    #: the pauses
    policy: RetryPolicy
    outage: GeminiOutage | None

    async def call(self, attempt: Callable[[], Awaitable[T]], spent: Spent, observer: Observer) -> T:
        """Return the result of the first call that succeeds; raise the error of the last one."""
        met = Counter[type[BaseException]]()

        async def again(error: BaseException) -> bool:
            if not isinstance(error, GeminiError) or error is not spent.last_error:
                return False
            met[type(error)] += 1
            return await self.allows(error, calls=met.total(), alike=met[type(error)])

        def report(_failures: int, error: BaseException, pause: float) -> None:
            assert isinstance(error, GeminiError)  # noqa: S101  others are not retried
            spent.waiting += pause
            observer.retrying(spent.calls, error, pause)

        try:
            return await self.policy.call(attempt, retry=again, report=report)
        except GeminiError as error:
            if error is spent.last_error and met.total() > 1:
                error.args = (f"{error} (tried {met.total()} times)",)
            raise

    async def allows(self, error: GeminiError, *, calls: int, alike: int) -> bool:
        """Return whether another call may follow this error.

        Args:
            calls: to this model so far.
            alike: errors of this class among them.
        """
        if error.ask_again is not None and alike > error.ask_again:
            return False
        if error.ask_again is None and (not error.transient or calls >= self.attempts):
            return False
        if (error.retry_after or 0) > LONGEST_RETRY_AFTER_SECONDS:
            return False
        # In an outage that all workers know of, one picture at a time asks once: the others wait.
        return not (may_be_an_outage(error) and self.outage is not None and await self.outage.begun())


def may_be_an_outage(error: GeminiError) -> bool:
    """Return whether other requests may meet this error now too."""
    return isinstance(error, GeminiTimeoutError) or (isinstance(error, GeminiUnavailableError) and error.everybody)
