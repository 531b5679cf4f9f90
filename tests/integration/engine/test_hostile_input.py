"""`job_input_data` that Python's JSON refuses: the job fails with one line that names the field, and is not retried."""

from __future__ import annotations

import pytest

from quel_dagster.engine.engine import Engine
from quel_dagster.errors import JobInputError
from quel_dagster.sandbox.gemini_server import GeminiStandIn
from tests.integration.conftest import Look, Office
from tests.integration.engine.conftest import run_job

REFUSED = {
    '{"basePrompt": "x", "z": 1e5000}': "z: a number of 5,001 digits; it cannot be read",
    '{"basePrompt": "x", "z": ' + "[" * 1000 + "]" * 1000 + "}": f"{('z' + '[0]' * 63)[:100]}: nested deeper than 64 "
    "levels; it cannot be read",
}


@pytest.mark.parametrize("text", REFUSED)
async def test_json_that_python_refuses_fails_the_job_with_the_field(
    text: str, office: Office, sql: Look, engine: Engine, gemini: GeminiStandIn
) -> None:
    job = await office.job(1)
    await sql.all("update quel_production_jobs set job_input_data = %s::jsonb where job_id = %s", text, job.job_id)

    run = await run_job(engine, job)

    assert isinstance(run.error, JobInputError)
    row = await sql.one(
        "select job_status, error_message from quel_production_jobs where job_id = %s", job.job_id
    )  # not job_input_data: the driver's own reader refuses it
    assert row == {"job_status": "failed", "error_message": REFUSED[text]}
    assert gemini.state.report()["total"] == 0


@pytest.mark.parametrize("ids", ["[1" + "0" * 30 + "]", "[1" + "0" * 5000 + ', "x", null]', '{"0": 1}', '"[1]"'])
@pytest.mark.parametrize("column", ["attach_ids", "generated_attach_ids"])
async def test_an_id_list_of_nonsense_costs_no_picture(
    ids: str, column: str, office: Office, sql: Look, engine: Engine
) -> None:
    job = await office.job(2)
    table, key, value = {
        "attach_ids": ("quel_production_photo", "production_id", job.production_id),
        "generated_attach_ids": ("quel_production_jobs", "job_id", job.job_id),
    }[column]
    await sql.all(f"update {table} set {column} = %s::jsonb where {key} = %s", ids, value)  # noqa: S608 - own names

    run = await run_job(engine, job)

    assert run.error is None
    row = await sql.one(
        "select job_status, completed_images, error_message from quel_production_jobs where job_id = %s", job.job_id
    )
    assert row == {"job_status": "completed", "completed_images": 2, "error_message": None}
