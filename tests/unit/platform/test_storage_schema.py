"""Positive answers about a schema are cached; negative ones are not."""

from __future__ import annotations

import inspect
from uuid import uuid4

import pytest
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage

from quel_dagster.platform import internals
from quel_dagster.platform.storage_schema import KEPT_PLANS, kept, until_yes


class Schema:
    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    def has(self, _connection: object, *_words: str) -> bool:
        return self.answers.pop(0)


def test_a_no_is_asked_again_and_a_yes_is_not() -> None:
    schema = Schema(False, True)
    ask = until_yes(schema.has, str(uuid4()))
    assert [ask(object()), ask(object()), ask(object())] == [False, True, True]
    assert schema.answers == []


def test_answers_are_cached_per_subject_and_argument() -> None:
    subject = str(uuid4())
    assert until_yes(Schema(True).has, subject, "runs")(object(), "start")
    assert not until_yes(Schema(False).has, subject, "runs")(object(), "end")
    assert not until_yes(Schema(False).has, subject, "ticks")(object(), "start")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (PostgresRunStorage, internals.SCHEMA_QUESTIONS_OF_RUNS),
        (PostgresScheduleStorage, internals.SCHEMA_QUESTIONS_OF_TICKS),
        (PostgresEventLogStorage, internals.SCHEMA_QUESTIONS_OF_EVENTS),
    ],
)
def test_dagster_still_asks_these_and_tells_them_apart_by_words(kind: type, names: tuple[str, ...]) -> None:
    for name in names:
        parameters = set(inspect.signature(getattr(kind, name)).parameters)
        assert parameters <= {
            "self",
            "conn",
            "migration_name",
            "column_name",
            "table_name",
            "job_snapshot_id",
            "execution_plan_snapshot_id",
        }, name


def test_a_plan_is_read_once_and_a_missing_one_is_looked_for_again() -> None:
    answers: list[str | None] = [None, "the plan"]
    read = kept(lambda _snapshot_id: answers.pop(0))
    assert [read("a"), read("a"), read("a")] == [None, "the plan", "the plan"]


def test_a_bounded_number_of_plans_is_kept() -> None:
    asked: list[str] = []

    def look_up(snapshot_id: str) -> str:
        asked.append(snapshot_id)
        return snapshot_id

    read = kept(look_up)
    for number in range(KEPT_PLANS + 1):
        assert read(str(number)) == str(number)
    assert read("0") == "0"
    assert asked[-1] == "0", "the first ones were forgotten"
