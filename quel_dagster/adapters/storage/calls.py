"""Make one call to a store: its attempts by the retry policy, its deadlines, and its name in every error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from quel_dagster.adapters.retry_policy import RetryPolicy
from quel_dagster.errors import StorageError, StorageUnavailableError

T = TypeVar("T")


async def call(policy: RetryPolicy, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Make the attempts of one call; `what` opens the message of a failure, such as `upload of a/b.webp`.

    Raises:
        StorageUnavailableError: no attempt succeeded; the message ends with the last reason.
        StorageError: from an attempt that a retry cannot help.
    """
    last = "no answer"

    async def timed() -> T:
        nonlocal last
        try:
            async with asyncio.timeout(policy.attempt_timeout):
                return await attempt()
        except TimeoutError:
            last = f"no complete answer within {policy.attempt_timeout:g} s"
            raise StorageUnavailableError(f"{what}: {last}") from None
        except StorageError as error:
            last = str(error)
            raise type(error)(f"{what}: {last}") from None

    try:
        async with asyncio.timeout(policy.total_timeout):
            return await policy.call(timed, retry=_may_succeed_later)
    except TimeoutError:
        raise StorageUnavailableError(f"{what}: given up after {policy.total_timeout:g} s; last: {last}") from None


def _may_succeed_later(error: BaseException) -> bool:
    return isinstance(error, StorageError) and error.transient
