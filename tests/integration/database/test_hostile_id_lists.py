"""Id lists that others wrote: numbers beyond bigint, and what is no number, break no statement."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.conftest import Look

LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("items", "ids"),
    [
        ([1, "2", 3.0, "4.0"], [1, 2, 3, 4]),
        ([LARGEST, str(LARGEST), LARGEST + 1, 10**30, 10**5000, "9" * 40, -1, -(2**63) - 1], [LARGEST, LARGEST]),
        (["", " 1", "1e3", "x", None, True, [1], {"a": 1}, 1.5, "١"], []),
        ({"0": 1}, []),
        ("[1]", []),
        (None, []),
        (10**30, []),
    ],
)
async def test_what_is_no_id_is_left_out(items: Any, ids: list[int], sql: Look) -> None:
    text = json.dumps(items) if not isinstance(items, list) else f"[{','.join(map(_json, items))}]"
    rows = await sql.all("select attach_id from quel_dagster.attach_ids(%s::jsonb) order by place", text)
    assert [row["attach_id"] for row in rows] == ids


def _json(item: Any) -> str:
    # json.dumps refuses integers of thousands of digits
    return "1" + "0" * 5000 if isinstance(item, int) and item == 10**5000 else json.dumps(item)
