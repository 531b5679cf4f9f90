"""The columns of the web app's tables as Dagster shows them, read from the very statements that create them."""

from __future__ import annotations

import re
from functools import cache

from dagster import TableColumn, TableColumnConstraints, TableSchema

from quel_dagster.adapters.database.store import schema_sql

_TABLE = re.compile(r"^create table public\.(\w+) \(\n(.*?)^\);", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"^    (\w+) +((?:public\.)?[a-z_]+(?:\([0-9, ]+\))?(?:\[\])?)(.*)$", re.MULTILINE)
_NOT_COLUMNS = {"check", "unique", "primary", "foreign", "constraint"}

#: what a name alone does not say (domain.md §2, §3, §8)
_MEANINGS: dict[str, dict[str, str]] = {
    "quel_production_jobs": {
        "job_id": "Pushed onto jobs:queue; tag quel/job_id of its runs.",
        "job_type": "single_batch, pipeline_stage, simple_general or simple_portrait.",
        "job_status": "pending → processing → completed, failed, cancelled (an operator) or user_cancelled.",
        "total_images": "Pictures that the user was shown and the credits were estimated for.",
        "completed_images": "Grows with every picture; the web app's progress bar.",
        "failed_images": "Planned pictures that are missing at the end.",
        "job_input_data": "What the browser sent; read leniently, with every repair noted.",
        "generated_attach_ids": "The pictures, in stage, combination, picture order.",
        "error_message": "Which pictures are missing and why.",
        "retry_count": "How often it began again after its first run.",
        "estimated_credits": "total_images × price.",
        "org_id": "Pays while the organization is active; else the member does.",
        "quel_production_path": "Category: fashion, beauty, eats, cinema or cartoon.",
    },
    "quel_attach": {
        "attach_id": "What job_input_data and generated_attach_ids name.",
        "attach_file_path": "Storage key; when empty, attach_directory holds it.",
        "attach_file_size": "Bytes.",
    },
    "quel_production_photo": {
        "production_status": "Follows its jobs: processing while one is open, then the best end of them.",
        "attach_ids": "Earlier ids first, then those of its jobs; no id twice.",
        "generated_image_count": "Pictures of all its jobs.",
        "processing_duration_seconds": "From the first start to the last end.",
        "input_images_count": "Different reference pictures.",
    },
    "quel_credits": {
        "user_id": "The member, also when an organization pays.",
        "transaction_type": "purchase, DEDUCT or refund.",
        "amount": "Negative for DEDUCT: the price of one picture.",
        "balance_after": "The payer's balance right after this row.",
        "attach_idx": "The picture that was paid for.",
        "org_id": "Set when an organization paid.",
        "used_by_member_id": "For whom an organization paid.",
    },
}


@cache
def column_schema(table: str) -> TableSchema:
    """Columns of a table of domain.md §2, with types, constraints and what they mean."""
    body = dict(_TABLE.findall(schema_sql("web_app")))[table]
    meanings = _MEANINGS.get(table, {})
    return TableSchema(
        columns=[
            TableColumn(
                name,
                kind.removeprefix("public."),
                description=meanings.get(name),
                constraints=TableColumnConstraints(
                    nullable="not null" not in rest and "primary key" not in rest, unique="primary key" in rest
                ),
            )
            for name, kind, rest in _COLUMN.findall(body)
            if name not in _NOT_COLUMNS
        ]
    )
