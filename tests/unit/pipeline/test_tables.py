"""The columns that the lineage shows are those of the tables (domain.md §2)."""

from __future__ import annotations

import pytest

from quel_dagster.pipeline.tables import _MEANINGS, column_schema


@pytest.mark.parametrize(
    ("table", "columns", "first"),
    [
        ("quel_production_jobs", 24, "job_id"),
        ("quel_attach", 9, "attach_id"),
        ("quel_production_photo", 18, "production_id"),
        ("quel_credits", 13, "id"),
    ],
)
def test_every_column_is_there(table: str, columns: int, first: str) -> None:
    found = column_schema(table).columns
    assert (len(found), found[0].name) == (columns, first)
    assert found[0].constraints.unique
    assert set(_MEANINGS[table]) <= {column.name for column in found}, "a meaning of a column that does not exist"


def test_types_and_constraints() -> None:
    columns = {column.name: column for column in column_schema("quel_production_jobs").columns}
    assert columns["job_type"].type == "varchar(50)"
    assert columns["job_status"].type == "job_status_enum"
    assert columns["generated_urls"].type == "text[]"
    assert columns["remaining_credits"].type == "numeric(10, 2)"
    assert not columns["total_images"].constraints.nullable
    assert columns["error_message"].constraints.nullable
