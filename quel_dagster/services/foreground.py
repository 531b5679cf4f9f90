"""Run a stack in the foreground of a terminal until a signal: behind `quel up` and `quel worker`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from quel_dagster.errors import QuelError
from quel_dagster.services.endpoints import without_own_parts
from quel_dagster.services.home import home_of
from quel_dagster.services.plan import Embedded
from quel_dagster.services.ports import LOOPBACK
from quel_dagster.services.stack import PLATFORM, Stack
from quel_dagster.services.supervisor import Echo
from quel_dagster.settings import Settings

DEFAULT_PORT = 3000


def run_up(
    settings: Settings,
    *,
    embedded: Embedded,
    port: int = DEFAULT_PORT,
    address: str = LOOPBACK,
    workers: bool = True,
    echo: Echo = print,
    **more: Any,
) -> int:
    """Run the services in the foreground until SIGINT or SIGTERM; behind `quel up`.

    A service that ends by itself is restarted. A second signal stops without waiting.

    Args:
        embedded: servers for systems without a URL.
        workers: False: only other machines run workers.
        more: passed on to `Stack`.

    Returns:
        0 after a signal, 1 when something could not be started (`echo` received the reason).
    """
    settings = without_own_parts(settings)
    if workers:
        _warn_of_older_names(settings, echo)
    only = None if workers else PLATFORM
    stack = Stack(settings, embedded=embedded, port=port, address=address, echo=echo, restart=True, only=only, **more)

    def ready() -> str:
        url = stack.endpoints.webserver_url
        return f"Everything is ready: jobs and state at {url}/quel, Dagster at {url}"

    return _run(stack, settings, ready, echo)


def run_worker(settings: Settings, *, echo: Echo = print) -> int:
    """Run only a worker in the foreground, for a `quel up` on another machine; behind `quel worker`.

    Returns:
        As `run_up`.
    """
    _warn_of_older_names(settings, echo)
    stack = Stack(settings, echo=echo, restart=True, only=("worker",))
    return _run(stack, settings, lambda: f"Taking runs, {settings.runs_here} at a time", echo)


def _warn_of_older_names(settings: Settings, echo: Echo) -> None:
    if settings.workers is not None:
        echo(
            f"QUEL_WORKERS is the older name: {settings.runs_here} runs at a time on this machine. "
            "Unset it for the default, or set QUEL_WORKER_PROCESSES and QUEL_RUNS_PER_PROCESS."
        )


def _run(stack: Stack, settings: Settings, ready: Callable[[], str], echo: Echo) -> int:
    with _Signals(stack.hurry, echo) as signals:
        try:
            with stack:
                echo(f"{ready()}  (Ctrl-C stops it)")
                signals.wait(stack)
                echo("Stopping; runs in flight finish their calls (Ctrl-C again: at once)")
        except _Interrupted:
            return 0
        except QuelError as error:
            echo(str(error))
            return 1
    echo(f"Stopped; the data stay in {home_of(settings)}")
    return 0


class _Interrupted(Exception):  # noqa: N818 - not an error
    """A signal arrived while the services were starting."""


class _Signals:
    """Handles SIGINT and SIGTERM: the first one stops, a second one stops at once."""

    def __init__(self, hurry: Callable[[], None], echo: Echo) -> None:
        self._hurry = hurry
        self._echo = echo
        self._asked = 0
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked > 1:
            self._hurry()
        elif not self._waiting:
            raise _Interrupted

    def wait(self, stack: Stack) -> None:
        """Return when a signal arrived. Raise when a service has ended permanently."""
        self._waiting = True
        while not self._asked:
            if stack.wait(0.2):
                stack.check()
