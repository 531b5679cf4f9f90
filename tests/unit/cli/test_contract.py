"""The tables that the doctor wants are those of domain.md §2, read from the script that makes them."""

from __future__ import annotations

import pytest

from quel_dagster.adapters.database.web_app_tables import enums, tables
from quel_dagster.cli.doctor.contract import NEEDED_PRIVILEGES, differences, family


def test_a_privilege_is_needed_on_tables_that_exist() -> None:
    assert NEEDED_PRIVILEGES.keys() <= tables().keys()


def test_every_status_is_read() -> None:
    assert enums() == {
        "job_status_enum": ("pending", "processing", "completed", "failed", "cancelled", "user_cancelled"),
        "production_status_enum": ("pending", "processing", "completed", "failed", "user_cancelled"),
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("character varying(50)", "text"),
        ("varchar", "text"),
        ("numeric(10,2)", "numeric"),
        ("timestamp with time zone", "timestamp with time zone"),
        ("timestamp(6) with time zone", "timestamp with time zone"),
        ("public.job_status_enum", "job_status_enum"),
        ("character varying(20)[]", "text[]"),
        ("int", "integer"),
    ],
)
def test_a_family_of_types(kind: str, expected: str) -> None:
    assert family(kind) == expected


def test_differences_are_named() -> None:
    whole = {table: {column.name: column.kind for column in columns} for table, columns in tables().items()}
    assert [*differences(whole)] == []
    del whole["quel_credits"]
    del whole["quel_attach"]["attach_file_size"]
    whole["quel_member"]["quel_member_credit"] = "integer"
    whole["quel_member"]["more"] = "text"
    assert [*differences(whole)] == [
        "quel_member.quel_member_credit is integer, not bigint",
        "quel_attach.attach_file_size is missing",
        "table quel_credits is missing",
    ]
