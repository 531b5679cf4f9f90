"""Dagster's storage in a worker survives an outage of PostgreSQL, and hides no wrong statement."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError

from quel_dagster.adapters.retry_policy import RUN_SECONDS, START_SECONDS, RetryPolicy
from quel_dagster.platform import outages

UNREACHABLE = OperationalError("select", {}, Exception("server closed the connection unexpectedly"))


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "POSTGRESQL", RetryPolicy(first_pause=0.0, longest_pause=0.0))


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def act() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return act


def test_a_database_that_comes_back_is_waited_for() -> None:
    assert outages.retrying(failing(UNREACHABLE, UNREACHABLE), seconds=60)() == "answer"


def test_database_that_stays_unreachable_is_given_up() -> None:
    with pytest.raises(OperationalError):
        outages.retrying(failing(UNREACHABLE), seconds=0.0)()


def test_a_wrong_statement_fails_at_once() -> None:
    with pytest.raises(ProgrammingError):
        outages.retrying(failing(ProgrammingError("selct", {}, Exception("syntax"))), seconds=60)()


def test_a_call_within_another_leaves_the_waiting_to_that_one() -> None:
    inner = outages.retrying(failing(UNREACHABLE), seconds=60)
    tries: list[int] = []

    def outer() -> str:
        tries.append(1)
        return inner()

    assert outages.retrying(outer, seconds=60)() == "answer"
    assert len(tries) == 2


class Part:
    """As much of a storage of Dagster's as is looked at."""

    def __init__(self) -> None:
        self.get_runs = failing(UNREACHABLE)

    def get_run_by_id(self) -> str:
        return self.get_runs()

    def add_run(self) -> str:
        return self.get_runs()

    @property
    def has_instance(self) -> bool:
        return False


def storage() -> Any:
    return outages.with_retries(SimpleNamespace(run_storage=Part(), event_log_storage=Part()))  # type: ignore[arg-type]


def test_only_what_may_be_done_twice_is() -> None:
    assert storage().run_storage.get_run_by_id() == "answer"
    with pytest.raises(OperationalError):
        storage().run_storage.add_run()


def test_a_worker_waits_longer_than_a_page_or_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_retry_seconds", START_SECONDS)
    limits: list[float] = []
    monkeypatch.setattr(outages, "retrying", lambda act, *, seconds: limits.append(seconds) or act)
    storage()
    outages.retry_long()
    storage()
    assert set(limits) == {START_SECONDS, RUN_SECONDS}
    assert limits == sorted(limits)
