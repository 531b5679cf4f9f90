"""Launches a run as a Celery task, stops it, and knows whether somebody is still working on it.

`CeleryRunLauncher` as shipped leaves a terminated run STARTED for ever and never notices a worker that died.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
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

#: Without a lease and without an answer, a run is given up after this.
SUSPICION_SECONDS = 2.0

#: A worker that did not answer is not asked again for so long: each question costs `INSPECT_SECONDS`.
SILENCE_SECONDS = 3.0

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: run → when (monotonic seconds) nobody seemed to work on it for the first time
        self._suspected: dict[str, float] = {}
        #: worker → until when (monotonic seconds) it is not asked again
        self._silent_until: dict[str, float] = {}

    @cached_property
    def _leases(self) -> LeaseBoard | None:
        url = Settings.read().database_url
        return LeaseBoard(url.get_secret_value()) if url else None

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
        """Whether somebody still works on this run: Celery knows of a dead child, the lease of a live one."""
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task_id is None:
            return CheckRunHealthResult(WorkerStatus.UNKNOWN, "The run has no Celery task.")
        result = self.celery.AsyncResult(task_id)
        state, info = result.state, result.info
        if state == "FAILURE":
            return CheckRunHealthResult(WorkerStatus.FAILED, "Its process died: the Celery task failed.")
        if self._leases is not None and self._leases.is_live(run.run_id):
            return self._well(run)
        if state == "SUCCESS":
            # Dagster ignores a second start of a run and calls that a success; the first may have died since.
            return self._suspect(run, "The Celery task is over, the run is not, and it holds no live lease.")
        host = _host(state, info)
        if host is None:
            return self._suspect(run, f"The Celery task is {state}, its worker unknown, and it holds no live lease.")
        answer = self._ask(host, task_id)
        if answer is None:
            return self._suspect(run, f"Celery worker {host} does not answer, and it holds no live lease.")
        if answer:
            return self._well(run)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"Celery worker {host} no longer has this run.")

    def _well(self, run: DagsterRun) -> CheckRunHealthResult:
        self._suspected.pop(run.run_id, None)
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _suspect(self, run: DagsterRun, finding: str) -> CheckRunHealthResult:
        """A run has no lease for a moment before it claims its job and after it has ended it: believe it that long."""
        now = time.monotonic()
        since = self._suspected.setdefault(run.run_id, now)
        if now - since < SUSPICION_SECONDS:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"{finding} Perhaps it is just beginning or ending.")
        del self._suspected[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, finding)

    def _ask(self, host: str, task_id: str) -> bool | None:
        """Does this worker have the task? None: it does not answer, and the next question waits a while."""
        if self._silent_until.get(host, 0.0) > time.monotonic():
            return None
        answer = self.celery.control.inspect([host], timeout=INSPECT_SECONDS, limit=1).query_task(task_id)
        if not answer:
            self._silent_until[host] = time.monotonic() + SILENCE_SECONDS
            return None
        return bool(answer.get(host, {}).get(task_id))

    def lost_start(self, run: DagsterRun, seconds: float) -> str | None:
        """Why a run that was launched `seconds` ago will never start; None while it still may.

        Run monitoring asks nobody about such a run and waits for its start timeout, while it holds a slot.
        """
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task_id is None:
            return None  # the launcher is at it
        result = self.celery.AsyncResult(task_id)
        state, host = result.state, _host(result.state, result.info)
        if host is not None:
            has_it = self._ask(host, task_id)
            if has_it is False:
                return f"Celery worker {host} no longer has this run."
            if has_it is None and seconds > LOST_MESSAGE_SECONDS:
                return f"Celery worker {host} took this run and does not answer."
            return None
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


def _host(state: str, info: object) -> str | None:
    """The Celery worker that a task's result names."""
    return info.get("hostname") if state == "STARTED" and isinstance(info, dict) else None
