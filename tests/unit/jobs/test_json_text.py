"""JSON that PostgreSQL stores and Python's own reader refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.json_text import MARK, MOST_DIGITS, MOST_LEVELS, read_json, unreadable_part
from quel_dagster.jobs.reading import read_document

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_python_reads_is_read_as_python_reads_it(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, indent=1)):
        assert read_json(text) == value
        assert read_json(text.encode()) == value
    assert unreadable_part({"": [value]}) is None or MARK in json.dumps(value, ensure_ascii=False)


def test_a_bracket_in_a_text_is_no_level() -> None:
    value = {"a": ["[" * 5000, '\\"]}[{', "\\"]}
    assert read_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ('{"a": 1, "z": ' + "1" * (MOST_DIGITS + 1) + "}", "z", "a number of 4,301 digits"),
        ('{"a": {"b": [0, -1' + "0" * 5000 + "]}}", "a.b[1]", "a number of 5,001 digits"),
        ('{"z": 1e5000}', "z", "a number beyond 10^308"),
        ('{"z": 1' + "0" * 5000 + ".5}", "z", "a number beyond 10^308"),
        ('{"z": ' + "[" * 1000 + "]" * 1000 + "}", "z" + "[0]" * (MOST_LEVELS - 1), "nested deeper than 64 levels"),
        ('{"z": ' + "[" * 1000 + "]" * 1000 + ', "y": 1e999}', "z" + "[0]" * 63, "nested deeper than 64 levels"),
        ('{"z":' * 100_000 + "1" + "}" * 100_000, ".".join("z" * 64), "nested deeper than 64 levels"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_there(text: str, path: str, problem: str) -> None:
    value = read_json(text)
    assert unreadable_part(value) == (path, problem)
    assert "a" not in value or value["a"]
    with pytest.raises(JobInputError) as caught:
        read_document(value, [])
    assert str(caught.value) == f"{path[:100]}: {problem}; it cannot be read"


@pytest.mark.parametrize("text", ["{", "[1,]", "[[}}", '{"a": "', "]" * 100, "[" * 100, "[" * 100_000, "nan-"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_json(text)


def test_json_text_within_a_document_is_read_in_the_same_way() -> None:
    document = read_document({"stages": json.dumps([{"prompt": 0}]).replace("0", "1e999")}, [])
    with pytest.raises(JobInputError, match=r"^stages\[0\]\.prompt: a number beyond 10\^308; it cannot be read$"):
        document.member("stages").items(9, item_keys=())
    with pytest.raises(JobInputError, match=r"^job_input_data\.z: a number"):
        read_document('{"z": 1e999}', [])
