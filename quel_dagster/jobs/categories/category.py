"""The models of a category's data: roles, scenes, cameras and texts.

One module per category fills them in. The texts are for photographers: plain paragraphs and "- " lists. Their line
breaks do not matter, and the only placeholder is {count}, which is filled in as a word.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from enum import StrEnum
from string import Formatter
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from quel_dagster.jobs.model import Category, Value
from quel_dagster.jobs.texts import slug

#: the only placeholder of a text
PLACEHOLDERS = frozenset({"count"})

#: the name of the background role in every category
BACKGROUND = "background"


def _flow(text: str) -> str:
    """Undo the line breaks of the source: one line per paragraph and per "- " item."""
    wrapped = textwrap.dedent(text).strip()
    unknown = {name for _, name, _, _ in Formatter().parse(wrapped) if name is not None} - PLACEHOLDERS
    if unknown:
        raise ValueError(f"unknown placeholder {sorted(unknown)} in: {wrapped[:60]}")
    return re.sub(r"(?<!\n)\n(?!\n|- )", " ", wrapped)


Text = Annotated[str, AfterValidator(_flow)]


class Layout(StrEnum):
    """How the pictures of a role become image parts (domain.md §5)."""

    #: every picture is a part of its own
    EACH = "each"
    #: several pictures are pasted into one grid
    GRID = "grid"
    #: pictures are joined two by two, side by side
    PAIRS = "pairs"


class Role(Value):
    """The purpose of a reference picture in a request."""

    name: str
    types: frozenset[str]
    layout: Layout
    #: pictures beyond it are left out; None: no limit
    limit: int | None = None
    #: this role takes types that no role names
    takes_unknown: bool = False
    #: each of its pictures is essential: a person, a character, a dish (domain.md §5)
    identity: bool = False
    #: its pictures are the product for sale: at least one must be available if any was asked for
    product: bool = False
    #: text for a part with one picture: what it is and how strictly to keep it
    one: Text
    #: the same for a part that joins {count} pictures
    several: Text = ""


def background(one: str) -> Role:
    """Return the background role, with its text; the types are the same in every category (domain.md §5)."""
    return Role(name=BACKGROUND, types=frozenset({"background", "bg"}), layout=Layout.EACH, one=one)


class Camera(Value):
    """The texts of angles and shots for one kind of scene, by name."""

    angles: Mapping[str, Text]
    shots: Mapping[str, Text]
    #: one text for a combination of angle and shot, in place of both
    together: Mapping[tuple[str, str], Text] = {}


class Scene(Value):
    """The texts for one mix of references; the first scene that fits is used."""

    name: str
    #: all of these roles have pictures
    needs: frozenset[str] = frozenset()
    #: at least one of these roles has pictures
    needs_any: frozenset[str] = frozenset()
    #: the roles whose pictures are {count}ed
    counts: frozenset[str] = frozenset()
    #: fits only this number of counted pictures
    exactly: int | None = None
    #: the kind of picture
    opening: Text
    #: framing and the rules of the physical world
    rules: Text
    #: the setting when there is no background picture
    setting: Text = ""
    #: what must not happen
    avoid: Text
    #: how to treat a subject that is already styled and retouched, and one that is not (`isPreEdited`)
    pre_edited: Text = ""
    not_pre_edited: Text = ""
    camera: Camera

    def fits(self, pictures: Mapping[str, int]) -> bool:
        """Return whether this scene fits this number of pictures per role."""
        cast = {role for role, number in pictures.items() if number}
        return (
            self.needs <= cast
            and (not self.needs_any or bool(self.needs_any & cast))
            and (self.exactly is None or self.count(pictures) == self.exactly)
        )

    def count(self, pictures: Mapping[str, int]) -> int:
        """Return the number of pictures in the counted roles together."""
        return sum(pictures.get(role, 0) for role in self.counts)


class ShotFilter(Value):
    """The reference types and prompt words that a shot cannot show."""

    types: frozenset[str]
    words: tuple[str, ...]


class CategoryStyle(Value):
    """The data of one category."""

    category: Category
    #: in the order in which the pictures are shown to the model
    roles: tuple[Role, ...]
    scenes: tuple[Scene, ...]
    #: other spellings of angles and shots
    angle_aliases: Mapping[str, str] = {}
    shot_aliases: Mapping[str, str] = {}
    shot_filters: Mapping[str, ShotFilter] = {}
    #: drawn effects of a combination (`fx`); "none" needs no text
    effects: Mapping[str, Text] = {}
    #: angles and shots are free text, and a prompt may open with the same two
    free_camera: bool = False
    #: the type of the older merged picture of garments or products (`mergedImageAttachId`)
    merged_type: str
    #: the type of the picture of a portrait (`mergedImages`)
    portrait_type: str
    #: mixes of reference types worth showing in docs/prompts.md
    mixes: Mapping[str, tuple[str, ...]]
    #: the user's prompt on that page
    sample_prompt: str

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        names = {role.name for role in self.roles}
        last = self.scenes[-1]
        problems = []
        if last.needs or last.needs_any or last.exactly is not None:
            problems.append("the last scene must fit everything")
        for scene in self.scenes:
            if not scene.needs | scene.needs_any | scene.counts <= names:
                problems.append(f"scene {scene.name} names a role that does not exist")
            same_camera = (
                scene.camera.angles.keys() == last.camera.angles.keys()
                and scene.camera.shots.keys() == last.camera.shots.keys()
            )
            if not same_camera:
                problems.append(f"scene {scene.name} knows other angles or shots than the rest")
        for aliases, known in (
            (self.angle_aliases, last.camera.angles),
            (self.shot_aliases, last.camera.shots),
        ):
            if not set(aliases.values()) <= known.keys():
                problems.append(f"aliases of unknown names: {sorted(set(aliases.values()) - known.keys())}")
        if problems:
            raise ValueError(f"{self.category}: {'; '.join(problems)}")
        return self

    @property
    def angles(self) -> tuple[str, ...]:
        return tuple(self.scenes[-1].camera.angles)

    @property
    def shots(self) -> tuple[str, ...]:
        return tuple(self.scenes[-1].camera.shots)

    def role_of(self, kind: str) -> Role | None:
        """Return the role of a reference type; None when the type is unknown here (domain.md §5)."""
        named = (role for role in self.roles if kind in role.types)
        return next(named, next((role for role in self.roles if role.takes_unknown), None))

    def angle_named(self, words: str) -> str | None:
        """Return the name of the angle that `words` mean; None when the category has no such angle."""
        name = slug(words)
        return name if name in self.angles else self.angle_aliases.get(name)

    def shot_named(self, words: str) -> str | None:
        """Return the name of the shot that `words` mean; None when the category has no such shot."""
        name = slug(words)
        return name if name in self.shots else self.shot_aliases.get(name)

    def scene_for(self, pictures: Mapping[str, int]) -> Scene:
        """Return the first scene that fits this number of pictures per role."""
        return next(scene for scene in self.scenes if scene.fits(pictures))
