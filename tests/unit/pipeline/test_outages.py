"""Dagster's storage in a worker outlasts a PostgreSQL that is away, and hides no statement that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError

from quel_dagster.pipeline import outages

AWAY = OperationalError("select", {}, Exception("server closed the connection unexpectedly"))


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "PAUSE_SECONDS", 0.0)


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def act() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return act


def test_a_database_that_comes_back_is_waited_for() -> None:
    assert outages.tried_again(failing(AWAY, AWAY), seconds=60)() == "answer"


def test_a_database_that_stays_away_is_given_up() -> None:
    with pytest.raises(OperationalError):
        outages.tried_again(failing(AWAY), seconds=0.0)()


def test_a_wrong_statement_fails_at_once() -> None:
    with pytest.raises(ProgrammingError):
        outages.tried_again(failing(ProgrammingError("selct", {}, Exception("syntax"))), seconds=60)()


def test_a_call_within_another_leaves_the_waiting_to_that_one() -> None:
    inner = outages.tried_again(failing(AWAY), seconds=60)
    tries: list[int] = []

    def outer() -> str:
        tries.append(1)
        return inner()

    assert outages.tried_again(outer, seconds=60)() == "answer"
    assert len(tries) == 2


class Part:
    """As much of a storage of Dagster's as is looked at."""

    def __init__(self) -> None:
        self.get_runs = failing(AWAY)

    def get_run_by_id(self) -> str:
        return self.get_runs()

    def add_run(self) -> str:
        return self.get_runs()

    @property
    def has_instance(self) -> bool:
        return False


def storage() -> Any:
    return outages.outlasting(SimpleNamespace(run_storage=Part(), event_log_storage=Part()))  # type: ignore[arg-type]


def test_only_what_may_be_done_twice_is() -> None:
    assert storage().run_storage.get_run_by_id() == "answer"
    with pytest.raises(OperationalError):
        storage().run_storage.add_run()


def test_a_worker_waits_longer_than_a_page_or_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_patience", outages.BLINK_SECONDS)
    clock = iter([0.0, outages.BLINK_SECONDS, 100.0, 100.0 + outages.BLINK_SECONDS])
    monkeypatch.setattr(outages.time, "monotonic", lambda: next(clock))
    with pytest.raises(OperationalError):
        storage().run_storage.get_run_by_id()
    outages.outlast_outages()
    assert storage().run_storage.get_run_by_id() == "answer"
