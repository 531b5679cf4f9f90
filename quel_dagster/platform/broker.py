"""Celery in this installation: its only task, its queue in Redis, and the state of a message in the broker.

A message holds only a run's id as JSON: the worker decides what is executed (`run_execution`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from quel_dagster.adapters.redis_connection import celery_url, open_redis
from quel_dagster.settings import Settings

TASK = "quel_dagster.execute_run"
QUEUE = "runs"
#: Key prefix in a Redis that other programs may use too.
KEY_PREFIX = "quel_dagster:"
#: Errors of a broker that cannot accept a message.
BROKER_ERRORS = (OperationalError, RedisError, OSError)

CELERY_SETTINGS: Mapping[str, Any] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_default_queue": QUEUE,
    # A prefetched message in a busy process would not be seen by a free one.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # A message is delivered once. Dagster retries a run with a dead process; one that never began is queued again.
    "task_acks_late": False,
    "task_ignore_result": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {"global_keyprefix": KEY_PREFIX, "socket_keepalive": True, "socket_timeout": 10},
}


def celery_app() -> Celery:
    """Return an application on `REDIS_URL`.

    Raises:
        SettingsError: it is not set.
    """
    app = Celery("quel_dagster", broker=celery_url(Settings.of_process().required_redis_url()), set_as_current=False)
    app.conf.update(CELERY_SETTINGS)
    return app


class RunMessages:
    """The messages of runs in the broker: the launcher sends and finds them."""

    def __init__(self) -> None:
        self._app = celery_app()
        self._redis: Redis = open_redis(Redis, Settings.of_process().required_redis_url())

    def send(self, run_id: str) -> None:
        """Send a run to the workers; once, without waiting for an unreachable broker.

        Raises:
            one of BROKER_ERRORS: the broker did not accept it.
        """
        self._app.send_task(TASK, args=[run_id], queue=QUEUE, retry=False)

    def waiting(self) -> set[str]:
        """Return the ids of the runs with a message in the broker's list.

        Raises:
            one of BROKER_ERRORS
        """
        found: set[str] = set()
        # not through Celery's connection: it leaves the prefix out of this command
        messages: list[bytes] = self._redis.lrange(f"{KEY_PREFIX}{QUEUE}", 0, -1)  # type: ignore[assignment]
        for message in messages:
            # the header holds the arguments as text, ('…',)
            found.update(part for part in message.decode(errors="replace").split("'") if len(part) == 36)
        return found
