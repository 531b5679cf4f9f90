"""Compose the request to Gemini for a unit: image parts in order, and one text (domain.md §6).

The same code for every category. Not here: the texts and rules of a category (`categories/`).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from quel_dagster.jobs.casting import Cast, cast
from quel_dagster.jobs.categories import wording
from quel_dagster.jobs.categories.category import BACKGROUND, CategoryStyle, Scene
from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.model import Arrangement, Brief, Category, PartLayout, Unit
from quel_dagster.jobs.texts import shown
from quel_dagster.jobs.word_filter import cut_words

_NUMBER_WORDS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


def wanted_references(unit: Unit, category: Category) -> tuple[int, ...]:
    """Return the attach ids to download for a unit, in the order shown to the model, each once (domain.md §5)."""
    return cast(unit, style_of(category)).attach_ids


def compose(unit: Unit, category: Category, available: Collection[int] | None = None) -> Brief:
    """Return the request for one picture of a unit, made from the references in `available` (None: all of them).

    The scene follows from the references asked for. `Brief.lost` names those that are not available.
    The text numbers the image parts in the order of `Brief.parts`, from 1.
    """
    style = style_of(category)
    chosen = cast(unit, style, available)
    scene = style.scene_for(chosen.asked)
    warnings = list(chosen.warnings)
    sections = (
        (None, _opening(scene, chosen)),
        ("REFERENCE IMAGES", _references(chosen)),
        ("SETTING", "" if chosen.pictures.get(BACKGROUND) else scene.setting),
        ("CAMERA", _camera(unit, style, scene, warnings)),
        ("STYLING", scene.pre_edited if unit.pre_edited else scene.not_pre_edited),
        ("EFFECT", _effect(unit, style, warnings)),
        ("RULES", _filled(scene.rules, scene.count(chosen.pictures))),
        ("BRIEF", _brief(unit, style, chosen, warnings)),
        ("AVOID", _avoid(unit, scene, chosen)),
    )
    text = "\n\n".join(body if head is None else f"{head}\n{body}" for head, body in sections if body)
    return Brief(
        parts=tuple(part for _, part in chosen.parts()),
        text=text,
        aspect_ratio=unit.aspect_ratio,
        warnings=tuple(warnings),
        lost=chosen.lost,
    )


def _opening(scene: Scene, chosen: Cast) -> str:
    return _filled(scene.opening, scene.count(chosen.pictures))


def _references(chosen: Cast) -> str:
    """Return one paragraph per image part, numbered as the parts are."""
    parts = list(chosen.parts())
    if not parts:
        return ""
    paragraphs = [wording.REFERENCES]
    for number, (role, part) in enumerate(parts, start=1):
        several = len(part.attach_ids) > 1
        text = role.several if several else role.one
        peers = [other for other in parts if other[0] == role]
        nth = f" {peers.index((role, part)) + 1} of {len(peers)}" if len(peers) > 1 else ""
        paragraphs.append(f"Image {number} — {role.name}{nth}{_joined(part)}. {_filled(text, len(part.attach_ids))}")
    return "\n".join(paragraphs)


def _joined(part: PartLayout) -> str:
    how = {Arrangement.SINGLE: "", Arrangement.GRID: " on one sheet", Arrangement.PAIR: " side by side"}
    return f", {_in_words(len(part.attach_ids))} pictures{how[part.arrangement]}" if len(part.attach_ids) > 1 else ""


def _camera(unit: Unit, style: CategoryStyle, scene: Scene, warnings: list[str]) -> str:
    angle, shot = style.angle_named(unit.angle), style.shot_named(unit.shot)
    together = scene.camera.together.get((angle or "", shot or ""))
    if together:
        return together
    lines = []
    for label, words, name, texts in (
        ("Angle", unit.angle, angle, scene.camera.angles),
        ("Framing", unit.shot, shot, scene.camera.shots),
    ):
        if not words:
            continue
        if name is None and not style.free_camera:
            known = ", ".join(texts)
            warnings.append(f"{label.lower()} {shown(words)} is none of {known}; passed on in the user's own words")
        own_words = words if name is None or style.free_camera else ""
        lines.append(f"{label}: " + " — ".join(part for part in (own_words, texts.get(name or "", "")) if part))
    return "\n".join(lines) or wording.OPEN_CAMERA


def _effect(unit: Unit, style: CategoryStyle, warnings: list[str]) -> str:
    effect = unit.fx.strip().lower()
    if effect in {"", "none"}:
        return ""
    if effect not in style.effects:
        known = ", ".join(style.effects) or f"nothing: {style.category} has no effects"
        warnings.append(f"effect {shown(effect)} left out: known is {known}")
        return ""
    return style.effects[effect]


def _brief(unit: Unit, style: CategoryStyle, chosen: Cast, warnings: list[str]) -> str:
    """Return the user's prompt without words that the shot cannot show, and without a repeated camera."""
    prompt = unit.prompt.strip()
    if style.free_camera:
        prompt = without_camera_opening(prompt, unit.angle, unit.shot)
    shot = style.shot_named(unit.shot)
    if chosen.filtered and shot:
        filtered = cut_words(prompt, style.shot_filters[shot].words)
        if filtered != prompt:
            warnings.append(f"words left out of the prompt: a {shot} shot cannot show them")
        prompt = filtered
    return f"{wording.BRIEF}\n{prompt}" if prompt else ""


def _avoid(unit: Unit, scene: Scene, chosen: Cast) -> str:
    lines = [_filled(scene.avoid, scene.count(chosen.pictures)), wording.AVOID]
    if unit.negative_prompt.strip():
        lines.append(f"{wording.AVOID_TOO} {unit.negative_prompt.strip()}")
    return "\n".join(lines)


def without_camera_opening(prompt: str, angle: str, shot: str) -> str:
    """Return `prompt` without an opening that repeats angle and shot, as in "Eye Level, ECU. …" (domain.md §6)."""
    if not angle or not shot:
        return prompt
    angle_words, shot_words = (r"\s++".join(re.escape(word) for word in text.split()) for text in (angle, shot))
    # possessive quantifiers: a long run of blanks is passed over once, not once per blank
    opening = re.compile(
        rf"\s*+{angle_words}\s*+(?:[,;:/|·–—-]\s*+)?{shot_words}(?!\w)[\s.,;:/|·–—-]*+",
        re.IGNORECASE,
    ).match(prompt)
    return prompt[opening.end() :] if opening else prompt


def _filled(text: str, count: int) -> str:
    return text.format(count=_in_words(count))


def _in_words(number: int) -> str:
    return _NUMBER_WORDS[number] if number < len(_NUMBER_WORDS) else str(number)
