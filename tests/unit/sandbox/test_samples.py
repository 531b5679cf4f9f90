"""The sample jobs are what a browser would send, and plan to what they say."""

from __future__ import annotations

import io
import json
from collections import Counter
from uuid import UUID, uuid4

import pytest
from PIL import Image

from quel_dagster.jobs.composing import compose
from quel_dagster.jobs.model import Category, Job, JobStatus, JobType, Plan
from quel_dagster.jobs.planning import plan_job
from quel_dagster.sandbox.samples import SAMPLE_JOBS, SampleJob, reference_pictures

USER = UUID("7d444840-9dc0-11d1-b245-5ffdce74fad2")
ATTACH_IDS = {name: 39070 + i for i, name in enumerate(reference_pictures())}
JOBS = {job.label: job for job in SAMPLE_JOBS}


def planned(sample: SampleJob) -> Plan:
    return plan_job(
        Job(
            job_id=uuid4(),
            production_id=uuid4(),
            job_type=sample.job_type,
            job_status=JobStatus.PENDING,
            total_images=sample.total_images,
            input_data=json.loads(json.dumps(sample.input_data(ATTACH_IDS, USER))),
            member_id=USER,
            org_id=None,
            production_path=sample.production_path,
        )
    )


def test_all_categories_job_types_and_payers_are_shown() -> None:
    assert {job.production_path for job in SAMPLE_JOBS} == set(Category)
    assert {job.job_type for job in SAMPLE_JOBS} == set(JobType)
    assert {job.payer for job in SAMPLE_JOBS} == {"organization", "member"}
    assert sum(job.total_images for job in SAMPLE_JOBS) == 30


def test_the_fashion_jobs_are_one_of_each_type() -> None:
    fashion = [job for job in SAMPLE_JOBS if job.production_path == Category.FASHION]
    assert Counter(job.job_type for job in fashion) == Counter(JobType)
    by_type = {job.job_type: job for job in fashion}
    assert by_type[JobType.SINGLE_BATCH].payer == "organization"
    assert len(by_type[JobType.SINGLE_BATCH].input_data(ATTACH_IDS, USER)["combinations"]) == 4
    assert by_type[JobType.PIPELINE_STAGE].payer == "member"


def test_the_two_stage_example_is_the_one_of_the_contract() -> None:
    stages = JOBS["Two stages"].input_data({**ATTACH_IDS, "model": 39070, "top": 39071}, USER)["stages"]
    assert len(stages) == 2
    assert (stages[0]["prompt"], stages[0]["quantity"]) == ("Stage 0 prompt", 2)
    assert stages[0]["individualImageAttachIds"] == [
        {"attachId": 39070.0, "type": "model"},
        {"attachId": 39071.0, "type": "top"},
    ]


@pytest.mark.parametrize("label", JOBS)
def test_numbers_are_floats_as_a_browser_leaves_them(label: str) -> None:
    text = json.dumps(JOBS[label].input_data(ATTACH_IDS, USER))
    numbers: list[object] = []
    json.loads(text, parse_int=numbers.append)
    assert numbers == []
    assert str(USER) in text


@pytest.mark.parametrize("label", JOBS)
def test_a_sample_plans_to_what_it_says(label: str) -> None:
    sample = JOBS[label]
    plan = planned(sample)
    assert (plan.total, plan.category, plan.job_type) == (
        sample.total_images,
        sample.production_path,
        sample.job_type,
    )
    for repair in plan.repairs:
        assert " read as " in repair.problem, repair
    for unit in plan.units:
        left_out = [line for line in compose(unit, plan.category).warnings if "shot" not in line]
        assert left_out == [], "only what a tight or middle shot cannot show is left out"


def test_every_reference_picture_is_used_and_none_is_missing() -> None:
    wanted = {
        reference.attach_id
        for sample in JOBS.values()
        for unit in planned(sample).units
        for reference in unit.references
    }
    assert {name for name, attach_id in ATTACH_IDS.items() if attach_id not in wanted} == set()
    assert wanted <= set(ATTACH_IDS.values())


def test_reference_pictures_are_uploads_of_mixed_formats() -> None:
    pictures = reference_pictures()
    for name, picture in pictures.items():
        assert picture.name == name
        assert picture.file_name.startswith("upload-")
        assert picture.key == f"uploads/{picture.file_name}"
        with Image.open(io.BytesIO(picture.data)) as image:
            assert f"image/{(image.format or '').lower()}" == picture.mime_type
            assert 768 <= max(image.size) <= 1200
            image.load()
    assert {picture.mime_type for picture in pictures.values()} == {"image/jpeg", "image/png", "image/webp"}
    assert len({picture.data for picture in pictures.values()}) == len(pictures)
    assert reference_pictures() is pictures, "drawn once"
