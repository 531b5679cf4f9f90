"""S1: ten thousand ids wait (`backlog.py` measures it)."""

from __future__ import annotations

from bench import backlog
from bench.report import Figure


def s1(*, quick: bool) -> Figure:
    """A backlog that is gone within minutes."""
    return _row(100 if quick else 2_000)


def s1_full(*, quick: bool) -> Figure:
    """The whole backlog: half an hour on two cores."""
    return _row(500 if quick else 10_000)


def _row(jobs: int) -> Figure:
    found = backlog.measure(jobs)
    return Figure(
        "S1",
        f"{jobs:,} ids waiting, one-picture jobs: jobs a second; last tenth against the first, less what the machine "
        "slowed; work of a sensor tick; growth of every process",
        "≥ 10; ≥ 0.95 ×; ≤ 1 s; < 50 MB",
        f"{found.rate:.1f}; {found.ratio:.2f} × ({found.first:.1f} jobs/s at first); "
        f"{found.slowest_tick:.2f} s at most; {found.largest_growth:.0f} MB at most",
        found.rate >= 10 and found.ratio >= 0.95 and found.slowest_tick <= 1.0 and found.largest_growth < 50,
        f"`python -m bench --full S1` waits for 10,000.\n\n```\n{backlog.show(found)}\n```",
    )
