"""Rows become values where they are read; a row of another shape is one line that names the columns."""

from __future__ import annotations

from typing import Any

import pytest

from quel_dagster.adapters.database.rows import value_of
from quel_dagster.errors import RowShapeError
from quel_dagster.jobs.model import Value


class Balance(Value):
    owner: str
    credit: int | None


@pytest.mark.parametrize("columns", [{"owner": "a", "credit": 5}, {"owner": "a", "credit": None}])
def test_row_that_fits_becomes_a_value(columns: dict[str, Any]) -> None:
    assert value_of(Balance, columns) == Balance(**columns)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"owner": "a"}, "column credit is missing"),
        ({"owner": "a", "credit": 5, "limit": 9}, "column limit is unexpected"),
        ({"owner": None, "credit": 5}, "column owner: Input should be a valid string"),
        ({"owner": "a", "credit": "sk-secret\nline"}, "column credit: Input should be a valid integer"),
        ({"limit": 9}, "column owner is missing; column credit is missing; column limit is unexpected"),
    ],
)
def test_row_of_another_shape_names_its_columns_in_one_line(columns: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowShapeError) as caught:
        value_of(Balance, columns)
    message = str(caught.value)
    assert message.startswith(f"A row of the database is no Balance: {problem}")
    assert "quel doctor" in message
    assert "\n" not in message
    assert "sk-secret" not in message
