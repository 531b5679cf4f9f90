"""Rows and answers of PostgreSQL as values."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import text

from quel_dagster.adapters.database import records, rows
from quel_dagster.adapters.database.records import OutputPlace
from quel_dagster.adapters.database.store import Database
from quel_dagster.errors import JobNotFoundError, QuelError, RowShapeError
from quel_dagster.jobs.model import Value


class Pair(Value):
    first: int
    second: str | None


async def test_rows_of_a_statement_become_values_in_order(database: Database) -> None:
    found = await rows.read(
        database, Pair, text("select n as first, null::text as second from generate_series(1, 3) n")
    )
    assert found == [Pair(first=n, second=None) for n in (1, 2, 3)]


async def test_column_that_a_statement_adds_is_named(database: Database) -> None:
    with pytest.raises(RowShapeError, match="is no Pair: column third is unexpected"):
        await rows.read_one(database, Pair, text("select 1 as first, 'a' as second, 3 as third"))


async def test_job_without_a_row_is_not_found(database: Database) -> None:
    job_id = uuid4()
    none = text("select 1 as first, '' as second where cast(:job_id as uuid) is null")
    with pytest.raises(JobNotFoundError, match=f"Job {job_id} is not in quel_production_jobs"):
        await rows.read_of_job(database, Pair, none, job_id)


async def test_outputs_of_steps_are_written_together_and_replace_earlier_ones(database: Database) -> None:
    run = str(uuid4())
    plan, unit = OutputPlace(run, "plan_units", "plan"), OutputPlace(run, "generate", "result", "a")
    await database.work.write_op_outputs({plan: {"units": [1, "zwei", None]}, unit: "first"})
    await database.work.write_op_outputs({unit: "second"})
    assert await database.work.read_op_output(plan) == {"units": [1, "zwei", None]}
    assert await database.work.read_op_output(unit) == "second"
    with pytest.raises(
        QuelError, match=rf"Run {run} has no stored output 'result' of generate; run the whole job again"
    ):
        await database.work.read_op_output(unit._replace(mapping_key=""))


async def test_answer_of_a_newer_function_is_refused_in_one_line(database: Database) -> None:
    newer = text("""select '{"outcome": "postponed"}'::jsonb as answer""")
    with pytest.raises(RowShapeError, match=r"does not know: .*'postponed'") as caught:
        await rows.answer(database, records.BEGIN, newer)
    assert "\n" not in str(caught.value)
