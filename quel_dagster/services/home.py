"""The folder of an installation: its lock, and files that only its owner can read.

The kernel releases the lock with the process that holds it, so a held lock means that a supervisor runs.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quel_dagster.errors import HomeBusyError
from quel_dagster.settings import Settings


def home_of(settings: Settings) -> Path:
    """Return the installation's folder as an absolute path, independent of the working directory."""
    return settings.home.expanduser().absolute()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _lock_path(home: Path) -> Path:
    return home / "up.lock"


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the home: one supervisor at a time.

    Raises:
        HomeBusyError: another process holds it.
    """
    # root's home can be traversed (not listed): PostgreSQL, as another user, keeps its data in it. The rest is private.
    home.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
    descriptor = os.open(_lock_path(home), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for pause in (0.05, 0.1, 0.2, None):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if pause is None:
                    raise HomeBusyError(
                        f"Another `quel up` (process {holder(home)}) is running on {home}; "
                        "stop it, or set another QUEL_HOME for this one."
                    ) from None
                time.sleep(pause)  # a `quel env` may be testing the lock right now
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(home: Path) -> bool:
    """Return whether a supervisor holds the home now."""
    try:
        descriptor = os.open(_lock_path(home), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(home: Path) -> int | None:
    with suppress(FileNotFoundError, ValueError):
        return int(_lock_path(home).read_text())
    return None
