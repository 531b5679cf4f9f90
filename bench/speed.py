"""The speed of the machine itself, which changes within an hour where machines are shared."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time

ADDITIONS = 8_000_000
LOOPS_PER_CORE = 4


def loop_seconds() -> float:
    """CPU seconds of a loop of ADDITIONS while every core runs one; the mean of several."""
    cores = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(cores) as processes:
        return statistics.mean(processes.map(_loop, range(LOOPS_PER_CORE * cores), chunksize=1))


def glimpse() -> float:
    """CPU seconds of a fiftieth of the loop, in this thread: short enough to be taken while something is measured."""
    return _loop(0, ADDITIONS // 50)


def _loop(_: int, additions: int = ADDITIONS) -> float:
    begun, total = time.thread_time(), 0
    for number in range(additions):
        total += number
    return time.thread_time() - begun
