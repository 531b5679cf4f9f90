"""Launches a run as a Celery task, stops it, and knows whether somebody is still working on it.

`CeleryRunLauncher` as shipped leaves a terminated run STARTED for ever and never notices a worker that died.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from typing_extensions import override

from quel_dagster.adapters.database.lease import LeaseBoard
from quel_dagster.adapters.queue import celery_url
from quel_dagster.settings import Settings

#: Seconds to wait for the answer of the worker that has a run.
INSPECT_SECONDS = 1.0

#: A message is in the broker's list or with a worker; for a moment it is on the way.
LOST_MESSAGE_SECONDS = 8.0

#: Our keys in a Redis that others use as well.
KEY_PREFIX = "quel_dagster:"

CELERY_SETTINGS: Mapping[str, Any] = {
    # A task is one run and takes as long as it takes: nobody fetches a second one in advance.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # Redelivery would start a run that Dagster ignores: recovery is run monitoring and run retries.
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_transport_options": {"global_keyprefix": KEY_PREFIX, "socket_keepalive": True},
    "result_backend_transport_options": {"global_keyprefix": KEY_PREFIX},
    # The result says which host has the run; long enough for any run and its post-mortem.
    "result_expires": 7 * 24 * 3600,
    "worker_hijack_root_logger": False,
    "task_default_queue": "dagster",
}


class QuelRunLauncher(CeleryRunLauncher):
    """Celery on Redis: broker and result backend are one URL."""

    @override
    def terminate(self, run_id: str) -> bool:
        """Cancel the run: SIGINT lets Dagster end it as CANCELED in the worker, which settles its job."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task_id is not None:
            self.celery.control.revoke(task_id, terminate=True, signal="SIGINT")
        return True

    @override
    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Ask the worker that took the run whether it still has it."""
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task_id is None:
            return CheckRunHealthResult(WorkerStatus.UNKNOWN, "The run has no Celery task.")
        result = self.celery.AsyncResult(task_id)
        state, info = result.state, result.info
        if state == "SUCCESS":
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        if state == "FAILURE":
            return CheckRunHealthResult(WorkerStatus.FAILED, "The Celery task failed.")
        host = info.get("hostname") if state == "STARTED" and isinstance(info, dict) else None
        if host is None:
            return self._by_lease(run, f"The Celery task is {state}, and its worker unknown")
        answer = self.celery.control.inspect([host], timeout=INSPECT_SECONDS, limit=1).query_task(task_id)
        if not answer:
            return self._by_lease(run, f"Celery worker {host} does not answer")
        if answer.get(host, {}).get(task_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"Celery worker {host} no longer has this run.")

    def lost_start(self, run: DagsterRun, seconds: float) -> str | None:
        """Why a run that was launched `seconds` ago will never start; None while it still may.

        Run monitoring asks nobody about such a run and waits for its start timeout, while it holds a slot.
        """
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task_id is None:
            return None  # the launcher is at it
        state = self.celery.AsyncResult(task_id).state
        if state == "STARTED":
            health = self.check_run_worker_health(run)
            return health.msg if health.status is WorkerStatus.FAILED else None
        if state != "PENDING":
            return f"The Celery task ended as {state} before the run began."
        if seconds < LOST_MESSAGE_SECONDS or self._waits_for_a_worker(task_id):
            return None
        answers = self.celery.control.inspect(timeout=INSPECT_SECONDS).query_task(task_id) or {}
        if any(tasks.get(task_id) for tasks in answers.values()):
            return None
        return "Its Celery task waits in no queue and no worker has it: a worker died with it."

    def _waits_for_a_worker(self, task_id: str) -> bool:
        """Is the task's message still in the broker's list?"""
        wanted = task_id.encode()
        with self.celery.connection_for_read() as connection:
            channel = connection.default_channel
            for priority in channel.priority_steps:
                key = channel._q_for_pri(self.default_queue, priority)  # no public name for it
                if any(wanted in message for message in channel.client.lrange(key, 0, -1)):
                    return True
        return False

    def _by_lease(self, run: DagsterRun, finding: str) -> CheckRunHealthResult:
        """Redis may have lost its memory, or the network a host: whoever renews the lease is alive all the same."""
        database_url = Settings.read().database_url
        if database_url is not None and LeaseBoard(database_url.get_secret_value()).is_live(run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"{finding}, but the lease of its job is renewed.")
        return CheckRunHealthResult(WorkerStatus.FAILED, f"{finding}, and it holds no live lease.")

    @property
    @override
    def supports_resume_run(self) -> bool:
        # Resuming is broken in dagster-celery; a retry makes only the missing pictures anyway.
        return False

    @override
    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        return None  # the health message says it; the base class reads an attribute that does not exist

    @classmethod
    @override
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        config = dict(config_value)
        for name in ("broker", "backend"):
            if config.get(name):
                config[name] = celery_url(config[name])
        config["config_source"] = {**CELERY_SETTINGS, **(config.get("config_source") or {})}
        return cls(inst_data=inst_data, **config)
