"""Read JSON that a browser wrote: leniently, and with a log of every repair (domain.md §4).

A `Field` is a value together with its path. Its methods return a clean Python value. A value that had to be
converted is noted as a `Repair`; one without a safe meaning raises `JobInputError`, which begins with the path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn
from uuid import UUID

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.json_text import read_json, unreadable_part
from quel_dagster.jobs.model import Repair
from quel_dagster.jobs.texts import shown, storable, without_links

#: a whole number as text; the fraction of `39070.0` may only be zeros
_WHOLE_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,30})(?:\.0*)?\s*")

#: characters of a path in a message; keys are a user's text and may be long
MAX_PATH_LENGTH = 100

#: texts that JavaScript writes for a missing value
_EMPTY_WORDS = frozenset({"undefined", "null", "nan"})

_YES = frozenset({"true", "1", "yes", "on"})
_NO = frozenset({"false", "0", "no", "off", ""})


class Field:
    """One value of `job_input_data` and its path, such as `stages[1].quantity`."""

    def __init__(self, value: Any, path: str, repairs: list[Repair]) -> None:
        self.value = value
        self.path = path
        self._repairs = repairs

    @property
    def given(self) -> bool:
        """Return whether there is a value: a missing key and null are the same."""
        return self.value is not None

    def note(self, problem: str) -> None:
        """Add a repair: how this field was read differs from what it holds."""
        self._repairs.append(Repair(path=self.path, problem=problem))

    def refuse(self, problem: str) -> NoReturn:
        """Fail the job because of this field."""
        raise JobInputError(self.path, problem)

    def refuse_unreadable(self) -> None:
        """Fail the job when a part of this value could not be read (`json_text`)."""
        if found := unreadable_part(self.value, self.path):
            path, problem = found
            raise JobInputError(without_links(path[:MAX_PATH_LENGTH]), f"{problem}; it cannot be read")

    # --- containers ----------------------------------------------------------------------------------

    def member(self, *names: str) -> Field:
        """Return the first of these keys that is given; the field itself must be an object."""
        prefix = f"{self.path}." if self.path else ""
        for name in names:
            if self.value.get(name) is not None:
                return Field(self.value[name], prefix + name, self._repairs)
        return Field(None, prefix + names[0], self._repairs)

    def as_object(self) -> Field | None:
        """Return this field if it is an object, or JSON text of one; else None."""
        if isinstance(self.value, dict):
            return self
        decoded = self._decoded()
        if not isinstance(decoded, dict):
            return None
        self.note("is JSON text of an object; read as the object")
        return Field(decoded, self.path, self._repairs)

    def items(self, limit: int, *, item_keys: Sequence[str]) -> list[Field]:
        """Return the items of a list, without null.

        An object where the list should be is read as the list when it is one written as an object
        (`{"0": …, "1": …}`), and as its only item when it holds one of `item_keys`.

        Raises:
            JobInputError: neither a list nor readable as one, or more than `limit` items.
        """
        value = self._as_list(item_keys) if self.given else []
        if len(value) > limit:
            self.refuse(f"{len(value)} items; at most {limit} are allowed")
        found = [Field(item, f"{self.path}[{i}]", self._repairs) for i, item in enumerate(value)]
        for field in found:
            if not field.given:
                field.note("is null; left out")
        return [field for field in found if field.given]

    def _as_list(self, item_keys: Sequence[str]) -> list[Any]:
        if isinstance(self.value, list | tuple):
            return list(self.value)
        decoded = self._decoded()
        if isinstance(decoded, list):
            self.note("is JSON text of a list; read as the list")
            return decoded
        value = decoded if isinstance(decoded, dict) else self.value
        if isinstance(value, dict):
            if any(key in value for key in item_keys):
                self.note("is an object; read as a list of this one item")
                return [value]
            if all(re.fullmatch("[0-9]{1,6}", str(key)) for key in value):
                self.note("is an object; its values are read as a list")
                return [value[key] for key in sorted(value, key=lambda key: (int(key), str(key)))]
        if isinstance(value, str) and not value.strip():
            self.note("is an empty text; read as not given")
            return []
        return self.refuse(f"{shown(self.value)} is not a list")

    # --- scalars -------------------------------------------------------------------------------------

    def whole_number(self, low: int, high: int) -> int | None:
        """Return a whole number from `low` to `high`, also from `39070.0` and `"39070"`; None if unusable."""
        number = _whole(self.value)
        if number is None or not low <= number <= high:
            return None
        if not isinstance(self.value, int | float):
            self.note(f"{shown(self.value)} read as {number}")
        return number

    def text(self, limit: int) -> str:
        """Return a stripped, storable text; empty when not given. A number is read as its text.

        Raises:
            JobInputError: not a text, or longer than `limit` characters.
        """
        if not self.given:
            return ""
        if isinstance(self.value, bool | dict | list | tuple) or _not_finite(self.value):
            self.refuse(f"{shown(self.value)} is not a text")
        if not isinstance(self.value, str):
            self.note(f"{shown(self.value)} is not a text; read as one")
        text = self.value if isinstance(self.value, str) else shown(self.value)
        if len(text) > limit:
            self.refuse(f"{len(text)} characters; at most {limit} are allowed")
        return self._storable(text)

    def word(self, limit: int) -> str:
        """Return a short name, such as an angle; empty when not given or unusable."""
        if not self.given:
            return ""
        usable = isinstance(self.value, str | int | float) and not isinstance(self.value, bool)
        if not usable or _not_finite(self.value):
            self.note(f"{shown(self.value)} is not a text; read as not given")
            return ""
        if not isinstance(self.value, str):
            self.note(f"{shown(self.value)} is not a text; read as one")
        text = self.value if isinstance(self.value, str) else shown(self.value)
        if len(text) > limit:
            self.note(f"{len(text)} characters; cut after {limit}")
        word = " ".join(self._storable(text[:limit]).split())
        if word.lower() == "none":  # an explicit "not given", no repair
            return ""
        if word.lower() in _EMPTY_WORDS:
            self.note(f"{shown(word)} read as not given")
            return ""
        return word

    def flag(self) -> bool:
        """Return true or false, also from 1/0 and from text; anything else is false."""
        if not self.given or isinstance(self.value, bool):
            return bool(self.value)
        spelled = shown(self.value).strip('"').lower()
        if isinstance(self.value, float) and not _not_finite(self.value) and self.value in {0.0, 1.0}:
            spelled = str(int(self.value))
        answer = spelled in _YES
        doubt = "" if answer or spelled in _NO else "is neither true nor false; "
        self.note(f"{shown(self.value)} {doubt}read as {'true' if answer else 'false'}")
        return answer

    def uuid(self) -> UUID | None:
        """Return a UUID; None when not given or not one."""
        if not self.given:
            return None
        try:
            return UUID(self.value.strip())
        except (ValueError, AttributeError):
            self.note(f"{shown(self.value)} is not a UUID; read as not given")
            return None

    def _decoded(self) -> Any:
        """Return the value of JSON text; None when it is no text or no JSON."""
        if not isinstance(self.value, str) or not self.value.strip():
            return None
        try:
            decoded = read_json(self.value)
        except ValueError:
            return None
        Field(decoded, self.path, self._repairs).refuse_unreadable()
        return decoded

    def _storable(self, text: str) -> str:
        clean = storable(text)
        if clean != text:
            self.note(
                "holds characters that cannot be stored, or too many combining marks; they were left out or replaced"
            )
        return clean.strip()


def read_document(value: Any, repairs: list[Repair]) -> Field:
    """Return `job_input_data` as an object; JSON text of one, also encoded twice, is decoded.

    Raises:
        JobInputError: it is not an object.
    """
    field = Field(value, "job_input_data", repairs)
    for _ in range(2):
        if isinstance(field.value, str):
            field.note("is JSON text; read as what it holds")
            field = Field(field._decoded(), field.path, repairs)
    if not isinstance(field.value, dict):
        Field(value, field.path, repairs).refuse(f"{shown(value)} is not an object")
    document = Field(field.value, "", repairs)
    document.refuse_unreadable()
    return document


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    match = _WHOLE_NUMBER.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) if match else None


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
