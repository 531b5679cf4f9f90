"""Execute one run in this process with the job that this process has loaded itself, regardless of the run's row.

A row of Dagster's `runs` names a code pointer, which anyone with write access to PostgreSQL could set to any function.
It is ignored: the row only selects one of this program's jobs, with config and selection.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from dagster import DagsterInstance, JobDefinition, RepositoryDefinition

from quel_dagster.platform.internals import (
    MAX_RETRIES_TAG,
    EngineEventData,
    InMemoryJob,
    ResolvedRunConfig,
    execute_run_iterator,
    resources_builder,
    serializable_error_info_from_exc_info,
)

#: Maximum of job subsets that a process keeps; a selection by hand is rare.
KEPT_SUBSETS = 32

_log = logging.getLogger(__name__)


def resolve_config_once() -> None:
    """From now on, resolve the config of a run once; Dagster does it for the plan, and for each of two contexts."""
    resolve = ResolvedRunConfig.build
    kept = threading.local()

    def build(job_def: JobDefinition, run_config: Mapping[str, object] | None = None) -> ResolvedRunConfig:
        last = getattr(kept, "last", None)
        if last is None or last[0] is not job_def or last[1] != run_config:
            last = kept.last = job_def, run_config, resolve(job_def, run_config)
        resolved: ResolvedRunConfig = last[2]
        return resolved

    ResolvedRunConfig.build = staticmethod(build)  # type: ignore[method-assign]


def keep_resource_types() -> None:
    """From now on, make the tuple type for a set of resources once; Dagster makes three new types for each step."""

    make = cache(resources_builder.namedtuple)
    resources_builder.namedtuple = lambda name, fields: make(name, tuple(fields))


class LoadedJob(InMemoryJob):
    """One of this program's jobs. Its subsets are built once: every run of an asset job requests the same one."""

    def __init__(self, definition: JobDefinition, repository: RepositoryDefinition) -> None:
        super().__init__(definition)
        self._repository = repository
        self._subsets: dict[Any, InMemoryJob] = {}

    def get_repository_definition(self) -> RepositoryDefinition:
        return self._repository

    def get_subset(
        self, *, op_selection: Any = None, asset_selection: Any = None, asset_check_selection: Any = None
    ) -> InMemoryJob:
        key = tuple(
            None if each is None else frozenset(each) for each in (op_selection, asset_selection, asset_check_selection)
        )
        if key not in self._subsets:
            if len(self._subsets) >= KEPT_SUBSETS:
                self._subsets.clear()
            subset = super().get_subset(
                op_selection=op_selection,
                asset_selection=asset_selection,
                asset_check_selection=asset_check_selection,
            )
            self._subsets[key] = LoadedJob(subset.get_definition(), self._repository)
        return self._subsets[key]


class RunExecution:
    """Executes runs of the jobs of one module of definitions."""

    def __init__(self, definitions: str) -> None:
        repository = import_module(definitions).defs.get_repository_def()
        self._jobs: Mapping[str, LoadedJob] = {
            job.name: LoadedJob(job, repository) for job in repository.get_all_jobs()
        }

    def execute(self, instance: DagsterInstance, run_id: str) -> None:
        """Execute a launched run; errors are reported on its page."""
        run = instance.get_run_by_id(run_id)
        if run is None:
            _log.warning("Run %s is not in Dagster's storage; it was deleted after its launch", run_id)
            return
        job = self._jobs.get(run.job_name)
        if job is None:
            instance.add_run_tags(run_id, {MAX_RETRIES_TAG: "0"})
            known = ", ".join(sorted(self._jobs))
            instance.report_run_failed(run, f"{run.job_name!r:.100} is not one of this worker's jobs ({known}).")
            return
        try:
            for _event in execute_run_iterator(job, run, instance):
                pass
        except BaseException:  # noqa: BLE001  one thread of many: the other runs continue
            self._fail(instance, run_id)

    def _fail(self, instance: DagsterInstance, run_id: str) -> None:
        error = serializable_error_info_from_exc_info(sys.exc_info())
        _log.exception("Run %s ended early", run_id)
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            instance.report_engine_event("The run ended early.", run, EngineEventData.engine_error(error))
            instance.report_run_failed(run)
