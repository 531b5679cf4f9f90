"""The same definitions as stock Dagster runs them: every step in a process of its own.

    dagster api grpc -m bench.stock_definitions

Forked from a server that has everything imported, the quickest way that the multiprocess executor has. A session of the
studio lives in one process, so that each step gives the job's lease back for the next one to claim.
"""

from dagster import Definitions, InitResourceContext, multiprocess_executor

from quel_dagster.definitions import STEPS_AHEAD, build_defs
from quel_dagster.pipeline.assets import image_job, results, source_tables
from quel_dagster.pipeline.resources import StudioResource
from quel_dagster.pipeline.sensors import jobs_queue_sensor
from quel_dagster.settings import Settings


class StepStudio(StudioResource):
    """A studio for one step."""

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        process = self.process
        if context.run is not None and (session := process.studio.current(context.run.run_id)) is not None:
            process.post(lambda _studio: session.drain())
            process.run(lambda: process.studio.close_session(session.run_id))
        process.close()


def stock() -> Definitions:
    """With nothing beside the queue's own sensor, so that no other one is in its way."""
    everything = build_defs(
        resource_overrides={"studio": StepStudio()},
        executor=multiprocess_executor.configured(
            {
                "max_concurrent": Settings.read().max_concurrent_images + STEPS_AHEAD,
                "start_method": {"forkserver": {"preload_modules": ["bench.stock_definitions"]}},
            },
            "stock_executor",
        ),
    )
    return Definitions(
        assets=[*source_tables, results],
        jobs=[image_job],
        sensors=[jobs_queue_sensor],
        resources=everything.resources,
        executor=everything.executor,
    )


defs = stock()
