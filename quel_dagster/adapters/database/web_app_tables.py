"""Tables and enums of the web app (domain.md §2), parsed from `schema/web_app.sql`, which creates the embedded ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

#: The statements that create the tables, for databases that this project creates itself.
WEB_APP_SQL = (files("quel_dagster.adapters.database") / "schema" / "web_app.sql").read_text(encoding="utf-8")

_TABLE = re.compile(r"^create table public\.(\w+) \(\n(.*?)^\);", re.MULTILINE | re.DOTALL)
# a column stands four spaces in; a constraint of the table begins with one of these words
_COLUMN = re.compile(
    r"^ {4}(?!(?:unique|check|primary|foreign|constraint)\b)(\w+) +((?:public\.)?\w+(?:\([0-9, ]+\))?(?:\[\])?)(.*)$",
    re.MULTILINE,
)
_ENUM = re.compile(r"^create type public\.(\w+) as enum\s*\((.*?)\);", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        kind: the type as written, without the schema `public`: `varchar(50)`, `text[]`, `job_status_enum`.
    """

    name: str
    kind: str
    nullable: bool
    primary_key: bool


@cache
def tables() -> Mapping[str, tuple[Column, ...]]:
    """Return the columns of every table, by the table's name."""
    return {
        table: tuple(
            Column(
                name,
                kind.removeprefix("public."),
                nullable="not null" not in rest and "primary key" not in rest,
                primary_key="primary key" in rest,
            )
            for name, kind, rest in _COLUMN.findall(columns)
        )
        for table, columns in _TABLE.findall(WEB_APP_SQL)
    }


@cache
def enums() -> Mapping[str, tuple[str, ...]]:
    """Return the labels of every enum, by its name."""
    return {name: tuple(re.findall(r"'(\w+)'", labels)) for name, labels in _ENUM.findall(WEB_APP_SQL)}
