"""Values between ops as JSON in our own schema, so that a re-execution on another host finds them.

The tasks of the generate steps are not written one by one: the plan beside them holds their units.

No pickle: whoever can write to the store cannot make a worker run code.
"""

from __future__ import annotations

from typing import Any

from dagster import ConfigurableIOManager, InputContext, OutputContext
from pydantic import PrivateAttr, TypeAdapter

from quel_dagster.errors import QuelError
from quel_dagster.pipeline.event_writer import before_events
from quel_dagster.pipeline.resources import StudioResource
from quel_dagster.studio.outcomes import Planned, UnitTask


class JsonIOManager(ConfigurableIOManager):
    """Writes every value once, beside the work; reads what this process wrote from memory."""

    studio: StudioResource
    _written: dict[tuple[str, str, str, str], Any] = PrivateAttr(default_factory=dict)

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        if obj is None:  # an asset whose value is in the tables
            return
        place = _place(context)
        if isinstance(obj, UnitTask):  # its unit stands in the plan, an output of the same step
            self._written[place] = obj
            return
        value = TypeAdapter(type(obj)).dump_python(obj, mode="json")
        self._written[place] = obj
        run_id, step_key, output, mapping_key = place
        process = self.studio.process
        before_events(
            process.start(
                lambda: process.studio.parts.database.write_op_output(
                    run_id=run_id, step_key=step_key, output=output, mapping_key=mapping_key, value=value
                )
            )
        )

    def load_input(self, context: InputContext) -> Any:
        upstream = context.upstream_output
        if upstream is None:
            raise ValueError(f"Input {context.name!r} has no upstream op.")
        place = _place(upstream)
        if place in self._written:
            return self._written[place]
        run_id, step_key, output, mapping_key = place
        process = self.studio.process
        kind = upstream.dagster_type.typing_type
        if kind is UnitTask:
            return self._task_of_plan(run_id, step_key, mapping_key)
        value = process.run(
            lambda: process.studio.parts.database.read_op_output(
                run_id=run_id, step_key=step_key, output=output, mapping_key=mapping_key
            )
        )
        return TypeAdapter(kind).validate_python(value)

    def _task_of_plan(self, run_id: str, step_key: str, unit_key: str) -> UnitTask:
        process = self.studio.process
        value = process.run(
            lambda: process.studio.parts.database.read_op_output(
                run_id=run_id, step_key=step_key, output="plan", mapping_key=""
            )
        )
        plan = Planned.model_validate(value)
        unit = next((unit for unit in plan.units if unit.key == unit_key), None)
        if unit is None:
            raise QuelError(f"Run {run_id} planned no unit {unit_key}; run the whole job again.")
        return UnitTask(job_id=plan.job_id, unit=unit)


def _place(context: OutputContext) -> tuple[str, str, str, str]:
    """Names one output of one step of one run."""
    return (context.run_id, context.step_key, context.name, context.mapping_key or "")
