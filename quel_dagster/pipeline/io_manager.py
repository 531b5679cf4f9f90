"""Store values between ops as JSON in PostgreSQL, so that a re-execution on another host finds them.

The tasks of the generate steps are not stored: the plan, an output of the same step, holds their units.

No pickle: write access to the database must not allow running code in a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import InputContext, IOManager, OutputContext
from pydantic import TypeAdapter

from quel_dagster.adapters.database.records import OutputPlace
from quel_dagster.engine.outcomes import Planned, UnitTask
from quel_dagster.errors import QuelError
from quel_dagster.pipeline.resources import EngineResource
from quel_dagster.platform.event_writer import step_outputs


class JsonIOManager(IOManager):
    """Writes every value of a run once, with others and beside the work; serves values of this process from memory."""

    def __init__(self, engine: EngineResource) -> None:
        self._engine = engine
        self._written: dict[OutputPlace, Any] = {}

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        if obj is None:  # an asset; its value is in the web app's tables
            return
        place = _place(context)
        if isinstance(obj, UnitTask):  # its unit is part of the plan, an output of the same step
            self._written[place] = obj
            return
        value = TypeAdapter(type(obj)).dump_python(obj, mode="json")
        self._written[place] = obj
        step_outputs.add(place, value, self._store)

    def load_input(self, context: InputContext) -> Any:
        upstream = context.upstream_output
        if upstream is None:
            raise ValueError(f"Input {context.name!r} has no upstream op.")
        place = _place(upstream)
        if place in self._written:
            return self._written[place]
        kind = upstream.dagster_type.typing_type
        if kind is UnitTask:
            return self._task_of_plan(place)
        return TypeAdapter(kind).validate_python(self._stored(place))

    def _store(self, outputs: Mapping[OutputPlace, Any]) -> None:
        process = self._engine.process
        process.run(lambda: process.engine.dependencies.database.work.write_op_outputs(outputs))

    def _stored(self, place: OutputPlace) -> Any:
        process = self._engine.process
        return process.run(lambda: process.engine.dependencies.database.work.read_op_output(place))

    def _task_of_plan(self, place: OutputPlace) -> UnitTask:
        plan = Planned.model_validate(self._stored(OutputPlace(place.run_id, place.step_key, "plan")))
        unit = next((unit for unit in plan.units if unit.key == place.mapping_key), None)
        if unit is None:
            raise QuelError(f"Run {place.run_id} planned no unit {place.mapping_key}; run the whole job again.")
        return UnitTask(job_id=plan.job_id, unit=unit)


def _place(context: OutputContext) -> OutputPlace:
    return OutputPlace(context.run_id, context.step_key, context.name, context.mapping_key or "")
