"""D3: what the cached answers about the schema of Dagster's storage save (`platform/storage_schema.py`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import psutil
from dagster import DagsterInstance, DagsterRun, RunsFilter

from bench.installation import Installation, cpu_of_family, installation
from bench.report import Figure, grid, median
from quel_dagster.platform import storage

#: what the daemon reads again and again
READS = ("run record", "states of sensors")


def d3(*, quick: bool) -> Figure:
    """CPU of a read with the cache, and without, in turn."""
    rounds, reads = (2, 50) if quick else (6, 300)
    costs: dict[tuple[str, bool], list[float]] = {(name, cached): [] for name in READS for cached in (True, False)}
    with installation(only=("postgres",)) as at:
        with at.dagster() as instance:
            instance.add_run(DagsterRun(job_name="image_job"))
        for _ in range(rounds):
            for cached in (True, False):
                with _instance(at, cached=cached) as instance:
                    for name in READS:
                        costs[name, cached].append(_cost(at, instance, name, reads))
    ratios = {name: median(costs[name, False]) / median(costs[name, True]) for name in READS}
    return Figure(
        "D3",
        "CPU of a read of Dagster's storage without the cached answers about its schema, against with them",
        "> 1.1 ×",
        ", ".join(f"{name} {ratio:.2f} ×" for name, ratio in ratios.items()),
        all(ratio > 1.1 for ratio in ratios.values()),
        f"CPU of the reading process and PostgreSQL, medians of {rounds} times {reads} reads, in turn. Milliseconds a "
        "read:\n\n"
        + grid(
            ("", "cached", "asked each time"),
            [(name, *(f"{1000 * median(costs[name, cached]):.2f}" for cached in (True, False))) for name in READS],
        ),
    )


@contextmanager
def _instance(at: Installation, *, cached: bool) -> Iterator[DagsterInstance]:
    """Dagster's instance, with the cache of the product or with none."""
    if cached:
        with at.dagster() as instance:
            yield instance
    else:
        with mock.patch.object(storage, "remember_schema", lambda found: found), at.dagster() as instance:
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
