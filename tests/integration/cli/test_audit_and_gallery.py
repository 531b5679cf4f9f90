"""`quel audit` and `quel gallery`: what they look at, and how they end."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.jobs.model import JobStatus
from quel_dagster.settings import Settings
from tests.integration.cli.conftest import WEB_UI, Quel, Runs
from tests.integration.conftest import Look, NewlyMade, Office


def picture(colour: str = "teal") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(out, "WEBP")
    return out.getvalue()


@pytest.fixture
async def store(variables: Mapping[str, str]) -> AsyncIterator[ObjectStore]:
    opened = open_store(Settings.read())
    yield opened
    await opened.aclose()


async def whole(office: Office, store: ObjectStore, *, total: int = 1, prompt: str = "a red dress") -> NewlyMade:
    """A completed job with its pictures in the store."""
    job = await office.job(total, input_data={"prompt": prompt})
    claim = await office.processing(job)
    for number in range(total):
        made = await office.commit(job, claim, number)
        await store.put(made.key, picture(), content_type="image/webp")
        data = picture()
        await office.sql.all(
            "update quel_attach set attach_file_size = %s where attach_id = %s", len(data), made.attach_id
        )
        await office.sql.all(
            "update quel_dagster.picture_slot set size = %s, sha256 = %s where attach_id = %s",
            len(data),
            hashlib.sha256(data).hexdigest(),
            made.attach_id,
        )
    await office.database.work.settle(
        job.job_id, claim.token, status=JobStatus.COMPLETED, total=total, error=None, inputs=0
    )
    return job


# --- audit -----------------------------------------------------------------------------------------------


async def test_a_clean_audit(quel: Quel, office: Office, store: ObjectStore) -> None:
    job = await whole(office, store, total=2)
    out = (await quel("audit", job.job_id, "--price", 20)).ok().out
    assert "No breach" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("✓")] == [f"I{n}" for n in range(1, 15)]
    data = (await quel("audit", job.job_id, "--json")).ok().data
    assert (data["clean"], data["complete"]) == (True, True)
    assert {finding["code"]: finding["checked"] for finding in data["findings"]}["I12"] == 2


async def test_a_breach_names_its_ids_and_the_remedy_and_ends_with_1(
    quel: Quel, office: Office, store: ObjectStore, sql: Look
) -> None:
    job = await whole(office, store)
    await sql.all("update quel_production_jobs set completed_images = 7 where job_id = %s", job.job_id)
    answer = (await quel("audit", job.job_id)).wrong()
    assert answer.err == ""
    assert f"✗ job {job.job_id} has 1 pictures, completed_images says 7; set completed_images" in answer.out
    assert "1 breach," in answer.out
    data = (await quel("audit", job.job_id, "--json")).wrong().data
    assert data["clean"] is False
    (finding,) = [finding for finding in data["findings"] if finding["breaches"]]
    assert (finding["code"], finding["breaches"][0]["ids"]) == ("I5", {"job": str(job.job_id)})


async def test_the_scope_of_an_audit(quel: Quel, office: Office, store: ObjectStore, sql: Look) -> None:
    job, other = await whole(office, store, total=2), await whole(office, store)
    await sql.all("update quel_production_jobs set completed_images = 7 where job_id = %s", other.job_id)
    data = (await quel("audit", job.job_id, "--json", "--sample", 1, "--since", "1h")).ok().data
    checked = {finding["code"]: finding["checked"] for finding in data["findings"]}
    assert (checked["I5"], checked["I12"]) == (1, 1)
    assert "was charged -20, not the price" in (await quel("audit", job.job_id, "--price", 30)).wrong().out


async def test_skipped_objects_are_no_failure_but_an_unreachable_part_is(
    quel: Quel, office: Office, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await whole(office, store)
    answer = (await quel("audit", job.job_id, "--no-objects", "--json")).ok()
    assert answer.data["complete"] is False
    monkeypatch.setenv("STORAGE_URL", "s3://bucket?endpoint=http://127.0.0.1:9")
    assert "AWS_ACCESS_KEY_ID" in (await quel("audit", job.job_id)).wrong(2).err


# --- gallery ---------------------------------------------------------------------------------------------


async def test_a_gallery_of_a_job(quel: Quel, office: Office, store: ObjectStore, runs: Runs, tmp_path: Path) -> None:
    job = await whole(office, store, total=2, prompt="a <b>red</b> dress")
    run = runs.add(job.job_id)
    await store.put("uploads/upload-1.webp", picture("navy"), content_type="image/webp")
    out = (await quel("gallery", job.job_id, "--output", tmp_path / "new" / "page.html")).ok().out
    assert out.endswith("1 job, 2 pictures\n")
    page = (tmp_path / "new" / "page.html").read_text()
    for shown in (str(job.job_id), "a &lt;b&gt;red&lt;/b&gt; dress", "member Mina", f"{WEB_UI}/runs/{run}", "Test"):
        assert shown in page
    assert page.count("data:image/webp") == 2


async def test_a_gallery_shows_references_and_what_is_missing(
    quel: Quel, office: Office, store: ObjectStore, tmp_path: Path
) -> None:
    await store.put("uploads/upload-dress.webp", picture("navy"), content_type="image/webp")
    reference = await office.database.web_app.insert_attach(
        name="dress", path="upload-dress.webp", size=1, mime_type="image/webp", storage="file"
    )
    member = await office.member()
    org = await office.organization(member)
    job = await office.job(
        2,
        member_id=member,
        org_id=org,
        input_data={
            "prompt": "x",
            "uploadedAttachIds": [{"attachId": reference, "type": "top"}, {"attachId": 4_000_000_009, "type": "model"}],
        },
    )
    claim = await office.processing(job)
    await office.commit(job, claim, 1)  # without an object
    foreign = await office.foreign_picture(job)
    await quel("gallery", job.job_id, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/webp") == 2, "the one reference, beside each of the two planned pictures"
    assert f"top · {reference}" in page
    assert page.count("no picture") >= 3
    assert str(foreign) in page
    assert "organization Atelier" in page


async def test_a_gallery_of_a_day(quel: Quel, office: Office, store: ObjectStore, tmp_path: Path) -> None:
    job = await whole(office, store)
    bad = await office.job(100_000)
    await quel("gallery", "--since", "1h", "--limit", "2", "-o", tmp_path / "day.html")
    page = (tmp_path / "day.html").read_text()
    assert page.index(str(bad.job_id)) < page.index(str(job.job_id)), "newest first"
    assert "total_images" in page, "why there is no plan"


async def test_a_gallery_of_nothing(quel: Quel, office: Office, tmp_path: Path) -> None:
    job = await office.job(1)
    assert "--since" in (await quel("gallery")).wrong(2).err
    assert "--since" in (await quel("gallery", job.job_id, "--since", "1h")).wrong(2).err
    assert "No job was created or ended" in (await quel("gallery", "--since", "0s")).wrong().err
    (tmp_path / "file").write_text("")
    assert "file" in (await quel("gallery", job.job_id, "-o", tmp_path / "file" / "page.html")).wrong().err
