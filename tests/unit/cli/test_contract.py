"""The tables that the doctor wants are those of domain.md §2, read from the script that makes them."""

from __future__ import annotations

import pytest

from quel_dagster.cli.doctor.contract import (
    NEEDED_PRIVILEGES,
    differences,
    expected_enums,
    expected_tables,
    family,
)


def test_every_table_and_column_is_read() -> None:
    tables = expected_tables()
    assert {name: len(columns) for name, columns in tables.items()} == {
        "quel_member": 9,
        "quel_organization": 11,
        "quel_organization_member": 6,
        "quel_attach": 9,
        "quel_production_photo": 18,
        "quel_production_jobs": 24,
        "quel_credits": 13,
    }
    jobs = tables["quel_production_jobs"]
    assert jobs["job_id"] == "uuid"
    assert jobs["job_type"] == "text"
    assert jobs["job_status"] == "job_status_enum"
    assert jobs["remaining_credits"] == "numeric"
    assert jobs["generated_urls"] == "text[]"
    assert jobs["created_at"] == "timestamp with time zone"
    assert tables["quel_attach"]["attach_id"] == "bigint"
    assert tables["quel_credits"]["amount"] == "integer"
    assert NEEDED_PRIVILEGES.keys() < tables.keys()


def test_every_status_is_read() -> None:
    assert expected_enums() == {
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
    whole = {table: dict(columns) for table, columns in expected_tables().items()}
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
