"""The same definitions as stock Dagster runs them: every step in a process of its own.

    dagster api grpc -m bench.stock_definitions

Forked from a server that has everything imported, the quickest way that the multiprocess executor has. A session of the
engine lives in one process, so that each step claims the job's lease, and gives it back for the next one. Steps side by
side have one lease together (`_share_leases` in stock.py).
"""

import os

from dagster import DagsterRun, Definitions, multiprocess_executor

from quel_dagster.definitions import build_defs
from quel_dagster.pipeline import sensors
from quel_dagster.pipeline.assets import image_job, results, source_tables
from quel_dagster.pipeline.resources import EngineResource

STEPS_AT_A_TIME = "BENCH_STEPS_AT_A_TIME"
#: Stock Dagster's daemon looks at a sensor every 5 s. One that waits for ids for as long as that is still at it when
#: the daemon comes by, and is skipped: half of the time no tick waits for ids.
WAIT_SECONDS = 4.0
#: What steps import where they first need it: the server that they are forked from has it.
LATE_IMPORTS = (
    "anyio.streams.memory",
    "dagster_postgres",
    "httpcore2",
    "psycopg",
    "psycopg2.extras",
)


class StepStudio(EngineResource):
    """An engine for one step."""

    def end_run(self, run: DagsterRun | None) -> None:
        process = self.process
        if run is not None and (session := process.engine.current(run.run_id)) is not None:
            process.post(lambda _engine: session.drain())
            process.run(lambda: process.engine.close_session(session.run_id))
        process.close()


def stock() -> Definitions:
    """With nothing beside the queue's own sensor, so that no other one is in its way."""
    sensors.WAIT_SECONDS = WAIT_SECONDS
    everything = build_defs(
        resource_overrides={"engine": StepStudio().definition()},
        executor=multiprocess_executor.configured(
            {
                "max_concurrent": int(os.environ[STEPS_AT_A_TIME]),
                "start_method": {"forkserver": {"preload_modules": ["bench.stock_definitions", *LATE_IMPORTS]}},
            },
            "stock_executor",
        ),
    )
    return Definitions(
        assets=[*source_tables, results],
        jobs=[image_job],
        sensors=[sensors.jobs_queue_sensor],
        resources=everything.resources,
        executor=everything.executor,
    )


defs = stock()
