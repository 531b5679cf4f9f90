"""Whether this worker is stopping: told by the Celery parent to the children that it forked.

One byte of memory that they share: a child is busy with a run, and its signals are Dagster's.
"""

from __future__ import annotations

import mmap

# made when the parent imports its application, so that every child inherits it
_shared = mmap.mmap(-1, 1)


def ask() -> None:
    """Tell every child to drain."""
    _shared[0] = 1


def asked() -> bool:
    """Is this worker stopping?"""
    return _shared[0] == 1
