"""One picture: what is asked for, and what it took."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from quel_dagster.adapters.gemini.observer import Observer
from quel_dagster.errors import GeminiError
from quel_dagster.jobs.models import ImageModel, Usage

if TYPE_CHECKING:
    from quel_dagster.adapters.gemini.request import Contents

T = TypeVar("T")

#: Entered around every single call, so that a limit over all runs can delay calls; gets a callback(reason). The error
#: of a failed call passes through its `__aexit__`, where the limiter sees a 429 and its duration.
Gate = Callable[[Callable[[str], None]], AbstractAsyncContextManager[None]]
#: Entered around every single call too, before the gate.
Turn = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(slots=True)
class Spent:
    """The usage of a picture, over all calls and models."""

    #: requests sent
    calls: int = 0
    #: seconds in calls, failed ones included
    calling: float = 0.0
    #: seconds in backoff, at the gate, and for the end of an outage
    waiting: float = 0.0
    usage: Usage = field(default_factory=Usage)
    #: USD by the price table; None: a model without known prices was asked
    cost: float | None = 0.0
    #: the model that was asked last: the one that made the picture, if there is one
    model: str = ""
    #: remarks for a reader: another model, another shape
    notes: list[str] = field(default_factory=list)
    last_error: GeminiError | None = None

    def add(self, model: ImageModel, usage: Usage) -> None:
        self.usage += usage
        cost = model.cost(usage)
        self.cost = None if cost is None or self.cost is None else self.cost + cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Generic[T]):
    """The arguments of `GeminiClient.generate`."""

    contents: Contents
    ratio: str
    accept: Callable[[bytes], Awaitable[T]]
    size_of: Callable[[T], tuple[int, int]] | None
    turn: Turn
    observer: Observer
    spent: Spent

    def note(self, note: str) -> None:
        self.spent.notes.append(note)
        self.observer.noted(note)
