"""Compare a database with the web app tables (domain.md §2); list the privileges that this project needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from quel_dagster.adapters.database.web_app_tables import tables

#: privileges that this project needs per table; only `quel submit` inserts jobs
NEEDED_PRIVILEGES: Mapping[str, frozenset[str]] = {
    "quel_production_jobs": frozenset({"select", "update"}),
    "quel_production_photo": frozenset({"select", "update"}),
    "quel_attach": frozenset({"select", "insert"}),
    "quel_credits": frozenset({"select", "insert"}),
    "quel_organization": frozenset({"select", "update"}),
    "quel_member": frozenset({"select", "update"}),
    "quel_organization_member": frozenset({"select"}),
}

_SYNONYMS = {
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "timestamptz": "timestamp with time zone",
    "varchar": "text",
    "character varying": "text",
}


def family(kind: str) -> str:
    """Return a type without its length and schema; text types of any length are text."""
    bare = re.sub(r"\([^)]*\)", "", kind).removeprefix("public.").replace('"', "").strip()
    array = "[]" if bare.endswith("[]") else ""
    bare = bare.removesuffix("[]").strip()
    return _SYNONYMS.get(bare, bare) + array


def differences(found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield what is missing or of another type, one clause each. Additional tables and columns are fine."""
    for table, columns in tables().items():
        if table not in found:
            yield f"table {table} is missing"
            continue
        for column in columns:
            name, expected = column.name, family(column.kind)
            if name not in found[table]:
                yield f"{table}.{name} is missing"
            elif family(found[table][name]) != expected:
                yield f"{table}.{name} is {found[table][name]}, not {expected}"
