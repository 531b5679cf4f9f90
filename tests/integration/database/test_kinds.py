"""What a row is: one rule in SQL for the older worker's kinds, one for categories (domain.md §1, §4)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quel_dagster.adapters.database.figures import backlog
from quel_dagster.adapters.database.job_list import Filter, matching_jobs
from quel_dagster.adapters.database.store import Database
from quel_dagster.jobs.kinds import ForeignKind
from quel_dagster.jobs.model import Category
from tests.integration.conftest import Look, Office

MASK = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("path", "input_data", "kind"),
    [
        (None, {"prompt": "fill", "maskDataUrl": MASK}, ForeignKind.INPAINTING),
        ("fashion", {"maskDataUrl": {"url": MASK}}, ForeignKind.INPAINTING),
        ("fashion", json.dumps({"maskDataUrl": MASK}), ForeignKind.INPAINTING),
        ("multiview", {"sourceAttachId": 7, "angles": [0, 45]}, ForeignKind.MULTIVIEW),
        (" MultiView\n", {}, ForeignKind.MULTIVIEW),
        ("landing", {"templatePrompt": "a page"}, ForeignKind.LANDING),
        ("fashion", {"prompt": "a dress"}, None),
        ("fashion", {"maskDataUrl": None}, None),
        ("fashion", {"maskDataUrl": ""}, None),
        ("fashion", {"prompt": 'the word "maskDataUrl"'}, None),
        (None, [MASK], None),
        ("Shoes", "maskDataUrl", None),
    ],
)
async def test_kind_of_a_row(
    office: Office, database: Database, path: Any, input_data: Any, kind: ForeignKind | None
) -> None:
    job = await office.job(path=path, input_data=input_data)
    described = (await database.recovery.describe_jobs([job.job_id]))[job.job_id]
    assert described.foreign_kind is kind


async def test_job_type_modify_is_inpainting(office: Office, database: Database, sql: Look) -> None:
    """The web app's table of today refuses this type; that of an older one may not."""
    job = await office.job()
    constraints = await sql.all(
        "select conname, pg_get_constraintdef(oid) as rule from pg_constraint"
        " where conrelid = 'quel_production_jobs'::regclass and contype = 'c'"
    )
    for constraint in constraints:
        await sql.all(f"alter table quel_production_jobs drop constraint {constraint['conname']}")
    try:
        await sql.all("update quel_production_jobs set job_type = 'Modify' where job_id = %s", job.job_id)
        described = (await database.recovery.describe_jobs([job.job_id]))[job.job_id]
        assert described.foreign_kind is ForeignKind.INPAINTING
        await sql.all("update quel_production_jobs set job_type = 'simple_general' where job_id = %s", job.job_id)
    finally:
        for constraint in constraints:
            name, rule = constraint["conname"], constraint["rule"]
            await sql.all(f"alter table quel_production_jobs add constraint {name} {rule} not valid")


async def test_path_of_the_production_counts_where_the_job_has_none(
    office: Office, database: Database, sql: Look
) -> None:
    job = await office.job(path=None)
    await sql.all(
        "update quel_production_photo set quel_production_path = 'landing' where production_id = %s", job.production_id
    )
    assert (await database.recovery.describe_jobs([job.job_id]))[job.job_id].foreign_kind is ForeignKind.LANDING


async def test_sweep_and_backlog_pass_over_foreign_rows(office: Office, database: Database, sql: Look) -> None:
    before = await backlog(database)
    foreign, ours = await office.job(path="multiview"), await office.job()
    after = await backlog(database)
    assert after.pending - before.pending == 1
    opened = await database.recovery.open_jobs()
    assert ours.job_id in opened
    assert foreign.job_id not in opened
    for job in (foreign, ours):
        await sql.all("alter table quel_production_jobs disable trigger user")
        await sql.all(
            "update quel_production_jobs set created_at = now() - interval '1 day', updated_at = null"
            " where job_id = %s",
            job.job_id,
        )
        await sql.all("alter table quel_production_jobs enable trigger user")
    stranded = await database.recovery.stranded_jobs(pending_seconds=60, grace_seconds=60)
    assert ours.job_id in stranded
    assert foreign.job_id not in stranded


@pytest.mark.parametrize(
    "path",
    [None, "", "Beauty", " beauty ", "BEAUTY\n", "Shoes", "shoes", "eats", "Cinema", "cartoon", "Fashion", "뷰티"],
)
async def test_category_is_the_one_that_is_made_in_sql_as_in_python(
    office: Office, database: Database, path: str | None
) -> None:
    job = await office.job(path=path)
    made = Category.of_path(path)
    assert (await database.jobs.report([job.job_id]))[job.job_id].category == made.value
    assert (await database.recovery.describe_jobs([job.job_id]))[job.job_id].category is made
    assert (await database.jobs.find_job(job.job_id)).category is made
    (listed,) = await matching_jobs(database, Filter(member_id=job.member_id, category=made), most=9)
    assert (listed.job_id, listed.category) == (job.job_id, made.value)
