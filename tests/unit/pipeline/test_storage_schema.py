"""What is in a schema stays there, so a yes is remembered; a no may turn into one."""

from __future__ import annotations

import inspect
from uuid import uuid4

import pytest
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage

from quel_dagster.pipeline import storage_schema
from quel_dagster.pipeline.storage_schema import until_yes


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


def test_every_subject_and_every_word_is_a_question_of_its_own() -> None:
    subject = str(uuid4())
    assert until_yes(Schema(True).has, subject, "runs")(object(), "start")
    assert not until_yes(Schema(False).has, subject, "runs")(object(), "end")
    assert not until_yes(Schema(False).has, subject, "ticks")(object(), "start")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (PostgresRunStorage, storage_schema.RUNS),
        (PostgresScheduleStorage, storage_schema.TICKS),
        (PostgresEventLogStorage, storage_schema.EVENTS),
    ],
)
def test_dagster_still_asks_these_and_tells_them_apart_by_words(kind: type, names: tuple[str, ...]) -> None:
    for name in names:
        parameters = set(inspect.signature(getattr(kind, name)).parameters)
        assert parameters <= {"self", "conn", "migration_name", "column_name"}, name
