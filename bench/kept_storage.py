"""D3: what a process keeps of Dagster's storage saves: answers about its schema, and connections.

`platform/storage_schema.py`, `platform/storage_connections.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import psutil
from dagster import DagsterInstance, DagsterRun, RunsFilter

from bench.installation import Installation, cpu_of_family, installation
from bench.report import Figure, grid, median
from quel_dagster.platform import storage

#: what the daemon reads again and again
READS = ("run record", "states of sensors")
#: what is left out of the product's storage, by way to read
WAYS: dict[str, tuple[str, ...]] = {
    "as shipped": (),
    "schema asked each time": ("remember_schema",),
    "a connection each time": ("keep_connections",),
}
SHIPPED, *OTHERS = WAYS


def d3(*, quick: bool) -> Figure:
    """CPU of a read as shipped, and without what is kept, in turn."""
    rounds, reads = (2, 50) if quick else (6, 300)
    costs: dict[tuple[str, str], list[float]] = {(name, way): [] for name in READS for way in WAYS}
    with installation(only=("postgres",)) as at:
        with at.dagster() as instance:
            instance.add_run(DagsterRun(job_name="image_job"))
        for _ in range(rounds):
            for way, left_out in WAYS.items():
                with _instance(at, left_out) as instance:
                    for name in READS:
                        costs[name, way].append(_cost(at, instance, name, reads))
    lowest = {way: min(median(costs[name, way]) / median(costs[name, SHIPPED]) for name in READS) for way in OTHERS}
    return Figure(
        "D3",
        "CPU of a read of Dagster's storage without its kept schema, without its kept connections; as shipped: 1",
        "> 1.1 ×",
        ", ".join(f"{way} {ratio:.1f} ×" for way, ratio in lowest.items()),
        min(lowest.values()) > 1.1,
        f"CPU of the reading process and PostgreSQL, medians of {rounds} times {reads} reads, in turn; the table has "
        "the lower ratio of two reads that the daemon makes again and again. Milliseconds a read:\n\n"
        + grid(
            ("", *WAYS),
            [(name, *(f"{1000 * median(costs[name, way]):.2f}" for way in WAYS)) for name in READS],
        ),
    )


@contextmanager
def _instance(at: Installation, left_out: Sequence[str]) -> Iterator[DagsterInstance]:
    """Dagster's instance, without these parts of the product's storage."""
    with ExitStack() as patched:
        for name in left_out:
            patched.enter_context(mock.patch.object(storage, name, lambda found: found))
        with at.dagster() as instance:
            yield instance


def _cost(at: Installation, instance: DagsterInstance, name: str, reads: int) -> float:
    """CPU seconds of one read."""
    run_id = instance.get_run_records(limit=1)[0].dagster_run.run_id

    def read() -> None:
        if name == "run record":
            instance.get_run_records(RunsFilter(run_ids=[run_id]))
        else:
            instance.all_instigator_state()

    def cpu() -> float:
        return time.process_time() + cpu_of_family(psutil.Process(at.stack.supervisor.pids()["postgres"]))

    for _ in range(10):
        read()
    before = cpu()
    for _ in range(reads):
        read()
    return (cpu() - before) / reads
