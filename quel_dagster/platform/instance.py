"""Dagster's instance as this installation uses it: many runs in one process (docs/decisions/executor.md)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from dagster import DagsterInstance
from typing_extensions import override

from quel_dagster.platform.internals import InstanceRef


class QuelInstance(DagsterInstance):
    """Named by dagster.yaml, so every process of Dagster opens this class."""

    @classmethod
    def config_schema(cls) -> dict[str, Any]:
        """Return no keys of dagster.yaml beyond Dagster's own; Dagster asks a class of instance for it."""
        return {}

    @classmethod
    def config_defaults(cls, base_dir: str) -> Any:
        """Return Dagster's own defaults for what dagster.yaml leaves out."""
        return InstanceRef.config_defaults(base_dir)

    @override
    def get_yaml_python_handlers(self) -> Sequence[logging.Handler]:
        """Return none, and leave logging's configuration alone.

        Dagster calls `logging.config.dictConfig` here at every start of a run. That takes logging's global lock and
        then every handler's lock; another run inside a handler waits for the global one, and both wait for ever.
        dagster.yaml configures no handlers.
        """
        return []
