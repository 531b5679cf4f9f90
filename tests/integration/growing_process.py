"""Imported first by a worker under test: its first process holds some memory more than it needs.

`GROW_ONCE` names a file with the number of megabytes; the process that grows deletes it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

_held: list[bytearray] = []


@worker_ready.connect
def grow(**_: Any) -> None:
    path = Path(os.environ["GROW_ONCE"])
    if path.exists():
        megabytes = int(path.read_text())
        path.unlink()
        _held.append(bytearray(b"x") * (megabytes * 2**20))
