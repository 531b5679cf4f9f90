"""The start order of queued runs: F2 and F5 of pipeline/fairness.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from dagster import DagsterRun
from hypothesis import given
from hypothesis import strategies as st

from quel_dagster.platform.run_queue import AGED, StartOrder

SMALL = {"dagster/priority": "1"}
BEGUN = {"dagster/priority": "2"}
AGAIN = {"dagster/retry_number": "1"}


@dataclass
class Queue:
    """Queued runs, and the iterations over them."""

    now: float = 1000.0
    waiting: list[DagsterRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = StartOrder(lambda: self.now)

    def add(self, name: str, tags: dict[str, str] | None = None) -> None:
        self.waiting.append(DagsterRun(name, run_id=name, tags=tags))

    def look(self, *, page: int = 100) -> list[str]:
        """Sort as Dagster does: the sorted runs and one more page, repeatedly."""
        batch: list[DagsterRun] = []
        for start in range(0, len(self.waiting), page):
            batch = self.order.sort([*batch, *self.waiting[start : start + page]])
        self.order.end_iteration()
        return [run.job_name for run in batch]


def test_what_was_begun_then_by_priority_then_as_they_came() -> None:
    queue = Queue()
    for name, tags in (
        ("large", {}),
        ("retry", AGAIN),
        ("lost start", {"quel/lost_starts": "1"}),
        ("small", SMALL),
        ("small again", SMALL | AGAIN),
        ("begun", BEGUN),
        ("an operator's", {"dagster/priority": "-3"}),
        ("another operator's", {"dagster/priority": "10"}),
        ("nonsense", {"dagster/priority": "soon"}),
        ("last", {}),
    ):
        queue.add(name, tags)
    assert queue.look() == [
        "another operator's",
        "retry",
        "lost start",
        "small again",
        "begun",
        "small",
        "large",
        "nonsense",
        "last",
        "an operator's",
    ]


def test_a_large_job_that_has_waited_stands_where_it_came() -> None:
    queue = Queue()
    queue.add("before", SMALL)
    queue.add("large")
    queue.add("after", SMALL)
    assert queue.look() == ["before", "after", "large"]
    queue.now += AGED
    queue.add("begun", BEGUN)
    assert queue.look() == ["begun", "before", "large", "after"]


def test_a_low_priority_that_was_asked_for_stays_low() -> None:
    queue = Queue()
    queue.add("low", {"dagster/priority": "0"})
    queue.look()
    queue.now += 10 * AGED
    queue.add("small", SMALL)
    assert queue.look() == ["small", "low"]


def test_iterations_without_a_free_slot_keep_the_age_of_runs() -> None:
    queue = Queue()
    queue.add("large")
    queue.look()
    queue.now += AGED
    queue.order.end_iteration()
    queue.add("small", SMALL)
    assert queue.look() == ["large", "small"]


def test_a_run_that_left_the_queue_is_forgotten() -> None:
    queue = Queue()
    for number in range(1000):
        queue.waiting.clear()
        queue.add(f"run {number}")
        queue.look()
    assert len(queue.order._known) == 1
    assert not queue.order._seen


@given(
    arrivals=st.lists(st.tuples(st.booleans(), st.integers(0, 90)), min_size=1, max_size=30),
    page=st.integers(1, 7),
)
def test_jobs_of_one_kind_start_in_the_order_in_which_they_came(arrivals: list[tuple[bool, int]], page: int) -> None:
    """F2, of small ones and of large ones, and F5, in any order of arrival."""
    queue, started, came = Queue(), [], []
    for number, (small, pause) in enumerate(arrivals):
        queue.add(f"{'small' if small else 'large'} {number}", SMALL if small else {})
        came.append(f"{'small' if small else 'large'} {number}")
        queue.now += pause
        if number % 3 == 0:
            first = queue.look(page=page)[0]
            started.append(first)
            queue.waiting = [run for run in queue.waiting if run.job_name != first]
    queue.now += AGED
    queue.look(page=page)
    queue.now += AGED
    rest = queue.look(page=page)
    assert rest == [name for name in came if name not in started], "all have waited, and there are no precedences left"
    for kind in ("small", "large"):
        assert [name for name in started if kind in name] == [n for n in came if n in started and kind in n]
