"""Read and check the job files of `quel submit` and `quel plan`.

Stricter than `planning`, which reads jobs from browsers: a person can correct a file, so a mistyped name or value is
refused with its field and the nearest choice. docs/schema/job.json is made from `JobFile` (`make pages`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.model import Category, JobType
from quel_dagster.jobs.models import FOURTEEN_RATIOS

_CLOSE = 0.75


class _Part(BaseModel):
    """Unknown keys are kept: the web app's jobs hold more than this project reads."""

    model_config = ConfigDict(extra="allow", populate_by_name=False)


class ReferenceItem(_Part):
    """A picture that was uploaded before."""

    attachId: int = Field(description="attach_id of a row in quel_attach.")  # noqa: N815  the browser's name
    type: str = Field("none", description="What it shows: model, top, product, food, actor, bg, … (domain.md §5).")


class Combination(_Part):
    """One camera of a single_batch job: one unit that makes `quantity` pictures."""

    angle: str | None = Field(None, description="Such as front, side, profile, back; each category has its own.")
    shot: str | None = Field(None, description="Such as full, middle, tight; each category has its own.")
    quantity: int | None = Field(None, ge=1, description="Pictures of this combination.")
    fx: str | None = Field(None, description="cartoon: none, speed-lines, impact, aura, emotion.")


class Stage(_Part):
    """One stage of a pipeline_stage job."""

    stage_index: int = Field(0, description="Orders the results.")
    prompt: str | None = Field(None, description="Default: basePrompt.")
    quantity: int | None = Field(None, ge=1)
    individualImageAttachIds: list[ReferenceItem] = Field(default=[])  # noqa: N815
    cameraAngle: str | None = None  # noqa: N815
    shotType: str | None = None  # noqa: N815
    negative_prompt: str | None = None
    aspect_ratio: str | None = Field(None, alias="aspect-ratio")
    isPreEdited: bool | None = Field(None, description="eats: true keeps the look of the dish.")  # noqa: N815


class MergedImage(_Part):
    """One picture of a simple_portrait job."""

    mergedAttachId: int | None = Field(None, description="attach_id of the picture to start from.")  # noqa: N815
    wrappingPrompt: str | None = Field(None, description="Default: basePrompt.")  # noqa: N815
    photoIndex: int | None = None  # noqa: N815


class JobInput(_Part):
    """`job_input_data` (domain.md §4); which keys count depends on job_type."""

    basePrompt: str | None = Field(None, description="single_batch, and the default of stages and portraits.")  # noqa: N815
    prompt: str | None = Field(None, description="simple_general.")
    negative_prompt: str | None = None
    aspect_ratio: str | None = Field(None, alias="aspect-ratio", description="Such as 16:9 (default), 3:4, 1:1.")
    individualImageAttachIds: list[ReferenceItem] = Field(default=[], description="single_batch.")  # noqa: N815
    combinations: list[Combination] = Field(default=[], description="single_batch.")
    uploadedAttachIds: list[ReferenceItem] = Field(default=[], description="simple_general.")  # noqa: N815
    stages: list[Stage] = Field(default=[], description="pipeline_stage.")
    mergedImages: list[MergedImage] = Field(default=[], description="simple_portrait.")  # noqa: N815
    angle: str | None = Field(None, description="single_batch: default of its combinations.")
    shotType: str | None = Field(None, description="single_batch: default of its combinations.")  # noqa: N815
    userId: UUID | None = None  # noqa: N815
    category: str | None = None


class JobFile(_Part):
    """A job to submit: columns of quel_production_jobs and of its production (domain.md §2)."""

    model_config = ConfigDict(extra="forbid", title="A job of Quel")

    schema_: str | None = Field(None, alias="$schema", description="For editors; not read.")
    job_type: JobType
    total_images: int = Field(ge=1, description="Pictures to make, of all units together.")
    quel_production_path: Category = Field(Category.FASHION, description="The category.")
    production_name: str | None = Field(None, max_length=255)
    quel_member_id: UUID | None = Field(None, description="Who pays; not needed in an embedded database.")
    org_id: UUID | None = Field(None, description="The organization that pays instead.")
    stage_count: int = Field(1, ge=1)
    job_input_data: JobInput


def read_job_file(given: Any) -> JobFile:
    """Check a job file.

    Raises:
        JobInputError: names the field, and the choices or the nearest name.
    """
    if not isinstance(given, dict):
        raise JobInputError("the file", "holds no object; docs/examples has some")
    _refuse_misspelt(given)
    try:
        job = JobFile.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise JobInputError(path, _problem(path, first, given)) from None
    _refuse_misspelt_values(job)
    return job


