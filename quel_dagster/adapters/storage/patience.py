"""How long a store is waited for, and how often it is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from quel_dagster.errors import StorageError, StorageUnavailableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds."""

    attempts: int = 5
    first_pause: float = 0.2
    longest_pause: float = 5.0
    attempt_timeout: float = 30.0
    #: all attempts and pauses of one call together
    total_timeout: float = 60.0

    async def call(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make the attempts of one call; `what` opens the message of a failure, such as `upload of a/b.webp`.

        Raises:
            StorageUnavailableError: no attempt got through; the message ends with the last reason.
            StorageError: from an attempt, if trying again is no use.
        """
        last = "no answer"

        async def timed() -> T:
            nonlocal last
            try:
                async with asyncio.timeout(self.attempt_timeout):
                    return await attempt()
            except TimeoutError:
                last = f"no complete answer within {self.attempt_timeout:g} s"
                raise StorageUnavailableError(f"{what}: {last}") from None
            except StorageUnavailableError as error:
                last = str(error)
                raise StorageUnavailableError(f"{what}: {last}") from None
            except StorageError as error:
                raise type(error)(f"{what}: {error}") from None

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, StorageError) and error.transient),
            wait=wait_exponential_jitter(self.first_pause, self.longest_pause, jitter=self.first_pause),
            stop=stop_after_attempt(self.attempts),
            reraise=True,
        )
        try:
            async with asyncio.timeout(self.total_timeout):
                return await retrying(timed)
        except TimeoutError:
            raise StorageUnavailableError(f"{what}: given up after {self.total_timeout:g} s; last: {last}") from None
