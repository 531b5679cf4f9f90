"""Dagster's run queue, with a limit of runs per member that comes from the environment.

Dagster reads `max_concurrent_runs` from a variable, but not the limits by tag: those would have to stand in
dagster.yaml as numbers, the same for every installation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dagster._core.run_coordinator import QueuedRunCoordinator

from quel_dagster.pipeline.tags import MEMBER_TAG
from quel_dagster.settings import Settings


class RunQueue(QueuedRunCoordinator[Any]):
    """At most QUEL_MAX_RUNS_PER_MEMBER runs of one member at a time; without it, no such limit."""

    def __init__(self, *, tag_concurrency_limits: Sequence[Mapping[str, Any]] | None = None, **config: Any) -> None:
        limits = list(tag_concurrency_limits or ())
        limit = Settings.read().max_runs_per_member
        if limit is not None:
            limits.append({"key": MEMBER_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": limit})
        super().__init__(tag_concurrency_limits=limits, **config)