def _refuse_misspelt_values(job: JobFile) -> None:
    """Refuse an aspect ratio that no model makes, and a camera that resembles one of the category; others are free."""
    style, data = style_of(job.quel_production_path), job.job_input_data
    ratios = [("", data.aspect_ratio), *((f"stages[{n}].", stage.aspect_ratio) for n, stage in enumerate(data.stages))]
    for path, ratio in ratios:
        if ratio is not None and ratio not in FOURTEEN_RATIOS:
            field = f"job_input_data.{path}aspect-ratio"
            raise JobInputError(field, f"{ratio!r:.40} is not one of {', '.join(FOURTEEN_RATIOS)}")
    cameras: list[tuple[str, str | None, Callable[[str], object], Collection[str]]] = [
        ("angle", data.angle, style.angle_named, style.angles),
        ("shotType", data.shotType, style.shot_named, style.shots),
    ]
    for number, combination in enumerate(data.combinations):
        cameras += [
            (f"combinations[{number}].angle", combination.angle, style.angle_named, style.angles),
            (f"combinations[{number}].shot", combination.shot, style.shot_named, style.shots),
            (f"combinations[{number}].fx", combination.fx, {"none": "none", **style.effects}.get, style.effects),
        ]
    for field, word, named, choices in cameras:
        if word and named(word) is None and get_close_matches(word.lower(), choices, 1, _CLOSE):
            problem = f"{word!r:.40} is not one of {', '.join(choices)}{_nearest(word, choices)}"
            raise JobInputError(f"job_input_data.{field}", problem)


def _problem(path: str, error: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    match error["type"]:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return f"no column of a job; there are {', '.join(_names(JobFile))}"
        case "enum":
            choices = [str(choice) for choice in (JobType if path == "job_type" else Category)]
            return f"{str(error['input'])!r:.60} is not one of {', '.join(choices)}{_nearest(error['input'], choices)}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}"


def _refuse_misspelt(given: Mapping[str, Any]) -> None:
    """Refuse an unknown key that resembles a known one which is not given; keep other unknown keys."""
    for path, holder, kind in _objects(given):
        names = _names(kind)
        for key in holder:
            near = get_close_matches(str(key), [name for name in names if name not in holder], 1, _CLOSE)
            if key not in names and near:
                raise JobInputError(f"{path}{'.' if path else ''}{key}", f"unknown; did you mean {near[0]}?")


def _objects(given: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], type[BaseModel]]]:
    yield "", given, JobFile
    data = given.get("job_input_data")
    if not isinstance(data, dict):
        return
    yield "job_input_data", data, JobInput
    lists: dict[str, type[BaseModel]] = {
        "individualImageAttachIds": ReferenceItem,
        "uploadedAttachIds": ReferenceItem,
        "combinations": Combination,
        "stages": Stage,
        "mergedImages": MergedImage,
    }
    for name, kind in lists.items():
        items = data.get(name)
        for number, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, dict):
                yield f"job_input_data.{name}[{number}]", item, kind


def _names(kind: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def _nearest(word: object, choices: Collection[str]) -> str:
    near = get_close_matches(str(word), choices, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def with_references(data: dict[str, Any], job_type: JobType, references: list[tuple[str, int]]) -> dict[str, Any]:
    """Return `job_input_data` with uploaded pictures added where this job type reads them.

    Args:
        references: type and attach id. A simple_portrait job takes them in order and ignores the type.

    Raises:
        JobInputError: a simple_portrait job has fewer entries without a picture.
    """
    items = [{"type": kind, "attachId": attach_id} for kind, attach_id in references]
    if not items:
        return data
    match job_type:
        case JobType.SINGLE_BATCH:
            return {**data, "individualImageAttachIds": [*data.get("individualImageAttachIds", []), *items]}
        case JobType.SIMPLE_GENERAL:
            return {**data, "uploadedAttachIds": [*data.get("uploadedAttachIds", []), *items]}
        case JobType.PIPELINE_STAGE:
            stages = [
                {**stage, "individualImageAttachIds": [*stage.get("individualImageAttachIds", []), *items]}
                for stage in data.get("stages", [])
            ]
            return {**data, "stages": stages}
        case JobType.SIMPLE_PORTRAIT:
            ids = [attach_id for _, attach_id in references]
            entries = [dict(entry) for entry in data.get("mergedImages", [])]
            free = [entry for entry in entries if not entry.get("mergedAttachId")]
            if len(free) < len(ids):
                raise JobInputError(
                    "job_input_data.mergedImages",
                    f"{len(free)} entries are without a mergedAttachId, and {len(ids)} references are given",
                )
            for entry, attach_id in zip(free, ids, strict=False):
                entry["mergedAttachId"] = attach_id
            return {**data, "mergedImages": entries}
