"""Rows that users and other programs wrote to harm their readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli.conftest import Quel
from tests.integration.conftest import Look, Office
from tests.integration.engine.test_hostile_input import REFUSED


@pytest.mark.parametrize("text", REFUSED)
async def test_json_that_python_refuses_is_one_line_of_every_command(
    text: str, quel: Quel, office: Office, sql: Look, tmp_path: Path
) -> None:
    job = await office.job(1)
    await sql.all("update quel_production_jobs set job_input_data = %s::jsonb where job_id = %s", text, job.job_id)
    assert REFUSED[text] in (await quel("show", job.job_id)).ok().out
    assert (await quel("show", job.job_id, "--json")).ok().data
    page = tmp_path / "page.html"
    await quel("gallery", job.job_id, "--output", page)
    assert REFUSED[text] in page.read_text()
    (await quel("audit", job.job_id)).ok()


async def test_a_name_forges_no_line_of_show(quel: Quel, office: Office, sql: Look) -> None:
    job = await office.job(1)
    name = "x\nstatus      completed\x9b31m\u202e"
    await sql.all(
        "update quel_production_photo set production_name = %s where production_id = %s", name, job.production_id
    )
    text = (await quel("show", job.job_id)).ok().out
    assert all(line.isprintable() for line in text.split("\n"))
    assert not [line for line in text.split("\n") if line.startswith("status") and "completed" in line]
    answer = (await quel("show", job.job_id, "--json")).ok()
    assert answer.data["production"]["production_name"] == name
    assert all(line.isprintable() for line in answer.out.split("\n"))


async def test_an_id_beyond_bigint_is_fatal_to_no_command(quel: Quel, office: Office, sql: Look) -> None:
    job = await office.job(1)
    await sql.all(
        "update quel_production_photo set attach_ids = '[1000000000000000000000000000000, 7]' where production_id = %s",
        job.production_id,
    )
    answer = await quel("audit", job.job_id, "--json")
    assert answer.code in {0, 1}, answer
    assert answer.data["findings"]
    (await quel("show", job.job_id)).ok()
    (await quel("list", "--member", job.member_id)).ok()


async def test_column_of_another_shape_is_one_line(quel: Quel, office: Office, sql: Look) -> None:
    member_id = await office.member(credit=100)
    address = await sql.value("select quel_email from quel_member where quel_member_id = %s", member_id)
    await sql.all("alter table quel_member alter column quel_email drop not null")
    try:
        await sql.all("update quel_member set quel_email = null where quel_member_id = %s", member_id)
        answer = (await quel("member", member_id)).wrong()
    finally:
        await sql.all("update quel_member set quel_email = %s where quel_member_id = %s", address, member_id)
        await sql.all("alter table quel_member alter column quel_email set not null")
    assert "no Member: column email: Input should be a valid string" in answer.err
