"""Threads that decode and encode pictures: one per core, shared by the whole process.

Not here: the limit on memory, which `jobs/pixel_budget.py` enforces inside these threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_picture_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run `work` in a picture thread and return its result. Cancelling the caller also drops work that has not begun.

    Pictures have their own threads so that waiting for a core does not block other work that runs in threads.
    """
    context = contextvars.copy_context()
    call = partial(context.run, work, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_threads(), call)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="picture")
