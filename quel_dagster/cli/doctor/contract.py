"""What the web app's tables must be (domain.md §2), read from the very script that makes the embedded ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from quel_dagster.adapters.database.store import schema_sql

#: What this project does with each table; `quel submit` alone inserts jobs.
NEEDED_PRIVILEGES: Mapping[str, frozenset[str]] = {
    "quel_production_jobs": frozenset({"select", "update"}),
    "quel_production_photo": frozenset({"select", "update"}),
    "quel_attach": frozenset({"select", "insert"}),
    "quel_credits": frozenset({"select", "insert"}),
    "quel_organization": frozenset({"select", "update"}),
    "quel_member": frozenset({"select", "update"}),
}

_TABLE = re.compile(r"^create table public\.(\w+) \(\n(.*?)^\);", re.MULTILINE | re.DOTALL)
# a column stands four spaces in; a constraint of the table begins with one of these words, followed by a bracket
_COLUMN = re.compile(r"^ {4}(?!unique|check|primary|foreign)(\w+) +((?:public\.)?\w+(?:\[\])?)", re.MULTILINE)
_ENUM = re.compile(r"^create type public\.(\w+) as enum\s*\((.*?)\);", re.MULTILINE | re.DOTALL)

_SYNONYMS = {
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "timestamptz": "timestamp with time zone",
    "varchar": "text",
    "character varying": "text",
}


@cache
def expected_tables() -> Mapping[str, Mapping[str, str]]:
    """The type of every column, by table and column."""
    return {
        table: {column: family(kind) for column, kind in _COLUMN.findall(columns)}
        for table, columns in _TABLE.findall(schema_sql("web_app"))
    }


@cache
def expected_enums() -> Mapping[str, tuple[str, ...]]:
    """The labels of every enum."""
    return {name: tuple(re.findall(r"'(\w+)'", labels)) for name, labels in _ENUM.findall(schema_sql("web_app"))}


def family(kind: str) -> str:
    """A type without its length and schema; text of any length is text."""
    bare = re.sub(r"\([^)]*\)", "", kind).removeprefix("public.").replace('"', "").strip()
    array = "[]" if bare.endswith("[]") else ""
    bare = bare.removesuffix("[]").strip()
    return _SYNONYMS.get(bare, bare) + array


def differences(found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What is missing or of another type, one clause each. More tables and columns than these are fine."""
    for table, columns in expected_tables().items():
        if table not in found:
            yield f"table {table} is missing"
            continue
        for column, kind in columns.items():
            if column not in found[table]:
                yield f"{table}.{column} is missing"
            elif family(found[table][column]) != kind:
                yield f"{table}.{column} is {found[table][column]}, not {kind}"
