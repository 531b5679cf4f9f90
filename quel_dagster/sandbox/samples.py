"""Sample jobs as the web app would insert them, and the reference pictures that their users uploaded.

Ten jobs over all five categories and all four job types, thirty pictures in all: what `quel demo` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal
from uuid import UUID

from quel_dagster.jobs.model import Category, JobType

Payer = Literal["organization", "member"]
#: attachId in the input of a job, by the name of a reference picture
AttachIds = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ReferencePicture:
    """An uploaded picture."""

    name: str
    #: the type that jobs give it, one of domain.md §5
    type: str
    #: `attach_file_path` as the web app writes it; begins with `upload-`
    file_name: str
    mime_type: str
    data: bytes

    @property
    def key(self) -> str:
        """Return its storage key (domain.md §5)."""
        return f"uploads/{self.file_name}"


@dataclass(frozen=True, slots=True)
class SampleJob:
    """A job that a user could have sent."""

    label: str
    job_type: JobType
    #: `quel_production_path`
    production_path: Category
    total_images: int
    payer: Payer
    _input: Callable[[_Upload], dict[str, Any]]

    def input_data(self, attach_ids: AttachIds, user_id: UUID) -> dict[str, Any]:
        """Return `job_input_data`, JSON exactly as a browser sends it (domain.md §4).

        Args:
            attach_ids: the attach id of each of `reference_pictures()`, by name.
            user_id: the member who pressed Generate.
        """
        return {
            "userId": str(user_id),
            "category": self.production_path.value,
            "globalContext": None,
            **self._input(_Upload(attach_ids)),
        }


@dataclass(frozen=True, slots=True)
class _Upload:
    """Return references as a browser writes them, with ids as floats."""

    attach_ids: AttachIds

    def id(self, name: str) -> float:
        return float(self.attach_ids[name])

    def all(self, *names: str) -> list[dict[str, Any]]:
        return [{"attachId": self.id(name), "type": _REFERENCES[name]} for name in names]


#: name → type
_REFERENCES: Mapping[str, str] = {
    "model": "model",
    "top": "top",
    "pants": "pants",
    "outer": "outer",
    "shoes": "shoes",
    "bag": "bag",
    "street": "background",
    "beauty_model": "model",
    "lipstick": "lipstick",
    "cream": "cream",
    "serum": "bottle",
    "marble": "bg",
    "dish": "dish",
    "ingredient": "ingredient",
    "garnish": "garnish",
    "table": "background",
    "actor_woman": "actor",
    "actor_man": "face",
    "lantern": "prop",
    "harbour": "bg",
    "fox": "character",
    "robot": "character",
    "umbrella": "prop",
    "meadow": "background",
}


@cache
def reference_pictures() -> Mapping[str, ReferencePicture]:
    """Return every picture that the sample jobs refer to, by name, in a fixed order; read once per process."""
    return {name: _reference_picture(name) for name in _REFERENCES}


def _reference_picture(name: str) -> ReferencePicture:
    stem, folder = f"upload-{name.replace('_', '-')}", files("quel_dagster.sandbox") / "pictures"
    (file,) = (path for path in folder.iterdir() if path.name.partition(".")[0] == stem)
    ending = file.name.rpartition(".")[2]
    return ReferencePicture(
        name=name,
        type=_REFERENCES[name],
        file_name=file.name,
        mime_type=f"image/{'jpeg' if ending == 'jpg' else ending}",
        data=file.read_bytes(),
    )


# --- the jobs --------------------------------------------------------------------------------------------


def _lookbook(upload: _Upload) -> dict[str, Any]:
    return {
        "basePrompt": "Autumn lookbook, soft afternoon sun, relaxed, striped knit, jeans, sneakers",
        "individualImageAttachIds": upload.all("model", "top", "pants", "outer", "shoes", "bag", "street"),
        "combinations": [
            {"angle": "front", "shot": "full", "quantity": 1.0},
            {"angle": "side", "shot": "full", "quantity": 1.0},
            {"angle": "back", "shot": "middle", "quantity": 1.0},
            {"angle": "profile", "shot": "tight", "quantity": 1.0},
        ],
        "shotType": "full",
        "angle": "front",
        "aspect-ratio": "3:4",
        "negative_prompt": "sunglasses, hats",
    }


def _two_stages(upload: _Upload) -> dict[str, Any]:
    return {
        "basePrompt": "best quality, masterpiece",
        "stages": [
            {
                "stage_index": 0.0,
                "prompt": "Stage 0 prompt",
                "quantity": 2.0,
                "individualImageAttachIds": upload.all("model", "top"),
                "cameraAngle": "front",
                "shotType": "middle",
                "aspect-ratio": "16:9",
            },
            {
                "stage_index": 1.0,
                "prompt": "Stage 1 prompt: the same outfit under the trench coat, wind in the street",
                "quantity": 2.0,
                "individualImageAttachIds": upload.all("model", "outer", "street"),
                "cameraAngle": "side",
                "shotType": "full",
                "aspect-ratio": "9:16",
                "negative_prompt": "rain",
            },
        ],
        "aspect-ratio": "16:9",
    }


def _accessories(upload: _Upload) -> dict[str, Any]:
    return {
        "prompt": "Sneakers and handbag as a still life on pale stone, long shadows",
        "uploadedAttachIds": upload.all("shoes", "bag"),
        "aspect-ratio": "1:1",
    }


def _portraits(upload: _Upload) -> dict[str, Any]:
    return {
        "basePrompt": "Editorial portrait, soft window light",
        "mergedImages": [
            {
                "mergedAttachId": upload.id("model"),
                "wrappingPrompt": "Trench coat, belted, evening light",
                "photoIndex": 0.0,
            },
            {"mergedAttachId": upload.id("beauty_model"), "wrappingPrompt": None, "photoIndex": 1.0},
        ],
        "aspect-ratio": "9:16",
    }


def _vanity(upload: _Upload) -> dict[str, Any]:
    return {
        "basePrompt": "Dewy skin, the lipstick in her hand, quiet morning light",
        "individualImageAttachIds": upload.all("beauty_model", "lipstick", "cream", "marble"),
        "combinations": [
            {"angle": "front", "shot": "tight", "quantity": 2.0},
            {"angle": "side", "shot": "middle", "quantity": 1.0},
        ],
        "aspectRatio": "4:3",
    }


def _skincare(upload: _Upload) -> dict[str, Any]:
    return {
        "prompt": "Cream and serum on wet slate, drops of water, fresh and clean",
        "uploadedAttachIds": upload.all("cream", "serum"),
        "aspect-ratio": "1:1",
    }


def _noodles(upload: _Upload) -> dict[str, Any]:
    return {
        "stages": [
            {
                "stage_index": 0.0,
                "prompt": "Steaming bowl of noodles, rustic and inviting",
                "quantity": 2.0,
                "individualImageAttachIds": upload.all("dish", "ingredient", "garnish", "table"),
                "cameraAngle": "overhead",
                "shotType": "full-plate",
                "isPreEdited": False,
            },
            {
                "stage_index": 1.0,
                "prompt": "The egg and the broth, glistening",
                "quantity": 1.0,
                "individualImageAttachIds": upload.all("dish"),
                "cameraAngle": "macro",
                "shotType": "detail",
                "isPreEdited": True,
                "aspect-ratio": "1:1",
            },
        ],
        "basePrompt": "food photography",
        "aspect-ratio": "4:3",
    }


def _menu(upload: _Upload) -> dict[str, Any]:
    return {
        "basePrompt": "Menu picture, bright daylight, a hand's breadth of table around the bowl",
        "individualImageAttachIds": upload.all("dish", "garnish"),
        "combinations": [
            {"angle": "45-degree", "shot": "hero-shot", "quantity": 2.0},
            {"angle": "overhead", "shot": "context", "quantity": 1.0},
        ],
        "aspect-ratio": "4:3",
    }


def _film(upload: _Upload) -> dict[str, Any]:
    return {
        "stages": [
            {
                "stage_index": 0.0,
                "prompt": "Eye Level, Wide Shot. Two strangers meet on the quay at night, fog coming in",
                "quantity": 1.0,
                "individualImageAttachIds": upload.all("actor_woman", "actor_man", "harbour"),
                "cameraAngle": "Eye Level",
                "shotType": "Wide Shot",
                "aspect-ratio": "21:9",
            },
            {
                "stage_index": 1.0,
                "prompt": "Low Angle, MCU. He raises the lantern, warm light on his face",
                "quantity": 1.0,
                "individualImageAttachIds": upload.all("actor_man", "lantern", "harbour"),
                "cameraAngle": "Low Angle",
                "shotType": "MCU",
            },
            {
                "stage_index": 2.0,
                "prompt": "Eye Level, ECU. Her eyes catch the light; she understands",
                "quantity": 1.0,
                "individualImageAttachIds": upload.all("actor_woman"),
                "cameraAngle": "Eye Level",
                "shotType": "ECU",
            },
        ],
        "basePrompt": "film still",
        "aspect-ratio": "16:9",
    }


def _comic(upload: _Upload) -> dict[str, Any]:
    return {
        "basePrompt": "The fox and the robot run down the hill to save the umbrella",
        "individualImageAttachIds": upload.all("fox", "robot", "umbrella", "meadow"),
        "combinations": [
            {"angle": "front", "shot": "full-body", "quantity": 1.0, "fx": "speed-lines"},
            {"angle": "three-quarter", "shot": "bust", "quantity": 1.0, "fx": "emotion"},
            {"angle": "low-angle", "shot": "full-body", "quantity": 1.0, "fx": "impact"},
            {"angle": "high-angle", "shot": "portrait", "quantity": 1.0, "fx": "aura"},
        ],
        "aspect-ratio": "16:9",
    }


SAMPLE_JOBS = (
    SampleJob("Autumn lookbook", JobType.SINGLE_BATCH, Category.FASHION, 4, "organization", _lookbook),
    SampleJob("Two stages", JobType.PIPELINE_STAGE, Category.FASHION, 4, "member", _two_stages),
    SampleJob("Sneakers and bag", JobType.SIMPLE_GENERAL, Category.FASHION, 2, "organization", _accessories),
    SampleJob("Portraits", JobType.SIMPLE_PORTRAIT, Category.FASHION, 2, "member", _portraits),
    SampleJob("Morning vanity", JobType.SINGLE_BATCH, Category.BEAUTY, 3, "organization", _vanity),
    SampleJob("Skincare still life", JobType.SIMPLE_GENERAL, Category.BEAUTY, 2, "member", _skincare),
    SampleJob("Noodle bar", JobType.PIPELINE_STAGE, Category.EATS, 3, "organization", _noodles),
    SampleJob("Menu pictures", JobType.SINGLE_BATCH, Category.EATS, 3, "member", _menu),
    SampleJob("Night at the harbour", JobType.PIPELINE_STAGE, Category.CINEMA, 3, "organization", _film),
    SampleJob("Fox and robot", JobType.SINGLE_BATCH, Category.CARTOON, 4, "member", _comic),
)
