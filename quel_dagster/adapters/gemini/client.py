"""Ask Gemini for pictures. The result is one picture, or a `GeminiError` with a class for each remedy.

Responsibilities: attempts, fallback models, a second try for a picture of the wrong shape.
Not here: the text (`jobs`), the use of the picture (`engine`), limits over all runs (`gemini_quota`, as a `gate`),
outages (`gemini_outage`); one call, and the errors that are retried (`endpoint`, `attempts`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from quel_dagster.adapters.gemini.access import Access, access_of
from quel_dagster.adapters.gemini.answer import Answer
from quel_dagster.adapters.gemini.attempts import GeminiRetries, may_be_an_outage
from quel_dagster.adapters.gemini.endpoint import Endpoint
from quel_dagster.adapters.gemini.generation import Gate, Order, Spent, Turn
from quel_dagster.adapters.gemini.observer import Observer
from quel_dagster.adapters.gemini.request import contents_of
from quel_dagster.adapters.gemini_outage import GeminiOutage, PictureWait
from quel_dagster.adapters.retry_policy import GEMINI
from quel_dagster.errors import (
    GeminiBadAnswerError,
    GeminiError,
    GeminiModelError,
    GeminiTimeoutError,
    GeminiUnavailableError,
    PictureError,
)
from quel_dagster.jobs.model import ImagePart
from quel_dagster.jobs.models import DEFAULT_MODEL, NEAR_SHUTDOWN, ImageModel, model_of, shape_is
from quel_dagster.settings import Settings

T = TypeVar("T")


class GeminiClient:
    """Asks Gemini for pictures. Build one per process; it serves many tasks and event loops."""

    def __init__(
        self,
        *,
        access: Access,
        base_url: str | None = None,
        models: Sequence[ImageModel] = (model_of(DEFAULT_MODEL),),
        size: str = "1K",
        thinking: str | None = None,
        timeout_seconds: float | None = None,
        attempts: int = 5,
        backoff_seconds: float = 1.0,
        gate: Gate | None = None,
        outage: GeminiOutage | None = None,
    ) -> None:
        """
        Args:
            access: how requests are allowed.
            base_url: where the API is; a path in it is kept. None: Google's own endpoint.
            models: asked in order, where a call of `generate` names none.
            size: of the pictures: `512`, `1K`, `2K`, `4K`.
            thinking: level to name; None: the model's own.
            timeout_seconds: hard deadline of one call, however slowly its answer drips; None: by the model's table.
            attempts: calls per picture and model, the first one included.
            backoff_seconds: first pause between attempts; doubles up to 60 s, with jitter.
            gate: see `Gate`.
            outage: None: a picture fails when its attempts end in unavailability.

        Raises:
            SettingsError: the credentials or the URL cannot be used.
        """
        self._models = tuple(models)
        self._gate: Gate = gate or _open
        self._outage = outage
        self._retries = GeminiRetries(attempts, replace(GEMINI, first_pause=backoff_seconds), outage)
        self._endpoint = Endpoint(
            access=access, base_url=base_url, size=size, thinking=thinking, timeout_seconds=timeout_seconds
        )

    @classmethod
    def from_settings(
        cls, settings: Settings, *, gate: Gate | None = None, outage: GeminiOutage | None = None
    ) -> GeminiClient:
        """Return the client of the settings.

        Raises:
            SettingsError: GEMINI_API_KEY is missing, or a value cannot be used.
        """
        return cls(
            access=access_of(settings),
            base_url=settings.gemini_base_url,
            models=(model_of(settings.gemini_model),),
            size=settings.gemini_image_size,
            thinking=settings.gemini_thinking,
            timeout_seconds=settings.gemini_timeout_seconds,
            attempts=settings.gemini_attempts,
            backoff_seconds=settings.gemini_backoff_seconds,
            gate=gate,
            outage=outage,
        )

    async def generate(
        self,
        *,
        text: str,
        parts: Sequence[ImagePart],
        aspect_ratio: str,
        accept: Callable[[bytes], Awaitable[T]],
        models: Sequence[ImageModel] = (),
        size_of: Callable[[T], tuple[int, int]] | None = None,
        turn: Turn = nullcontext,
        observer: Observer | None = None,
        spent: Spent | None = None,
    ) -> T:
        """Ask for one picture, again where that may help (domain.md §6); return what `accept` made of it.

        Args:
            text: what is asked for; goes last.
            parts: encoded reference pictures, in the order that the text numbers them.
            aspect_ratio: such as `16:9`.
            accept: decodes the picture's bytes; a `PictureError` from it is a broken answer and is retried.
            models: asked in order: the next one where one is retired, refuses the request or stays unavailable.
            size_of: pixels of what `accept` returned; a picture of another shape than asked for is made again once.
            turn: entered around each call, before the gate: the caller's own bound on calls at a time. A picture that
                pauses between attempts, or is being decoded, holds no turn. Not counted as waiting.
            observer: gets the events of this picture.
            spent: filled while the picture is made, also when it fails.

        Raises:
            GeminiError: no picture; the class says why (see the module).
        """
        order = Order(
            contents=contents_of(text, parts),
            ratio=aspect_ratio,
            accept=accept,
            size_of=size_of,
            turn=turn,
            observer=observer or Observer(),
            spent=spent if spent is not None else Spent(),
        )
        if self._outage is None:
            return await self._by_one_of(models or self._models, order)
        outage = PictureWait(self._outage, on_wait=order.observer.waiting, turn=turn)
        while True:
            try:
                return await self._by_one_of(models or self._models, order)
            except GeminiError as error:
                if error is not order.spent.last_error or not await self._is_outage(error):
                    raise
                waiting = time.monotonic()
                await outage.wait(error)
                order.spent.waiting += time.monotonic() - waiting

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later call, on any loop, opens new ones."""
        await self._endpoint.aclose()
        if self._outage is not None:
            await self._outage.aclose()

    # --- models and attempts -----------------------------------------------------------------------------

    async def _by_one_of(self, models: Sequence[ImageModel], order: Order[T]) -> T:
        """Ask the models in order: the next one where one is retired or stays unavailable."""
        for model, following in itertools.pairwise(models):
            try:
                return await self._by(model, order)
            except (GeminiModelError, GeminiUnavailableError) as error:
                if error is not order.spent.last_error:
                    raise
                order.note(f"{following.id} is asked in place of {model.id}: {error}")
        return await self._by(models[-1], order)

    async def _by(self, model: ImageModel, order: Order[T]) -> T:
        result = await self._retries.call(lambda: self._attempt(model, order), model.id, order.spent, order.observer)
        size = order.size_of(result) if order.size_of is not None else None
        if size is not None and not shape_is(*size, order.ratio):
            order.note(f"Gemini made {size[0]}×{size[1]} pixels, not {order.ratio}; asked again once.")
            return await self._second_shape(model, order, result)
        return result

    async def _second_shape(self, model: ImageModel, order: Order[T], first: T) -> T:
        """Return a second picture, in the place of one of another shape than asked for; the first if there is none."""
        before = order.spent.calls
        try:
            second = await self._attempt(model, order)
        except GeminiError:
            if order.spent.calls == before:  # the reason of a stop, met while waiting for a turn
                raise
            return first
        if order.size_of is not None and not shape_is(*order.size_of(second), order.ratio):
            order.note(f"The second picture has another shape than {order.ratio} too; it is kept.")
        return second

    async def _is_outage(self, error: GeminiError) -> bool:
        """Return whether a picture that ended in this error waits instead of failing."""
        if isinstance(error, GeminiTimeoutError):  # a Gemini that hangs is an outage only where others saw one
            return self._outage is not None and await self._outage.begun()
        return may_be_an_outage(error)

    async def _attempt(self, model: ImageModel, order: Order[T]) -> T:
        before = order.spent.calls
        try:
            return await self._ask(model, order)
        except GeminiError as error:
            if order.spent.calls > before:  # else it is the reason of a stop, met while waiting for a turn
                order.spent.last_error = error
                if self._outage is not None and not may_be_an_outage(error):
                    self._outage.answered()
            raise

    async def _ask(self, model: ImageModel, order: Order[T]) -> T:
        async with order.turn():
            at_gate = time.monotonic()
            async with self._gate(order.observer.waiting):
                started = time.monotonic()
                order.spent.waiting += started - at_gate
                order.observer.admitted(started - at_gate)
                order.spent.calls += 1
                order.spent.model = model.id
                order.observer.calling(order.spent.calls)
                try:
                    body = await self._endpoint.call(model, order.contents, ratio=order.ratio)
                finally:
                    order.spent.calling += time.monotonic() - started
        if self._outage is not None:
            self._outage.answered()
        # in a thread: 4K pictures are tens of megabytes of JSON
        answer = await asyncio.to_thread(Answer, body, secret=self._endpoint.secret)
        order.spent.add(model, answer.usage)
        if (day := answer.retirement) is not None and day - datetime.now(UTC).date() <= NEAR_SHUTDOWN:
            order.note(f"Google retires {model.id} on {day:%Y-%m-%d}; set GEMINI_MODEL to one of docs/models.md.")
        picture = await asyncio.to_thread(answer.picture)
        try:
            return await order.accept(picture)
        except PictureError as error:
            raise GeminiBadAnswerError(f"Gemini's answer was broken: {error}") from None


def _open(_on_wait: Callable[[str], None]) -> AbstractAsyncContextManager[None]:
    """A gate that delays no call."""
    return nullcontext()
