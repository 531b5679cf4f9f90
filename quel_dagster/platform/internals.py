"""The private names of Dagster, its packages and kombu that this package uses: the only file that imports them.

Every name and attribute is in one group, which states its purpose, a possible replacement, and what happens when an
upgrade moves it:

    refuse     the program does not start, with one line that names what is missing
    degrade    a warning, and Dagster's own behaviour from then on

`from quel_dagster.platform.internals import X` imports the module of X at first use, so that a program loads only what
it uses. `check_internals` checks all of them once, at the start of the daemon and the worker, and the web server's at
its start.
tests/integration/test_dagster_contract.py reads this list, and fails on a private name that is used but not listed.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from quel_dagster.errors import SettingsError

if TYPE_CHECKING:
    from dagster._core.definitions.job_base import InMemoryJob as InMemoryJob
    from dagster._core.definitions.resource_annotation import TreatAsResourceParam as TreatAsResourceParam
    from dagster._core.errors import DagsterExecutionInterruptedError as DagsterExecutionInterruptedError
    from dagster._core.errors import DagsterHomeNotSetError as DagsterHomeNotSetError
    from dagster._core.errors import DagsterUserCodeProcessError as DagsterUserCodeProcessError
    from dagster._core.events import ASSET_CHECK_EVENTS as ASSET_CHECK_EVENTS
    from dagster._core.events import ASSET_EVENTS as ASSET_EVENTS
    from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS as EVENT_TYPE_TO_PIPELINE_RUN_STATUS
    from dagster._core.events import DagsterEventBatchMetadata as DagsterEventBatchMetadata
    from dagster._core.events import EngineEventData as EngineEventData
    from dagster._core.events import RunFailureReason as RunFailureReason
    from dagster._core.events.log import EventLogEntry as EventLogEntry
    from dagster._core.execution.api import ExecuteRunWithPlanIterable as ExecuteRunWithPlanIterable
    from dagster._core.execution.api import execute_run_iterator as execute_run_iterator
    from dagster._core.execution.context.system import PlanExecutionContext as PlanExecutionContext
    from dagster._core.execution.context.system import PlanOrchestrationContext as PlanOrchestrationContext
    from dagster._core.execution.context.system import StepExecutionContext as StepExecutionContext
    from dagster._core.execution.context_creation_job import PlanExecutionContextManager as PlanExecutionContextManager
    from dagster._core.execution.plan.execute_plan import (
        dagster_event_sequence_for_step as dagster_event_sequence_for_step,
    )
    from dagster._core.execution.plan.instance_concurrency_context import (
        InstanceConcurrencyContext as InstanceConcurrencyContext,
    )
    from dagster._core.execution.plan.plan import ExecutionPlan as ExecutionPlan
    from dagster._core.execution.plan.resume_retry import ReexecutionStrategy as ReexecutionStrategy
    from dagster._core.execution.retries import RetryMode as RetryMode
    from dagster._core.execution.retries import auto_reexecution_should_retry_run as auto_reexecution_should_retry_run
    from dagster._core.instance import InstanceRef as InstanceRef
    from dagster._core.instance.config import PoolConfig as PoolConfig
    from dagster._core.launcher import CheckRunHealthResult as CheckRunHealthResult
    from dagster._core.launcher import LaunchRunContext as LaunchRunContext
    from dagster._core.launcher import RunLauncher as RunLauncher
    from dagster._core.launcher import WorkerStatus as WorkerStatus
    from dagster._core.remote_representation.code_location import GrpcServerCodeLocation as GrpcServerCodeLocation
    from dagster._core.run_coordinator import QueuedRunCoordinator as QueuedRunCoordinator
    from dagster._core.run_coordinator import SubmitRunContext as SubmitRunContext
    from dagster._core.scheduler.instigation import InstigatorStatus as InstigatorStatus
    from dagster._core.scheduler.instigation import InstigatorTick as InstigatorTick
    from dagster._core.scheduler.instigation import TickData as TickData
    from dagster._core.storage.asset_check_execution_record import (
        AssetCheckExecutionRecordStatus as AssetCheckExecutionRecordStatus,
    )
    from dagster._core.storage.base_storage import DagsterStorage as DagsterStorage
    from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES as ACTIVE_RUN_STATUSES
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES as NOT_FINISHED_STATUSES
    from dagster._core.storage.dagster_run import DagsterRun as DagsterRun
    from dagster._core.storage.dagster_run import RunRecord as RunRecord
    from dagster._core.storage.event_log.base import AssetEntry as AssetEntry
    from dagster._core.storage.event_log.base import AssetRecord as AssetRecord
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable as AssetCheckExecutionsTable
    from dagster._core.storage.event_log.schema import AssetKeyTable as AssetKeyTable
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as SqlEventLogStorageTable
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage as SqlEventLogStorage
    from dagster._core.storage.runs.schema import RunsTable as RunsTable
    from dagster._core.storage.sqlite_storage import DagsterSqliteStorage as DagsterSqliteStorage
    from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG as AUTO_RETRY_RUN_ID_TAG
    from dagster._core.storage.tags import MAX_RETRIES_TAG as MAX_RETRIES_TAG
    from dagster._core.storage.tags import PRIORITY_TAG as PRIORITY_TAG
    from dagster._core.storage.tags import RETRY_NUMBER_TAG as RETRY_NUMBER_TAG
    from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG as RETRY_ON_ASSET_OR_OP_FAILURE_TAG
    from dagster._core.storage.tags import RETRY_STRATEGY_TAG as RETRY_STRATEGY_TAG
    from dagster._core.storage.tags import RUN_FAILURE_REASON_TAG as RUN_FAILURE_REASON_TAG
    from dagster._core.storage.tags import RUN_KEY_TAG as RUN_KEY_TAG
    from dagster._core.storage.tags import WILL_RETRY_TAG as WILL_RETRY_TAG
    from dagster._core.system_config.objects import ResolvedRunConfig as ResolvedRunConfig
    from dagster._core.workspace.context import IWorkspaceProcessContext as IWorkspaceProcessContext
    from dagster._daemon.auto_run_reexecution.auto_run_reexecution import (
        filter_runs_to_should_retry as filter_runs_to_should_retry,
    )
    from dagster._daemon.auto_run_reexecution.auto_run_reexecution import retry_run as retry_run
    from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon as EventLogConsumerDaemon
    from dagster._daemon.daemon import DaemonIterator as DaemonIterator
    from dagster._daemon.daemon import MonitoringDaemon as MonitoringDaemon
    from dagster._daemon.daemon import SensorDaemon as SensorDaemon
    from dagster._daemon.daemon import SpanMarker as SpanMarker
    from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
        QueuedRunCoordinatorDaemon as QueuedRunCoordinatorDaemon,
    )
    from dagster._daemon.types import DaemonHeartbeat as DaemonHeartbeat
    from dagster._serdes import ConfigurableClass as ConfigurableClass
    from dagster._serdes import ConfigurableClassData as ConfigurableClassData
    from dagster._serdes import deserialize_value as deserialize_value
    from dagster._serdes import serialize_value as serialize_value
    from dagster._utils.error import serializable_error_info_from_exc_info as serializable_error_info_from_exc_info
    from dagster._utils.interrupts import pop_captured_interrupt as pop_captured_interrupt
    from dagster_postgres import DagsterPostgresStorage as DagsterPostgresStorage
    from dagster_postgres.event_log import PostgresEventLogStorage as PostgresEventLogStorage
    from dagster_postgres.run_storage import PostgresRunStorage as PostgresRunStorage
    from dagster_postgres.schedule_storage import PostgresScheduleStorage as PostgresScheduleStorage
    from dagster_postgres.utils import DagsterPostgresException as DagsterPostgresException
    from dagster_postgres.utils import create_pg_connection as create_pg_connection
    from dagster_shared.error import SerializableErrorInfo as SerializableErrorInfo
    from dagster_webserver.webserver import DagsterWebserver as DagsterWebserver

Policy = Literal["refuse", "degrade"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """Private names that serve one purpose."""

    use: str
    instead: str
    when_gone: Policy
    #: what then fails, or is slower
    effect: str
    #: module → imported names, each under its own name or under the one after `=`
    names: dict[str, Sequence[str]] = field(default_factory=dict)
    #: attributes that are overridden, called, read or assigned, as `module:Class.attribute`, also those that only its
    #: instances have; and the parameters that are used
    attributes: dict[str, Sequence[str] | None] = field(default_factory=dict)


_CONTROLLER = "dagster._daemon.controller"
_QUEUE_DAEMON = "dagster._daemon.run_coordinator.queued_run_coordinator_daemon:QueuedRunCoordinatorDaemon"
_RETRY_DAEMON = "dagster._daemon.auto_run_reexecution.event_log_consumer:EventLogConsumerDaemon"
_EVENT_LOG = "dagster_postgres.event_log:PostgresEventLogStorage"
_INSTANCE = "dagster._core.instance.methods.event_methods:EventMethods"
_LAUNCHER = "dagster._core.launcher:RunLauncher"
_COORDINATOR = "dagster._core.run_coordinator:QueuedRunCoordinator"
_RUNS = "dagster_postgres.run_storage:PostgresRunStorage"
_TICKS = "dagster_postgres.schedule_storage:PostgresScheduleStorage"
_STORAGE = "dagster_postgres:DagsterPostgresStorage"
_WEBSERVER = "dagster_webserver.webserver:DagsterWebserver"

SCHEMA_QUESTIONS_OF_RUNS = (
    "has_run_stats_index_cols",
    "has_bulk_actions_selector_cols",
    "has_backfill_id_column",
    "has_bulk_action_job_name_column",
    "has_backfill_tags_table",
    "has_built_index",
    "has_job_snapshot",
    "has_execution_plan_snapshot",
)
SCHEMA_QUESTIONS_OF_TICKS = (
    "has_instigators_table",
    "_has_instigators_table",
    "_has_asset_daemon_asset_evaluations_table",
    "has_secondary_index_table",
    "has_built_index",
)
SCHEMA_QUESTIONS_OF_EVENTS = ("has_table", "has_asset_key_col", "_has_asset_key_col_on_connection")

WEB_SERVER = Group(
    use="the web server's page and middleware (platform/webserver.py)",
    instead="public hooks of dagster-webserver",
    when_gone="refuse",
    effect="the UI could be used by other web pages",
    names={
        "dagster_webserver": ["app=webserver_app"],
        "dagster_webserver.cli": ["main=webserver_main"],
        "dagster_webserver.webserver": ["DagsterWebserver"],
    },
    attributes={
        f"{_WEBSERVER}.index_html_endpoint": ["self", "request"],
        f"{_WEBSERVER}.build_middleware": ["self"],
        f"{_WEBSERVER}.build_routes": ["self"],
        f"{_WEBSERVER}.execute_graphql_request": ["self", "request", "query", "variables", "operation_name"],
        f"{_WEBSERVER}._process_context": None,
        "dagster_webserver.app:DagsterWebserver": None,
    },
)
GROUPS = (
    Group(
        use="the executor: each open step on a thread (platform/executor.py)",
        instead="a public way to run one step of a plan",
        when_gone="refuse",
        effect="no run can be executed",
        names={
            "dagster._core.errors": ["DagsterExecutionInterruptedError"],
            "dagster._core.events": ["EngineEventData"],
            "dagster._core.execution.api": ["ExecuteRunWithPlanIterable"],
            "dagster._core.execution.context.system": [
                "PlanExecutionContext",
                "PlanOrchestrationContext",
                "StepExecutionContext",
            ],
            "dagster._core.execution.context_creation_job": ["PlanExecutionContextManager"],
            "dagster._core.execution.plan.execute_plan": ["dagster_event_sequence_for_step"],
            "dagster._core.execution.plan.instance_concurrency_context": ["InstanceConcurrencyContext"],
            "dagster._core.execution.plan.plan": ["ExecutionPlan"],
            "dagster._core.execution.retries": ["RetryMode"],
            "dagster._utils.interrupts": ["pop_captured_interrupt"],
        },
        attributes={
            "dagster._core.execution.plan.execute_plan:dagster_event_sequence_for_step": ["step_context"],
            "dagster._core.execution.plan.plan:ExecutionPlan.start": ["self", "retry_mode"],
            "dagster._core.execution.plan.active:ActiveExecution.get_steps_to_execute": ["self"],
            "dagster._core.execution.plan.active:ActiveExecution.handle_event": ["self", "dagster_event"],
            "dagster._core.execution.plan.active:ActiveExecution.verify_complete": ["self", "job_context", "step_key"],
            "dagster._core.execution.plan.active:ActiveExecution.plan_events_iterator": None,
            "dagster._core.execution.plan.active:ActiveExecution.concurrency_event_iterator": None,
            "dagster._core.execution.plan.active:ActiveExecution.mark_interrupted": ["self"],
            "dagster._core.execution.plan.active:ActiveExecution.sleep_interval": ["self"],
            "dagster._core.execution.plan.active:ActiveExecution.get_known_state": ["self"],
        },
    ),
    Group(
        use="failures without a stack trace (platform/failures.py)",
        instead="a public Failure that carries no stack",
        when_gone="refuse",
        effect="no run can be executed",
        names={
            "dagster._core.errors": ["DagsterUserCodeProcessError"],
            "dagster_shared.error": ["SerializableErrorInfo"],
        },
        attributes={
            "dagster._core.execution.plan.active:ActiveExecution.mark_success": ["self", "step_key"],
        },
    ),
    Group(
        use="many runs in one process, of jobs loaded by it (platform/run_execution.py, platform/instance.py)",
        instead="a public call that executes a run which exists; an instance that configures logging once",
        when_gone="refuse",
        effect="no run can be executed",
        names={
            "dagster._core.definitions": ["scoped_resources_builder=resources_builder"],
            "dagster._core.definitions.job_base": ["InMemoryJob"],
            "dagster._core.execution.api": ["execute_run_iterator"],
            "dagster._core.events": ["DagsterEventBatchMetadata"],
            "dagster._core.instance": ["InstanceRef"],
            "dagster._core.storage.tags": ["MAX_RETRIES_TAG"],
            "dagster._core.system_config.objects": ["ResolvedRunConfig"],
            "dagster._utils.error": ["serializable_error_info_from_exc_info"],
        },
        attributes={
            "dagster._core.execution.api:execute_run_iterator": ["job", "dagster_run", "instance"],
            "dagster._core.system_config.objects:ResolvedRunConfig.build": ["job_def", "run_config"],
            "dagster._core.definitions.scoped_resources_builder:namedtuple": ["typename", "field_names"],
            "dagster._core.definitions.job_base:InMemoryJob.get_subset": [
                "self",
                "op_selection",
                "asset_selection",
                "asset_check_selection",
            ],
            "dagster._core.definitions.job_base:InMemoryJob.get_repository_definition": ["self"],
            f"{_INSTANCE}.get_yaml_python_handlers": ["self"],
            f"{_INSTANCE}._get_event_batch_size": ["self"],
            f"{_INSTANCE}.handle_new_event": ["self", "event", "batch_metadata"],
            f"{_INSTANCE}._subscribers_impl": None,
        },
    ),
    Group(
        use="the launcher (platform/launcher.py)",
        instead="the public export of RunLauncher, which has been private since Dagster's first launchers",
        when_gone="refuse",
        effect="no run can be launched",
        names={
            "dagster._core.launcher": ["CheckRunHealthResult", "LaunchRunContext", "RunLauncher", "WorkerStatus"],
            "dagster._serdes": ["ConfigurableClass", "ConfigurableClassData"],
        },
        attributes={
            f"{_LAUNCHER}.terminate": ["self", "run_id"],
            f"{_LAUNCHER}.launch_run": ["self", "context"],
            f"{_LAUNCHER}.check_run_worker_health": ["self", "run"],
            f"{_LAUNCHER}.supports_check_run_worker_health": None,
            f"{_LAUNCHER}.supports_resume_run": None,
            f"{_LAUNCHER}._instance": None,
            "dagster._serdes:ConfigurableClass.config_type": [],
            "dagster._serdes:ConfigurableClass.from_config_value": ["inst_data", "config_value"],
            "dagster._serdes:ConfigurableClass.inst_data": None,
        },
    ),
    Group(
        use="Dagster's storage: kept connections, redaction, outages (platform/storage*.py, redacted_storage.py)",
        instead="an own storage over public classes, once they are public",
        when_gone="refuse",
        effect="Dagster's storage cannot be opened, or secrets could reach its pages",
        names={
            "dagster._core.events.log": ["EventLogEntry"],
            "dagster._core.scheduler.instigation": ["InstigatorTick", "TickData", "InstigatorStatus"],
            "dagster._core.storage.base_storage": ["DagsterStorage"],
            "dagster._core.storage.sqlite_storage": ["DagsterSqliteStorage"],
            "dagster._daemon.types": ["DaemonHeartbeat"],
            "dagster._serdes": ["deserialize_value", "serialize_value"],
            "dagster_postgres": ["DagsterPostgresStorage"],
            "dagster_postgres.run_storage": ["PostgresRunStorage"],
            "dagster_postgres.schedule_storage": ["PostgresScheduleStorage"],
            "dagster_postgres.utils": ["DagsterPostgresException"],
        },
        attributes={
            f"{_STORAGE}.__init__": [
                "self",
                "postgres_url",
                "should_autocreate_tables",
                "inst_data",
            ],
            "dagster._core.storage.sqlite_storage:DagsterSqliteStorage.__init__": ["self", "base_dir", "inst_data"],
            # read, and assigned under their private names: the parts of the storage, and the engine of each
            f"{_STORAGE}.run_storage": None,
            f"{_STORAGE}.event_log_storage": None,
            f"{_STORAGE}.schedule_storage": None,
            f"{_STORAGE}._run_storage": None,
            f"{_STORAGE}._event_log_storage": None,
            f"{_STORAGE}._schedule_storage": None,
            f"{_STORAGE}._inst_data": None,
            f"{_STORAGE}.postgres_url": None,
            f"{_STORAGE}.should_autocreate_tables": None,
            f"{_RUNS}._engine": None,
            f"{_TICKS}._engine": None,
            f"{_RUNS}.connect": None,
            f"{_RUNS}.add_daemon_heartbeat": ["self", "daemon_heartbeat"],
            f"{_TICKS}.create_tick": ["self", "tick_data"],
            f"{_TICKS}.update_tick": ["self", "tick"],
        },
    ),
    Group(
        use="states of runs, with few reads (platform/run_states.py, platform/instance.py)",
        instead="a state that changes its column alone, and a run that is handed on instead of read again",
        when_gone="refuse",
        effect="the states of runs cannot be written",
        names={
            "dagster._core.events": ["EVENT_TYPE_TO_PIPELINE_RUN_STATUS"],
            "dagster._core.storage.runs.schema": ["RunsTable"],
        },
        attributes={
            f"{_RUNS}.handle_run_event": ["self", "run_id", "event", "update_timestamp"],
            f"{_RUNS}._row_to_run": ["self", "row"],
            "dagster:DagsterInstance.create_run": ["self", "job_name"],
            "dagster:DagsterInstance.add_run_tags": ["self", "run_id", "new_tags"],
            "dagster:DagsterInstance.get_run_by_id": ["self", "run_id"],
        },
    ),
    Group(
        use="events written in batches, versions of inputs (platform/event_log.py, platform/input_versions.py)",
        instead="Dagster's store_event_batch, once the event log flushes by itself",
        when_gone="refuse",
        effect="the events of runs cannot be written",
        names={
            "dagster._core.events": ["ASSET_CHECK_EVENTS", "ASSET_EVENTS"],
            "dagster._core.instance.config": ["PoolConfig"],
            "dagster._core.instance.types": ["_EventListenerLogHandler=EventListenerLogHandler"],
            "dagster._core.storage.asset_check_execution_record": ["AssetCheckExecutionRecordStatus"],
            "dagster._core.storage.event_log.base": ["AssetEntry", "AssetRecord"],
            "dagster._core.storage.event_log.schema": [
                "AssetCheckExecutionsTable",
                "AssetKeyTable",
                "SqlEventLogStorageTable",
            ],
            "dagster_postgres.event_log": ["PostgresEventLogStorage"],
            "dagster_postgres.utils": ["create_pg_connection"],
        },
        attributes={
            "dagster:DagsterLogManager.log_dagster_event": ["self", "level", "msg", "dagster_event", "batch_metadata"],
            "dagster:DagsterLogManager._log": ["self", "level", "msg", "args"],
            "dagster:DagsterLogManager._dagster_handler": None,
            "dagster:DagsterLogManager.metadata": None,
            "dagster._core.log_manager:DagsterLogHandler._handlers": None,
            "dagster._core.log_manager:DagsterLogHandler._loggers": None,
            "dagster._core.instance.types:_EventListenerLogHandler._instance": None,
            f"{_EVENT_LOG}._engine": None,
            f"{_EVENT_LOG}._connect": ["self"],
            f"{_EVENT_LOG}.store_event": ["self", "event"],
            f"{_EVENT_LOG}.store_event_batch": ["self", "events"],
            f"{_EVENT_LOG}.dispose": ["self"],
            f"{_EVENT_LOG}._event_to_row": ["self", "event"],
            f"{_EVENT_LOG}.get_pool_config": ["self"],
            f"{_EVENT_LOG}._store_asset_event_tags": ["self", "conn", "events", "event_ids"],
            f"{_EVENT_LOG}.store_asset_check_event": ["self", "event", "event_id"],
            f"{_EVENT_LOG}.get_asset_records": ["self", "asset_keys"],
            f"{_EVENT_LOG}.fetch_observations": ["self", "records_filter", "limit", "cursor", "ascending"],
        },
    ),
    Group(
        use="the run queue: its order, its limits, its pause (platform/run_queue.py, platform/daemon.py)",
        instead="a run queue that can be woken, and asks its coordinator for an order",
        when_gone="refuse",
        effect="runs would start in another order, or fail because of a broker that refuses",
        names={
            "dagster._core.run_coordinator": ["QueuedRunCoordinator", "SubmitRunContext"],
            "dagster._core.workspace.context": ["IWorkspaceProcessContext"],
            "dagster._daemon.daemon": ["DaemonIterator", "MonitoringDaemon", "SpanMarker"],
            "dagster._daemon.run_coordinator.queued_run_coordinator_daemon": ["QueuedRunCoordinatorDaemon"],
        },
        attributes={
            f"{_QUEUE_DAEMON}.core_loop": ["self", "workspace_process_context", "shutdown_event"],
            f"{_QUEUE_DAEMON}._dequeue_run": ["self", "instance", "workspace", "run"],
            f"{_QUEUE_DAEMON}._get_runs_to_dequeue": None,
            f"{_QUEUE_DAEMON}._get_in_progress_run_records": ["self", "instance"],
            f"{_QUEUE_DAEMON}._priority_sort": ["self", "runs"],
            f"{_QUEUE_DAEMON}._logger": None,
            f"{_QUEUE_DAEMON}.interval_seconds": None,
            f"{_COORDINATOR}.submit_run": ["self", "context"],
            f"{_COORDINATOR}.get_run_queue_config": ["self"],
            f"{_COORDINATOR}._instance": None,
            "dagster._daemon.daemon:MonitoringDaemon.run_iteration": ["self", "workspace_process_context"],
            "dagster._daemon.daemon:MonitoringDaemon._logger": None,
        },
    ),
    Group(
        use="retries of dead runs (platform/daemon.py, platform/runs.py)",
        instead="a public hook that decides on a retry and its strategy",
        when_gone="refuse",
        effect="dead runs would be retried from failure, which leaves out units",
        names={
            "dagster._core.events": ["RunFailureReason"],
            "dagster._core.execution.plan.resume_retry": ["ReexecutionStrategy"],
            "dagster._core.execution.retries": ["auto_reexecution_should_retry_run"],
            "dagster._daemon.auto_run_reexecution.auto_run_reexecution": ["filter_runs_to_should_retry", "retry_run"],
            "dagster._daemon.auto_run_reexecution.event_log_consumer": ["EventLogConsumerDaemon"],
        },
        attributes={
            f"{_RETRY_DAEMON}.run_iteration": ["self", "workspace_process_context"],
            f"{_RETRY_DAEMON}.handle_updated_runs_fns": None,
            f"{_RETRY_DAEMON}._logger": None,
            "dagster._daemon.auto_run_reexecution.auto_run_reexecution:retry_run": ["failed_run", "workspace_context"],
            "dagster._daemon.auto_run_reexecution.auto_run_reexecution:filter_runs_to_should_retry": [
                "runs",
                "instance",
            ],
        },
    ),
    Group(
        use="the daemon's command line (platform/daemon.py)",
        instead="a public entry point",
        when_gone="refuse",
        effect="no daemon can be started",
        names={
            "dagster._daemon": ["controller=daemon_controller", "sensor=sensor_daemon"],
            "dagster._daemon.cli": ["main=daemon_main"],
        },
    ),
    Group(
        use="the place of the sensor loop's pause",
        instead="a setting for it",
        when_gone="degrade",
        effect="an id pushed right after another may wait about 5 s",
        attributes={"dagster._daemon.sensor:MIN_INTERVAL_LOOP_TIME": None},
    ),
    Group(
        use="the sensor loop, woken by the end of a tick (platform/daemon.py)",
        instead="a sensor that is due again when its tick has ended",
        when_gone="refuse",
        effect="the daemon cannot be started",
        names={"dagster._daemon.daemon": ["SensorDaemon"]},
        attributes={
            "dagster._daemon.daemon:SensorDaemon.core_loop": ["self", "workspace_process_context", "shutdown_event"],
            "dagster._daemon.daemon:SensorDaemon._threadpool_executor": None,
        },
    ),
    Group(
        use="the place of the sensor daemon",
        instead="a public registry of daemons",
        when_gone="degrade",
        effect="an id pushed right after another may wait about 1 s",
        attributes={f"{_CONTROLLER}:SensorDaemon": None},
    ),
    Group(
        use="the place of the rule that keeps two ticks of a sensor apart",
        instead="an interval below one second",
        when_gone="degrade",
        effect="an id pushed right after another may wait about 1 s",
        attributes={"dagster._daemon.sensor:is_under_min_interval": None},
    ),
    Group(
        use="the place where a sensor's run is created and submitted",
        instead="a run that is handed on instead of read again",
        when_gone="degrade",
        effect="a job costs some 3 ms more CPU",
        attributes={"dagster._daemon.sensor:_submit_run_request": None},
    ),
    Group(
        use="plans that are asked once (platform/kept_plans.py)",
        instead="runs of a sensor that share one plan",
        when_gone="refuse",
        effect="the daemon cannot be started",
        names={"dagster._core.remote_representation.code_location": ["GrpcServerCodeLocation"]},
        attributes={
            "dagster._core.remote_representation.code_location:GrpcServerCodeLocation.get_execution_plan": [
                "self",
                "remote_job",
                "run_config",
                "step_keys_to_execute",
                "known_state",
                "instance",
            ],
        },
    ),
    Group(
        use="the place of the run queue's daemon",
        instead="a public registry of daemons",
        when_gone="degrade",
        effect="runs start up to a dequeue interval later, and large jobs only when no small one waits",
        attributes={f"{_CONTROLLER}:QueuedRunCoordinatorDaemon": None},
    ),
    Group(
        use="the place of the daemon that retries dead runs",
        instead="a public registry of daemons",
        when_gone="degrade",
        effect="retries of dead runs start up to 5 s later, and one that cannot be created at once is given up",
        attributes={f"{_CONTROLLER}:EventLogConsumerDaemon": None},
    ),
    Group(
        use="the place of run monitoring",
        instead="a public registry of daemons",
        when_gone="degrade",
        effect="a run of a worker that died before it began is failed by its start timeout alone",
        attributes={f"{_CONTROLLER}:MonitoringDaemon": None},
    ),
    Group(
        use="resources that are plain objects, by the type of a parameter (pipeline/resources.py)",
        instead="ResourceParam around the type of every such parameter",
        when_gone="refuse",
        effect="the definitions cannot be loaded",
        names={"dagster._core.definitions.resource_annotation": ["TreatAsResourceParam"]},
    ),
    Group(
        use="tags and states of runs, for finding and ordering them",
        instead="the same values as text: they are documented",
        when_gone="refuse",
        effect="runs would not be found",
        names={
            "dagster._core.storage.dagster_run": [
                "ACTIVE_RUN_STATUSES",
                "DagsterRun",
                "NOT_FINISHED_STATUSES",
                "RunRecord",
            ],
            "dagster._core.storage.tags": [
                "AUTO_RETRY_RUN_ID_TAG",
                "PRIORITY_TAG",
                "RETRY_NUMBER_TAG",
                "RETRY_ON_ASSET_OR_OP_FAILURE_TAG",
                "RETRY_STRATEGY_TAG",
                "RUN_FAILURE_REASON_TAG",
                "RUN_KEY_TAG",
                "WILL_RETRY_TAG",
            ],
        },
    ),
    Group(
        use="retention (pipeline/retention.py), one readable line for a missing DAGSTER_HOME",
        instead="a public purge of old runs; a public error",
        when_gone="refuse",
        effect="old runs could not be deleted",
        names={
            "dagster._core.errors": ["DagsterHomeNotSetError"],
            "dagster._core.storage.event_log.sql_event_log": ["SqlEventLogStorage"],
        },
    ),
    Group(
        use="the cache of what Dagster asks about its own schema (platform/storage_schema.py)",
        instead="a Dagster that asks once",
        when_gone="degrade",
        effect="a job costs some 100 ms more CPU",
        attributes={
            f"{kind}.{name}": None
            for kind, names in (
                (_RUNS, SCHEMA_QUESTIONS_OF_RUNS),
                (_TICKS, SCHEMA_QUESTIONS_OF_TICKS),
                (_EVENT_LOG, SCHEMA_QUESTIONS_OF_EVENTS),
            )
            for name in names
        },
    ),
    WEB_SERVER,
)


def _places() -> Iterator[tuple[str, str, str]]:
    """Yield exported name, module, and name in the module."""
    for group in GROUPS:
        for module, names in group.names.items():
            for name in names:
                there, _, exported = name.partition("=")
                yield exported or there, module, there


_WHERE = {exported: (module, there) for exported, module, there in _places()}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"{__name__} lists no {name}")
    module, there = _WHERE[name]
    try:
        found = getattr(importlib.import_module(module), there)
    except AttributeError:
        try:
            found = importlib.import_module(f"{module}.{there}")
        except ImportError:
            raise SettingsError(_line([f"{module}:{there}"], "a part of this program")) from None
    globals()[name] = found
    return found


def _line(missing: Sequence[str], effect: str) -> str:
    version = importlib.import_module("dagster").__version__
    return (
        f"This Dagster ({version}) has no {', '.join(missing)} as this program knows it: {effect}. "
        "Install the versions of requirements.lock."
    )


def missing_of(group: Group) -> list[str]:
    """Return the names and attributes of a group that this Dagster does not have, or has with other parameters."""
    names = [f"{module}:{name.partition('=')[0]}" for module, names in group.names.items() for name in names]
    missing = [place for place in names if _resolve(place) is None]
    for place, parameters in group.attributes.items():
        found = _resolve(place)
        if found is None:
            missing.append(place)
        elif parameters is not None and not _takes(found, parameters):
            missing.append(f"{place}({', '.join(parameters)})")
    return missing


def _takes(function: Any, parameters: Sequence[str]) -> bool:
    return list(inspect.signature(function).parameters)[: len(parameters)] == list(parameters)


def _resolve(place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            if hasattr(found, name):
                found = getattr(found, name)
            elif isinstance(found, type):
                return name if _instances_have(found, name) else None
            else:
                found = importlib.import_module(f"{module}.{name}")
    except ImportError:
        return None
    return found


def _instances_have(kind: type, name: str) -> bool:
    """Return whether a method of the class, or of one of its bases in Dagster, uses `self.<name>`."""
    word = re.compile(rf"\bself\.{name}\b")
    return any(word.search(inspect.getsource(base)) for base in kind.__mro__ if base.__module__.startswith("dagster"))


def check_internals(*groups: Group) -> None:
    """Check every name of these groups once; of all groups when none is given.

    Raises:
        SettingsError: a name is missing that this program cannot run without.
    """
    for group in groups or GROUPS:
        missing = missing_of(group)
        if missing and group.when_gone == "refuse":
            raise SettingsError(_line(missing, group.effect))
        if missing:
            _log.warning(_line(missing, group.effect))
