"""Limit the pixels that one process holds decoded at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: about 240 MB of RGBA, and as much again while they are converted
PIXELS_IN_FLIGHT: Final = 60_000_000


class PixelBudget:
    """A semaphore over pixels, in order of arrival. A picture larger than the whole budget runs alone."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._free = pixels
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._held = threading.local()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until `pixels` are free and hold them. A thread that already holds some does not wait."""
        if getattr(self._held, "yes", False):
            yield
            return
        amount, waiter = min(pixels, self._pixels), object()
        with self._changed:
            self._waiting.append(waiter)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is waiter and self._free >= amount)
                self._free -= amount
            finally:
                self._waiting.remove(waiter)
                self._changed.notify_all()
        self._held.yes = True
        try:
            yield
        finally:
            self._held.yes = False
            with self._changed:
                self._free += amount
                self._changed.notify_all()


#: the budget of this process
PIXEL_BUDGET: Final = PixelBudget(PIXELS_IN_FLIGHT)
