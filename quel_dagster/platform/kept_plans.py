"""Ask the code server once for the execution plan of a job, not for every run.

The daemon creates a run of the same job for each id, with the same config but for the id. A plan has no value of the
config in it, only which parts of the config there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagster import DagsterInstance

from quel_dagster.platform.internals import GrpcServerCodeLocation

_KEPT = "_quel_plans"


def keep_plans() -> None:
    """From now on this process keeps the plan of each job as long as its code location, a new one for other code."""
    if not hasattr(GrpcServerCodeLocation.get_execution_plan, _KEPT):
        kept = _keeping(GrpcServerCodeLocation.get_execution_plan)
        setattr(kept, _KEPT, True)
        GrpcServerCodeLocation.get_execution_plan = kept  # type: ignore[method-assign]


def _keeping(ask: Callable[..., Any]) -> Callable[..., Any]:
    def get_execution_plan(  # noqa: PLR0917  the parameters are Dagster's
        self: GrpcServerCodeLocation,
        remote_job: Any,
        run_config: Mapping[str, Any],
        step_keys_to_execute: Sequence[str] | None,
        known_state: Any,
        instance: DagsterInstance | None = None,
    ) -> Any:
        arguments = (remote_job, run_config, step_keys_to_execute, known_state, instance)
        part = (remote_job.op_selection, remote_job.asset_selection, remote_job.asset_check_selection)
        if step_keys_to_execute is not None or known_state is not None or any(each is not None for each in part):
            return ask(self, *arguments)
        plans: dict[tuple[str, str], Any] = self.__dict__.setdefault(_KEPT, {})
        key = (remote_job.identifying_job_snapshot_id, json.dumps(shape(run_config), sort_keys=True))
        if key not in plans:
            plans[key] = ask(self, *arguments)
        return plans[key]

    return get_execution_plan


def shape(config: object) -> object:
    """Return a config with the type of each value in its place."""
    if isinstance(config, Mapping):
        return {str(name): shape(value) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [shape(value) for value in config]
    return type(config).__name__
