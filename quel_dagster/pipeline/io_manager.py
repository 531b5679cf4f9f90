"""Values between ops as JSON in our own schema, so that a re-execution on another host finds them.

No pickle: whoever can write to the store cannot make a worker run code.
"""

from __future__ import annotations

from typing import Any

from dagster import ConfigurableIOManager, InputContext, OutputContext
from pydantic import PrivateAttr, TypeAdapter

from quel_dagster.pipeline.resources import StudioResource


class JsonIOManager(ConfigurableIOManager):
    """Writes every value once; reads what this process wrote from memory."""

    studio: StudioResource
    _written: dict[tuple[str, str, str, str], Any] = PrivateAttr(default_factory=dict)

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        if obj is None:  # an asset whose value is in the tables
            return
        place = _place(context)
        value = TypeAdapter(type(obj)).dump_python(obj, mode="json")
        self._written[place] = obj
        run_id, step_key, output, mapping_key = place
        process = self.studio.process
        process.run(
            lambda: process.studio.parts.database.write_op_output(
                run_id=run_id, step_key=step_key, output=output, mapping_key=mapping_key, value=value
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
        value = process.run(
            lambda: process.studio.parts.database.read_op_output(
                run_id=run_id, step_key=step_key, output=output, mapping_key=mapping_key
            )
        )
        return TypeAdapter(upstream.dagster_type.typing_type).validate_python(value)


def _place(context: OutputContext) -> tuple[str, str, str, str]:
    """Names one output of one step of one run."""
    return (context.run_id, context.step_key, context.name, context.mapping_key or "")
