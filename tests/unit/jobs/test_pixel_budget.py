"""The bound on decoded pixels, over threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from quel_dagster.jobs.pixel_budget import PixelBudget


def test_what_is_held_together_stays_within_the_budget() -> None:
    budget = PixelBudget(100)
    guard = threading.Lock()
    now, most = 0, 0

    def work(pixels: int) -> None:
        nonlocal now, most
        with budget.hold(pixels):
            with guard:
                now += pixels
                most = max(most, now)
            with guard:
                now -= pixels

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [30, 60, 10, 100, 45] * 200))
    assert most <= 100


def test_two_that_do_not_fit_together_take_turns_in_order_of_arrival() -> None:
    budget = PixelBudget(100)
    order: list[str] = []
    first_holds, first_may_go = threading.Event(), threading.Event()

    def hold(name: str, pixels: int) -> None:
        with budget.hold(pixels):
            order.append(name)
            if name == "first":
                first_holds.set()
                first_may_go.wait(30)

    threads = [threading.Thread(target=hold, args=("first", 60))]
    threads[0].start()
    assert first_holds.wait(30)
    threads.append(threading.Thread(target=hold, args=("large", 80)))
    threads[1].start()
    while len(budget._waiting) < 1:
        pass
    threads.append(threading.Thread(target=hold, args=("small", 10)))  # would fit, but came later
    threads[2].start()
    while len(budget._waiting) < 2:
        pass
    assert order == ["first"]
    first_may_go.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first", "large", "small"]


def test_a_picture_larger_than_the_budget_runs_alone() -> None:
    budget = PixelBudget(10)
    with budget.hold(1_000_000):
        pass
    with budget.hold(10):
        pass


def test_a_thread_that_holds_pixels_does_not_wait_for_itself() -> None:
    budget = PixelBudget(10)
    with budget.hold(10), budget.hold(10):
        pass
    with budget.hold(10):
        pass
