"""Read the units that `job_input_data` asks for, before the pictures are distributed (domain.md §4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quel_dagster.jobs.categories.category import CategoryStyle
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import JobType, Reference, Unit
from quel_dagster.jobs.models import ALL_RATIOS
from quel_dagster.jobs.reading import Field
from quel_dagster.jobs.texts import shown, slug

DEFAULT_PROMPT = "best quality, masterpiece"
DEFAULT_ASPECT_RATIO = "16:9"
DEFAULT_ANGLE, DEFAULT_SHOT = "front", "full"

#: characters; longer camera words are cut, longer types are unknown
MAX_CAMERA_WORDS = 100
MAX_TYPE_LENGTH = 50

_LARGEST_ATTACH_ID = 2**63 - 1
_LARGEST_STAGE_INDEX = 2**31 - 1
#: a stage index up to here makes a readable key
_LARGEST_KEY_INDEX = 9_999
_SLUG_LENGTH = 24


@dataclass(frozen=True, kw_only=True)
class UnitRequest:
    """One stage, combination, upload set or portrait as it was asked for."""

    key: str
    #: None: not given
    quantity: int | None
    #: path that a repair of the quantity names
    quantity_path: str
    #: the job names no units: this one makes all of its pictures
    takes_remainder: bool = False
    prompt: str
    negative_prompt: str
    aspect_ratio: str
    angle: str = ""
    shot: str = ""
    fx: str = "none"
    pre_edited: bool = False
    references: tuple[Reference, ...] = ()
    stage_index: int | None = None

    def unit(self, *, index: int, quantity: int) -> Unit:
        """Return this request as a unit that makes `quantity` pictures."""
        asked = {name: value for name, value in vars(self).items() if name in Unit.model_fields}
        return Unit(**{**asked, "index": index, "quantity": quantity})


def read_requests(document: Field, job_type: JobType, style: CategoryStyle, limits: Limits) -> tuple[UnitRequest, ...]:
    """Return the units a document asks for, at least one, in result order.

    Raises:
        JobInputError: a field has no safe meaning or exceeds a limit.
    """
    return _READERS[job_type](_Reader(document, style, limits))


class _Reader:
    """Reads the unit requests of one document; holds the defaults of all its units."""

    def __init__(self, document: Field, style: CategoryStyle, limits: Limits) -> None:
        self.document = document
        self.style = style
        self.limits = limits
        self.aspect_ratio = self.read_aspect_ratio(document, DEFAULT_ASPECT_RATIO)
        self.negative_prompt = self.read_negative_prompt(document)
        self.base_prompt = self.read_prompt("basePrompt") or DEFAULT_PROMPT

    # --- parts of a unit -----------------------------------------------------------------------------

    def read_prompt(self, name: str, holder: Field | None = None) -> str:
        return (holder or self.document).member(name).text(self.limits.max_prompt_length)

    def read_negative_prompt(self, holder: Field) -> str:
        return holder.member("negative_prompt").text(self.limits.max_prompt_length)

    def read_aspect_ratio(self, holder: Field, default: str) -> str:
        field = holder.member("aspect-ratio", "aspectRatio")
        word = field.word(MAX_CAMERA_WORDS)
        ratio = word.replace(" ", "").replace("x", ":").replace("/", ":")
        if ratio in ALL_RATIOS:
            if ratio not in self.limits.aspect_ratios:
                field.refuse(f"{ratio}; {self.limits.model} makes {', '.join(self.limits.aspect_ratios)}")
            if ratio != word:
                field.note(f"{shown(word)} read as {ratio}")
            return ratio
        if word:
            field.note(f"{shown(word)} is not an aspect ratio that can be made; {default} is used")
        return default

    def read_quantity(self, holder: Field) -> int | None:
        field = holder.member("quantity")
        if not field.given:
            return None
        quantity = field.whole_number(1, 10**30)
        if quantity is None:
            field.note(f"{shown(field.value)} is not a positive whole number; read as not given")
        elif quantity > self.limits.max_images:
            field.refuse(f"{shown(field.value)} pictures; at most {self.limits.max_images} are allowed")
        return quantity

    def read_camera(self, holder: Field, name: str, default: str = "") -> str:
        return holder.member(name).word(MAX_CAMERA_WORDS) or default

    def read_attach_id(self, field: Field) -> int | None:
        return field.whole_number(1, _LARGEST_ATTACH_ID)

    def read_references(self, holder: Field, list_name: str = "individualImageAttachIds") -> tuple[Reference, ...]:
        """Return the references of a unit: its list, then the older merged picture, each once.

        Raises:
            JobInputError: too many, or references are named and none can be read: the unit would have no
                reference (domain.md §5).
        """
        field = holder.member(list_name)
        items = field.items(self.limits.max_references_per_unit, item_keys=("attachId",))
        found: list[Reference] = []
        unreadable = 0
        for item in items:
            entry = item.as_object()
            id_field = item if entry is None else entry.member("attachId")
            attach_id = self.read_attach_id(id_field)
            if attach_id is None:
                unreadable += id_field.given
                id_field.note(f"{shown(id_field.value)} is not an attach id; the picture is left out")
                continue
            kind = self._read_type(entry)
            reference = Reference(attach_id=attach_id, type=kind)
            if reference in found:
                item.note(f"names picture {attach_id} as {shown(kind)} again; kept once")
            else:
                found.append(reference)
        merged = holder.member("mergedImageAttachId")
        if merged.given:
            attach_id = self.read_attach_id(merged)
            if attach_id is None:
                unreadable += 1
                merged.note(f"{shown(merged.value)} is not an attach id; the picture is left out")
            elif all(reference.attach_id != attach_id for reference in found):
                found.append(Reference(attach_id=attach_id, type=self.style.merged_type))
        if unreadable and not found:
            (field if field.given else merged).refuse("names pictures, but none of them by a readable attach id")
        return tuple(found)

    def _read_type(self, entry: Field | None) -> str:
        if entry is None:
            return "none"
        return entry.member("type").word(MAX_TYPE_LENGTH).lower() or "none"

    # --- the four job types --------------------------------------------------------------------------

    def single_batch(self) -> tuple[UnitRequest, ...]:
        references = self.read_references(self.document)
        default_angle = self.read_camera(self.document, "angle", DEFAULT_ANGLE)
        default_shot = self.read_camera(self.document, "shotType", DEFAULT_SHOT)
        shared = UnitRequest(
            key="",
            quantity=None,
            quantity_path="total_images",
            takes_remainder=True,
            prompt=self.base_prompt,
            negative_prompt=self.negative_prompt,
            aspect_ratio=self.aspect_ratio,
            angle=default_angle,
            shot=default_shot,
            pre_edited=self.document.member("isPreEdited").flag(),
            references=references,
        )
        combinations = self.read_units("combinations", item_keys=("angle", "shot", "quantity"))
        if not combinations:
            return (replace(shared, key=_combination_key(0, default_angle, default_shot)),)
        requests = []
        for position, combination in combinations:
            angle = self.read_camera(combination, "angle", default_angle)
            shot = self.read_camera(combination, "shot", default_shot)
            request = replace(
                shared,
                key=_combination_key(position, angle, shot),
                quantity=self.read_quantity(combination),
                quantity_path=combination.member("quantity").path,
                takes_remainder=False,
                angle=angle,
                shot=shot,
                fx=self.read_camera(combination, "fx", "none").lower(),
            )
            requests.append(request)
        return tuple(requests)

    def pipeline_stage(self) -> tuple[UnitRequest, ...]:
        stages = self.read_units("stages", item_keys=("stage_index", "prompt", "quantity"))
        if not stages:
            only = self.read_stage(self.document, index=0, prompt=self.base_prompt)
            return (replace(only, key="stage0", quantity=None, quantity_path="total_images", takes_remainder=True),)
        requests = []
        for position, stage in stages:
            prompt = self.read_prompt("prompt", stage) or self.base_prompt
            requests.append(self.read_stage(stage, index=self.read_stage_index(stage, position), prompt=prompt))
        requests.sort(key=lambda request: request.stage_index or 0)
        indices = [request.stage_index or 0 for request in requests]
        speaking = len(set(indices)) == len(indices) and indices[0] >= 0 and indices[-1] <= _LARGEST_KEY_INDEX
        keys = indices if speaking else range(len(indices))
        return tuple(replace(request, key=f"stage{number}") for number, request in zip(keys, requests, strict=True))

    def read_stage(self, stage: Field, *, index: int, prompt: str) -> UnitRequest:
        return UnitRequest(
            key="",
            quantity=self.read_quantity(stage),
            quantity_path=stage.member("quantity").path,
            prompt=prompt,
            negative_prompt=self.read_negative_prompt(stage) or self.negative_prompt,
            aspect_ratio=self.read_aspect_ratio(stage, self.aspect_ratio),
            angle=self.read_camera(stage, "cameraAngle"),
            shot=self.read_camera(stage, "shotType"),
            pre_edited=stage.member("isPreEdited").flag(),
            references=self.read_references(stage),
            stage_index=index,
        )

    def read_stage_index(self, stage: Field, position: int) -> int:
        """Return the stage index, which orders the results; the place in the list when none is given."""
        field = stage.member("stage_index")
        index = field.whole_number(-(10**30), 10**30)
        if index is None:
            found = "not given" if not field.given else f"{shown(field.value)} is not a whole number"
            field.note(f"{found}; read as {position}, its place in the list")
            return position
        clamped = max(-_LARGEST_STAGE_INDEX, min(index, _LARGEST_STAGE_INDEX))
        if clamped != index:
            field.note(f"{shown(field.value)} is beyond what can be stored; read as {clamped}")
        return clamped

    def simple_general(self) -> tuple[UnitRequest, ...]:
        request = UnitRequest(
            key="general",
            quantity=None,
            quantity_path="total_images",
            takes_remainder=True,
            prompt=self.read_prompt("prompt") or self.base_prompt,
            negative_prompt=self.negative_prompt,
            aspect_ratio=self.aspect_ratio,
            pre_edited=self.document.member("isPreEdited").flag(),
            references=self.read_uploads(),
        )
        return (request,)

    def read_uploads(self) -> tuple[Reference, ...]:
        """Return all uploaded pictures as references; a type unknown to the category is read as `none`."""
        references = []
        for reference in self.read_references(self.document, "uploadedAttachIds"):
            if self.style.role_of(reference.type) is None:
                field = self.document.member("uploadedAttachIds")
                kind = f"type {shown(reference.type)} of picture {reference.attach_id}"
                field.note(f"{kind} is unknown in {self.style.category}; read as none")
                references.append(Reference(attach_id=reference.attach_id, type="none"))
            else:
                references.append(reference)
        return tuple(references)

    def simple_portrait(self) -> tuple[UnitRequest, ...]:
        entries = self.read_units("mergedImages", item_keys=("mergedAttachId", "wrappingPrompt"))
        requests = []
        for position, entry in entries:
            field = entry.member("mergedAttachId")
            attach_id = self.read_attach_id(field)
            if attach_id is None:
                found = f"{shown(field.value)} is not an attach id" if field.given else "not given"
                field.note(f"{found}; the portrait is left out")
                continue
            request = UnitRequest(
                key=f"portrait{position}",
                quantity=1,
                quantity_path=entry.path,
                prompt=self.read_prompt("wrappingPrompt", entry) or self.base_prompt,
                negative_prompt=self.negative_prompt,
                aspect_ratio=self.aspect_ratio,
                references=(Reference(attach_id=attach_id, type=self.style.portrait_type),),
            )
            requests.append(request)
        if not requests:
            self.document.member("mergedImages").refuse("no entry with a readable mergedAttachId")
        return tuple(requests)

    def read_units(self, name: str, *, item_keys: tuple[str, ...]) -> list[tuple[int, Field]]:
        """Return the objects of a list with their places in it.

        Raises:
            JobInputError: too many, or the list has items and none is an object.
        """
        field = self.document.member(name)
        items = field.items(self.limits.max_units, item_keys=item_keys)
        units = []
        for item in items:
            entry = item.as_object()
            if entry is None:
                item.note(f"{shown(item.value)} is not an object; left out")
            else:
                units.append((_place(item), entry))
        if items and not units:
            field.refuse("not one of its items is an object")
        return units


_READERS: dict[JobType, Callable[[_Reader], tuple[UnitRequest, ...]]] = {
    JobType.SINGLE_BATCH: _Reader.single_batch,
    JobType.PIPELINE_STAGE: _Reader.pipeline_stage,
    JobType.SIMPLE_GENERAL: _Reader.simple_general,
    JobType.SIMPLE_PORTRAIT: _Reader.simple_portrait,
}


def _place(item: Field) -> int:
    """Return the position of a list item, from its path `stages[3]`."""
    return int(item.path.rsplit("[", 1)[1].rstrip("]"))


def _combination_key(position: int, angle: str, shot: str) -> str:
    parts = [f"combo{position}", *(slug(word[:_SLUG_LENGTH], "_") for word in (angle, shot))]
    return "_".join(part for part in parts if part)
