"""The private pieces of Dagster and its packages that we build on: an upgrade that moves one fails here, by name."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import quel_dagster
from quel_dagster.pipeline import webserver

ROOT = Path(quel_dagster.__file__).parent
PRIVATE = re.compile(r"^(dagster(_celery|_postgres|_shared|_async_executor|_webserver)?(\.|$))")

#: What our modules import from where, beyond `from dagster import …`.
IMPORTS = {
    "dagster._core.errors": {"DagsterError", "DagsterHomeNotSetError", "DagsterInvalidSubsetError"},
    "dagster._core.events": {"ASSET_CHECK_EVENTS", "ASSET_EVENTS", "RunFailureReason"},
    "dagster._core.events.log": {"EventLogEntry"},
    "dagster._core.execution.plan.resume_retry": {"ReexecutionStrategy"},
    "dagster._core.execution.retries": {"auto_reexecution_should_retry_run"},
    "dagster._core.launcher": {"CheckRunHealthResult", "WorkerStatus"},
    "dagster._core.run_coordinator": {"QueuedRunCoordinator", "SubmitRunContext"},
    "dagster._core.scheduler.instigation": {"InstigatorStatus", "InstigatorTick", "TickData"},
    "dagster._core.storage.base_storage": {"DagsterStorage"},
    "dagster._core.storage.dagster_run": {"ACTIVE_RUN_STATUSES", "DagsterRun", "NOT_FINISHED_STATUSES", "RunRecord"},
    "dagster._core.storage.event_log.schema": {"AssetCheckExecutionsTable", "SqlEventLogStorageTable"},
    "dagster._core.storage.event_log.sql_event_log": {"SqlEventLogStorage"},
    "dagster._core.storage.sqlite_storage": {"DagsterSqliteStorage"},
    "dagster._core.storage.tags": {
        "PRIORITY_TAG",
        "RETRY_NUMBER_TAG",
        "RETRY_ON_ASSET_OR_OP_FAILURE_TAG",
        "RETRY_STRATEGY_TAG",
        "RUN_FAILURE_REASON_TAG",
        "RUN_KEY_TAG",
        "WILL_RETRY_TAG",
    },
    "dagster._core.workspace.context": {"IWorkspaceProcessContext"},
    "dagster._daemon": {"controller", "sensor"},
    "dagster._daemon.auto_run_reexecution.auto_run_reexecution": {"filter_runs_to_should_retry", "retry_run"},
    "dagster._daemon.auto_run_reexecution.event_log_consumer": {"EventLogConsumerDaemon"},
    "dagster._daemon.cli": {"main"},
    "dagster._daemon.daemon": {"DaemonIterator", "MonitoringDaemon", "SpanMarker"},
    "dagster._daemon.run_coordinator.queued_run_coordinator_daemon": {"QueuedRunCoordinatorDaemon"},
    "dagster._daemon.types": {"DaemonHeartbeat"},
    "dagster._serdes": {"ConfigurableClassData", "deserialize_value", "serialize_value"},
    "dagster._utils.error": {"serializable_error_info_from_exc_info"},
    "dagster._utils.interrupts": {"check_captured_interrupt"},
    "dagster_async_executor": {"async_executor"},
    "dagster_celery.launcher": {"CeleryRunLauncher"},
    "dagster_celery.make_app": {"make_app"},
    "dagster_celery.tags": {"DAGSTER_CELERY_TASK_ID_TAG"},
    "dagster_celery.tasks": {"create_execute_job_task", "create_resume_job_task"},
    "dagster_postgres": {"DagsterPostgresStorage"},
    "dagster_postgres.event_log": {"PostgresEventLogStorage"},
    "dagster_postgres.run_storage": {"PostgresRunStorage"},
    "dagster_postgres.schedule_storage": {"PostgresScheduleStorage"},
    "dagster_postgres.utils": {"create_pg_connection", "DagsterPostgresException"},
    "dagster_webserver": {"app"},
    "dagster_webserver.cli": {"main"},
    "dagster_webserver.webserver": {"DagsterWebserver"},
}

#: The parameters that calls or overrides of ours go by; more may follow.
SIGNATURES = {
    "dagster_celery.launcher:CeleryRunLauncher.terminate": ["self", "run_id"],
    "dagster_celery.launcher:CeleryRunLauncher.check_run_worker_health": ["self", "run"],
    "dagster_celery.launcher:CeleryRunLauncher.get_run_worker_debug_info": [
        "self",
        "run",
        "include_container_logs",
    ],
    "dagster_celery.launcher:CeleryRunLauncher.from_config_value": ["inst_data", "config_value"],
    "dagster_celery.launcher:CeleryRunLauncher.__init__": [
        "self",
        "default_queue",
        "broker",
        "backend",
        "include",
        "config_source",
        "inst_data",
    ],
    "dagster_celery.make_app:make_app": ["app_args"],
    "dagster_celery.tasks:create_execute_job_task": ["celery", "task_kwargs"],
    "dagster_celery.tasks:create_resume_job_task": ["celery", "task_kwargs"],
    "dagster_postgres:DagsterPostgresStorage.__init__": [
        "self",
        "postgres_url",
        "should_autocreate_tables",
        "inst_data",
    ],
    "dagster._core.storage.sqlite_storage:DagsterSqliteStorage.__init__": ["self", "base_dir", "inst_data"],
    "dagster._core.run_coordinator:QueuedRunCoordinator.submit_run": ["self", "context"],
    "dagster._daemon.run_coordinator.queued_run_coordinator_daemon:QueuedRunCoordinatorDaemon.core_loop": [
        "self",
        "workspace_process_context",
        "shutdown_event",
    ],
    "dagster._daemon.auto_run_reexecution.event_log_consumer:EventLogConsumerDaemon.run_iteration": [
        "self",
        "workspace_process_context",
    ],
    "dagster._daemon.auto_run_reexecution.auto_run_reexecution:retry_run": ["failed_run", "workspace_context"],
    "dagster._daemon.auto_run_reexecution.auto_run_reexecution:filter_runs_to_should_retry": ["runs", "instance"],
    "dagster._daemon.daemon:MonitoringDaemon.run_iteration": ["self", "workspace_process_context"],
    "dagster._utils.interrupts:check_captured_interrupt": [],
    "dagster_webserver.webserver:DagsterWebserver.index_html_endpoint": ["self", "request"],
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports_of(path: Path) -> set[tuple[str, str]]:
    """(module, name) of every import from Dagster that is not of its public front."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and PRIVATE.match(node.module) and node.module != "dagster":
            found |= {(node.module, alias.name) for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if PRIVATE.match(alias.name) and alias.name != "dagster"}
    return found


