"""Allow one platform at a time per installation: the first takes a lock, another one stands by."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from quel_dagster.adapters.database import platform_place
from quel_dagster.adapters.database.platform_place import RENEW_SECONDS
from quel_dagster.adapters.database.reasons import reason_of
from quel_dagster.errors import ServiceError, SettingsError
from quel_dagster.services.supervisor import Echo

_STAND_BY_SECONDS = 1.0
_log = logging.getLogger(__name__)


class PlatformHolder:
    """Holds the lock of the platform while a stack runs.

    Args:
        url: of the web app's database.
        home: of this installation; together with the host it identifies the platform.
        storage_id: of the Dagster storage in use.
        lost: called once when another platform has taken the lock.
    """

    def __init__(self, url: str, *, home: Path, storage_id: str, lost: Callable[[Exception], None]) -> None:
        self._url = url
        self._place = f"{socket.gethostname()}:{home}"
        self._holder = f"{self._place}:{os.getpid()}:{time.time_ns()}"
        self._storage_id = storage_id
        self._lost = lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="platform-holder", daemon=True)

    def take(self, echo: Echo) -> None:
        """Return once the lock is taken; stand by while another platform holds it, also during an outage.

        Raises:
            SettingsError: PostgreSQL refuses, for a reason that does not pass by itself.
        """
        reported = None
        while (obstacle := self._obstacle()) is not None:
            if obstacle != reported:
                echo(obstacle)
                reported = obstacle
            time.sleep(_STAND_BY_SECONDS)
        self._thread.start()

    def leave(self) -> None:
        """Release the lock."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            platform_place.leave(self._url, holder=self._holder)
        except psycopg.Error as error:  # the lock expires by itself
            _log.warning("The platform lock was not released (%s)", type(error).__name__)

    def _obstacle(self) -> str | None:
        """Return why the lock cannot be taken now; None once it is taken."""
        try:
            other = self._hold()
        except psycopg.Error as error:
            reason = reason_of(error)
            if not reason.passes:
                raise SettingsError(f"DATABASE_URL: {reason}.") from None
            return f"Waiting for PostgreSQL: {reason}."
        if other is None:
            return None
        return f"Standing by: the platform runs at {other}; stop it there, or run `quel worker` here"

    def _hold(self) -> str | None:
        return platform_place.hold(self._url, holder=self._holder, place=self._place, storage_id=self._storage_id)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                other = self._hold()
            except psycopg.Error as error:  # then no other platform can take it either
                _log.warning("The platform lock was not renewed (%s)", type(error).__name__)
                continue
            if other is not None:
                self._lost(ServiceError(f"Another platform of this installation runs at {other}; this one stops."))
                return


def check_storage(database_url: str, dagster_url: str) -> None:
    """Refuse a worker with another Dagster storage than the platform's.

    Raises:
        SettingsError: the platform uses another storage.
    """
    platform = platform_place.look(database_url)
    if platform is not None and platform_place.storage_identity(dagster_url, create=False) != platform.storage_id:
        raise SettingsError(
            f"DAGSTER_DATABASE_URL: this worker's Dagster storage is not that of the platform at {platform.place}, so "
            "it would find none of its runs. Set it to the same value as there."
        )
