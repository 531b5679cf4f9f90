"""An idle queue is waited on for as long as asked, and that is no error."""

from __future__ import annotations

import time

from quel_dagster.adapters.queue import AGAIN_LOOK_SECONDS, JobQueue
from quel_dagster.adapters.redis_connection import ANSWER_SECONDS
from quel_dagster.pipeline.sensors import APART_SECONDS, WAIT_SECONDS
from quel_dagster.services.supervisor import Service


def test_waiting_on_an_empty_queue_ends_quietly_when_its_time_is_over(redis_url: str) -> None:
    """The Redis client gives up on an answer after 5 s by default."""
    queue = JobQueue(redis_url)
    started = time.monotonic()
    assert not queue.wait(5.5)
    assert time.monotonic() - started >= 5.4
    queue.close()


def test_a_blocking_command_ends_before_its_answer_is_given_up() -> None:
    assert AGAIN_LOOK_SECONDS + 2 <= ANSWER_SECONDS


def test_a_tick_ends_before_its_stopped_daemon_is_killed() -> None:
    """A daemon waits for the tick under way; with 10 s `make demo` ended with "did not stop in time"."""
    assert Service.grace >= APART_SECONDS + WAIT_SECONDS + 2
