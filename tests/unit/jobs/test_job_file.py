"""A job file: what is refused and how it is said, where uploaded pictures go, and that the examples are jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.job_file import read_job_file, with_references
from quel_dagster.jobs.model import Category, JobType

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.json"))

GOOD: dict[str, Any] = {
    "job_type": "single_batch",
    "total_images": 1,
    "job_input_data": {"basePrompt": "A coat", "combinations": [{"angle": "front", "shot": "full", "quantity": 1}]},
}


def refused(**changes: Any) -> str:
    with pytest.raises(JobInputError) as raised:
        read_job_file({**GOOD, **changes})
    return str(raised.value)


def test_typos_name_the_field_and_the_choices() -> None:
    said = refused(job_type="single_bach")
    assert said == (
        "job_type: 'single_bach' is not one of single_batch, pipeline_stage, simple_general, simple_portrait; "
        "did you mean single_batch?"
    )
    assert "did you mean beauty?" in refused(quel_production_path="beautty")
    assert (
        refused(total_image=2)
        == "total_image: no column of a job; there are "
        + ", ".join(
            (
                "$schema",
                "job_type",
                "total_images",
                "quel_production_path",
                "production_name",
                "quel_member_id",
                "org_id",
            )
        )
        + ", stage_count, job_input_data"
    )
    assert refused(job_input_data={"basePromt": "x"}) == "job_input_data.basePromt: unknown; did you mean basePrompt?"
    assert refused(job_input_data={"combinations": [{"qantity": 2}]}).startswith(
        "job_input_data.combinations[0].qantity: unknown; did you mean quantity?"
    )
    assert refused(total_images=0).startswith("total_images: ")
    assert refused(job_input_data={"stages": [{"quantity": "many"}]}).startswith("job_input_data.stages[0].quantity: ")


def test_misspelt_camera_and_unknown_ratio_name_the_choices_and_free_text_is_kept() -> None:
    def combination(path: str = "fashion", **values: Any) -> dict[str, Any]:
        return {"quel_production_path": path, "job_input_data": {"combinations": [{"quantity": 1}, values]}}

    assert refused(**combination(angle="frnt")) == (
        "job_input_data.combinations[1].angle: 'frnt' is not one of front, side, profile, back; did you mean front?"
    )
    assert refused(**combination(shot="ful")).endswith("did you mean full?")
    assert refused(**combination("cartoon", fx="speed-line")).endswith("did you mean speed-lines?")
    assert refused(job_input_data={"angle": "Profil"}).startswith("job_input_data.angle: 'Profil' is not one of ")
    assert "3:4" in refused(job_input_data={"aspect-ratio": "3:5"})
    assert refused(job_input_data={"stages": [{}, {"aspect-ratio": "0"}]}).startswith(
        "job_input_data.stages[1].aspect-ratio: '0' is not one of "
    )
    for kept in (
        combination(angle="from the balcony", shot="FULL"),
        combination("cinema", angle="Low Angle", shot="ECU"),
        combination("cartoon", fx="none"),
        {"job_input_data": {"aspect-ratio": "9:16"}},
    ):
        read_job_file({**GOOD, **kept})


def test_missing_fields_are_named() -> None:
    with pytest.raises(JobInputError, match=r"^job_type: missing"):
        read_job_file({})
    with pytest.raises(JobInputError, match="no object"):
        read_job_file([])


def test_what_the_web_app_writes_beside_is_kept() -> None:
    data = {**GOOD["job_input_data"], "globalContext": {"a": 1}, "individualImageAttachIds": [{"attachId": 39070.0}]}
    assert read_job_file({**GOOD, "job_input_data": data}).quel_production_path is Category.FASHION


@pytest.mark.parametrize(
    ("job_type", "data", "where"),
    [
        (JobType.SINGLE_BATCH, {}, lambda data: data["individualImageAttachIds"]),
        (JobType.SIMPLE_GENERAL, {}, lambda data: data["uploadedAttachIds"]),
        (JobType.PIPELINE_STAGE, {"stages": [{}, {}]}, lambda data: data["stages"][1]["individualImageAttachIds"]),
    ],
)
def test_references_go_where_the_job_type_looks(job_type: JobType, data: dict[str, Any], where: Any) -> None:
    got = with_references(data, job_type, [("model", 7), ("top", 8)])
    assert where(got) == [{"type": "model", "attachId": 7}, {"type": "top", "attachId": 8}]


def test_portraits_take_references_in_order_and_refuse_too_many() -> None:
    data = {"mergedImages": [{"mergedAttachId": 5}, {}]}
    assert with_references(data, JobType.SIMPLE_PORTRAIT, [("model", 7)])["mergedImages"][1] == {"mergedAttachId": 7}
    with pytest.raises(JobInputError, match="1 entries are without"):
        with_references(data, JobType.SIMPLE_PORTRAIT, [("model", 7), ("model", 8)])


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_is_a_job(file: Path) -> None:
    assert read_job_file(json.loads(file.read_text(encoding="utf-8"))).schema_ == "../schema/job.json"


def test_there_is_an_example_of_every_category_and_job_type() -> None:
    jobs = [read_job_file(json.loads(file.read_text(encoding="utf-8"))) for file in EXAMPLES]
    assert {job.job_type for job in jobs} == set(JobType)
    assert {job.quel_production_path for job in jobs} == set(Category)
