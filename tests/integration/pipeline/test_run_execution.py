"""A worker executes the job that it has loaded itself, not the one that a run's row names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, JobDefinition, job, op
from dagster._cli.api import recon_job_from_origin
from dagster._core.code_pointer import CustomPointer, ModuleCodePointer
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from quel_dagster.platform.internals import ResolvedRunConfig, resources_builder
from quel_dagster.platform.run_execution import RunExecution, keep_resource_types, resolve_config_once

TOYS = """
import dagster

@dagster.op
def note(): ...

@dagster.job
def toy():
    note()

defs = dagster.Definitions(jobs=[toy], executor=dagster.in_process_executor)
"""


def origin(command: str, job_name: str) -> JobPythonOrigin:
    pointer = CustomPointer(ModuleCodePointer("os", "system", None), [command], [])
    return JobPythonOrigin(job_name, RepositoryPythonOrigin("python", pointer))


@pytest.fixture
def execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunExecution:
    (tmp_path / "toy_jobs.py").write_text(TOYS)
    monkeypatch.syspath_prepend(tmp_path)
    return RunExecution("toy_jobs")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Exists once the pointer of `planted` has been followed."""
    return tmp_path / "trace"


def planted(instance: DagsterInstance, trace: Path, job_name: str) -> DagsterRun:
    """A launched run with a function of another module in its row."""
    pointer = origin(f"touch {trace}", job_name)
    return instance.run_storage.add_run(DagsterRun(job_name, status=DagsterRunStatus.STARTING, job_code_origin=pointer))


def test_a_code_pointer_in_the_row_is_not_followed(
    instance: DagsterInstance, execution: RunExecution, trace: Path
) -> None:
    run = planted(instance, trace, "toy")
    execution.execute(instance, run.run_id)
    assert not trace.exists()
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is DagsterRunStatus.SUCCESS, "the worker's own job of that name was executed"


def test_dagsters_own_way_follows_the_pointer(instance: DagsterInstance, trace: Path) -> None:
    """The control: this row is an attack."""
    run = planted(instance, trace, "toy")
    assert run.job_code_origin is not None
    with pytest.raises(DagsterInvariantViolationError):
        recon_job_from_origin(run.job_code_origin).get_definition()
    assert trace.exists()


def test_a_job_that_the_worker_has_not_is_refused_by_name_and_not_retried(
    instance: DagsterInstance, execution: RunExecution, trace: Path
) -> None:
    run = planted(instance, trace, "foreign")
    execution.execute(instance, run.run_id)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is DagsterRunStatus.FAILURE
    assert ended.tags["dagster/max_retries"] == "0"
    messages = [entry.dagster_event.message for entry in instance.all_logs(run.run_id) if entry.dagster_event]
    assert "'foreign' is not one of this worker's jobs (toy)." in messages
    assert not trace.exists()


def test_config_of_a_run_is_resolved_once_and_never_used_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    @op(config_schema=str)
    def say() -> None: ...

    @job
    def speak() -> None:
        say()

    resolved: list[str] = []
    resolve = ResolvedRunConfig.build

    def counted(job_def: JobDefinition, run_config: dict[str, Any]) -> ResolvedRunConfig:
        resolved.append(run_config["ops"]["say"]["config"])
        return resolve(job_def, run_config)

    monkeypatch.setattr(ResolvedRunConfig, "build", staticmethod(counted))
    resolve_config_once()
    for word in ("a", "a", "b", "b", "a"):
        config = ResolvedRunConfig.build(speak, {"ops": {"say": {"config": word}}})
        assert config.ops["say"].config == word
    assert resolved == ["a", "b", "a"]
    ResolvedRunConfig.build(speak.with_top_level_resources({}), {"ops": {"say": {"config": "a"}}})
    assert resolved == ["a", "b", "a", "a"], "of another job"


def test_the_type_of_a_set_of_resources_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make = resources_builder.namedtuple

    def counted(name: str, fields: Any) -> type:
        made.append((name, *fields))
        kind: type = make(name, fields)
        return kind

    monkeypatch.setattr(resources_builder, "namedtuple", counted)
    keep_resource_types()
    builder = resources_builder.ScopedResourcesBuilder({"queue": "a queue", "engine": "an engine"}, False)
    for _ in range(3):
        both = builder.build({"queue", "engine"})
        assert (both.queue, both.engine) == ("a queue", "an engine")
        assert both.original_resource_dict == {"queue": "a queue", "engine": "an engine"}
    other = resources_builder.ScopedResourcesBuilder({"queue": "another"}, False).build({"queue"})
    assert other.queue == "another"
    assert not hasattr(other, "engine")
    assert len(made) == 2