def resolve(place: str) -> Any:
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def test_this_list_is_whole() -> None:
    used = set().union(*(imports_of(path) for path in modules()))
    listed = {(module, name) for module, names in IMPORTS.items() for name in names}
    assert used - listed == set(), "a module leans on a private piece that is not listed here"


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_a_module_still_has_its_names(module: str) -> None:
    there = importlib.import_module(module)
    assert {name for name in IMPORTS[module] if not hasattr(there, name)} == set()


@pytest.mark.parametrize("place", sorted(SIGNATURES))
def test_a_signature_is_as_it_was(place: str) -> None:
    function: Callable[..., Any] = resolve(place)
    expected = SIGNATURES[place]
    assert list(inspect.signature(function).parameters)[: len(expected)] == expected


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("dagster", "1.13.27"),
        ("dagster-celery", "0.29.27"),
        ("dagster-postgres", "0.29.27"),
        ("dagster-async-executor", "0.0.4"),
    ],
)
def test_the_versions_that_this_was_found_with(package: str, version: str) -> None:
    assert importlib.metadata.version(package) == version


def test_the_sensor_loop_reads_its_constant_every_time() -> None:
    sensor = importlib.import_module("dagster._daemon.sensor")
    assert isinstance(sensor.MIN_INTERVAL_LOOP_TIME, int | float)
    assert "MIN_INTERVAL_LOOP_TIME" in inspect.getsource(sensor.execute_sensor_iteration_loop)


def test_the_controller_makes_the_run_queues_daemon_by_its_name() -> None:
    controller = importlib.import_module("dagster._daemon.controller")
    daemon = resolve("dagster._daemon.run_coordinator.queued_run_coordinator_daemon:QueuedRunCoordinatorDaemon")
    assert issubclass(controller.QueuedRunCoordinatorDaemon, daemon)
    assert "QueuedRunCoordinatorDaemon(" in inspect.getsource(controller.create_daemon_of_type)


def test_the_web_server_is_made_by_its_name_and_its_page_takes_our_script() -> None:
    app = importlib.import_module("dagster_webserver.app")
    assert "return DagsterWebserver(" in inspect.getsource(app.create_app_from_workspace_process_context)
    page = (Path(app.__file__).parent / "webapp/build/index.html").read_text()
    with_script = webserver.with_hidden_tags(page)
    assert with_script.index("unpinned-tags") < with_script.index(" src=")


def test_the_launcher_keeps_its_celery_application_and_its_instance() -> None:
    launcher = resolve("dagster_celery.launcher:CeleryRunLauncher")
    assert "celery" in launcher.__annotations__
    source = inspect.getsource(launcher)
    assert "self._instance" in source
    assert "DAGSTER_CELERY_TASK_ID_TAG" in source
    assert launcher.supports_check_run_worker_health.fget(None) is True


def test_the_tags_by_which_runs_are_found() -> None:
    tags = importlib.import_module("dagster._core.storage.tags")
    assert tags.RUN_KEY_TAG == "dagster/run_key"
    assert tags.WILL_RETRY_TAG == "dagster/will_retry"
    assert importlib.import_module("dagster_celery.tags").DAGSTER_CELERY_TASK_ID_TAG == "dagster-celery/task_id"


def test_the_switches_by_which_storage_knows_a_mere_look() -> None:
    from quel_dagster.pipeline import storage  # noqa: PLC0415

    cli = importlib.import_module("dagster._cli.definitions")
    dev = importlib.import_module("dagster._cli.dev")
    assert all(any(name in inspect.getsource(module) for module in (cli, dev)) for name in storage._LOOKING), (
        "dagster dev and dagster definitions validate no longer say that they are"
    )


def test_the_async_executor_takes_our_configuration() -> None:
    definition = importlib.import_module("dagster_async_executor.executor_definition")
    fields = definition.ASYNC_CONFIG.config_type.fields
    assert {"max_concurrent", "retries"} <= set(fields)


def test_pieces_of_dagster_that_the_async_executor_itself_imports() -> None:
    """Its imports are at the top of these modules: importing them is the test."""
    for name in (
        "dagster_async_executor.executor",
        "dagster_async_executor.execution.plan.compute",
        "dagster_async_executor.execution.plan.execute_plan",
        "dagster_async_executor.execution.plan.execute_step",
    ):
        importlib.import_module(name)
