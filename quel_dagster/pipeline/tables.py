"""The columns of the web app's tables as Dagster shows them."""

from __future__ import annotations

from functools import cache

from dagster import TableColumn, TableColumnConstraints, TableSchema

from quel_dagster.adapters.database.web_app_tables import tables

#: meanings that the name alone does not give (domain.md §2, §3, §8)
_MEANINGS: dict[str, dict[str, str]] = {
    "quel_production_jobs": {
        "job_id": "Pushed onto jobs:queue; tag quel/job_id of its runs.",
        "job_type": "single_batch, pipeline_stage, simple_general or simple_portrait.",
        "job_status": "pending → processing → completed, failed, cancelled (an operator) or user_cancelled.",
        "total_images": "Number of pictures the user was shown and the credits were estimated for.",
        "completed_images": "Grows with every picture; the web app's progress bar.",
        "failed_images": "Planned pictures that are missing at the end.",
        "job_input_data": "The browser's input; read leniently, with every repair logged.",
        "generated_attach_ids": "The pictures, in stage, combination, picture order.",
        "error_message": "Which pictures are missing and why.",
        "retry_count": "Number of starts after the first run.",
        "estimated_credits": "total_images × price.",
        "org_id": "The organization that pays; the job fails if it is not active.",
        "quel_production_path": "Category: fashion, beauty, eats, cinema or cartoon.",
    },
    "quel_attach": {
        "attach_id": "Used in job_input_data and generated_attach_ids.",
        "attach_file_path": "Storage key; when empty, attach_directory holds it.",
        "attach_file_size": "Bytes.",
    },
    "quel_production_photo": {
        "production_status": "Follows its jobs: processing while one is open, then their best end.",
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
        "used_by_member_id": "The member that an organization paid for.",
    },
}


@cache
def column_schema(table: str) -> TableSchema:
    """Return the columns of a table of domain.md §2, with types, constraints and meanings."""
    meanings = _MEANINGS.get(table, {})
    return TableSchema(
        columns=[
            TableColumn(
                column.name,
                column.kind,
                description=meanings.get(column.name),
                constraints=TableColumnConstraints(nullable=column.nullable, unique=column.primary_key),
            )
            for column in tables()[table]
        ]
    )
