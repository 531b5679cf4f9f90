"""Reading JSON that a browser wrote: leniently, but never in silence (domain.md §4).

A `Field` is a value together with its path. Its readers give a clean Python value; whatever had to be bent
on the way is noted as a `Repair`, and what cannot be bent raises `JobInputError` with the path in front.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn
from uuid import UUID

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.model import Repair
from quel_dagster.jobs.texts import shown, storable

#: a whole number as text; the fraction of `39070.0` may only be zeros
_WHOLE_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,30})(?:\.0*)?\s*")

#: what JavaScript leaves where a text should be
_EMPTY_WORDS = frozenset({"undefined", "null", "nan"})

_YES = frozenset({"true", "1", "yes", "on"})
_NO = frozenset({"false", "0", "no", "off", ""})


class Field:
    """One value of `job_input_data` and where it stands, such as `stages[1].quantity`."""

    def __init__(self, value: Any, path: str, repairs: list[Repair]) -> None:
        self.value = value
        self.path = path
        self._repairs = repairs

    @property
    def given(self) -> bool:
        """Whether there is anything: a missing key and null are the same."""
        return self.value is not None

    def note(self, problem: str) -> None:
        """Log that this field was read as something else than it says."""
        self._repairs.append(Repair(path=self.path, problem=problem))

    def refuse(self, problem: str) -> NoReturn:
        """Fail the job because of this field."""
        raise JobInputError(self.path, problem)

    # --- containers ----------------------------------------------------------------------------------

    def member(self, *names: str) -> Field:
        """The first of these keys that is given; the field itself must be an object."""
        prefix = f"{self.path}." if self.path else ""
        for name in names:
            if self.value.get(name) is not None:
                return Field(self.value[name], prefix + name, self._repairs)
        return Field(None, prefix + names[0], self._repairs)

    def as_object(self) -> Field | None:
        """This field if it is an object, or JSON text of one; else None."""
        if isinstance(self.value, dict):
            return self
        decoded = _decoded(self.value)
        if not isinstance(decoded, dict):
            return None
        self.note("is JSON text of an object; read as the object")
        return Field(decoded, self.path, self._repairs)

    def items(self, limit: int, *, item_keys: Sequence[str]) -> list[Field]:
        """The items of a list, without empty ones (null).

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
        decoded = _decoded(self.value)
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
        """A whole number from `low` to `high`; `39070.0` and `"39070"` are read as 39070. None: unusable."""
        number = _whole(self.value)
        if number is None or not low <= number <= high:
            return None
        if not isinstance(self.value, int):
            self.note(f"{shown(self.value)} read as {number}")
        return number

    def text(self, limit: int) -> str:
        """A stripped, storable text; empty when not given. A number is read as its text.

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
        """A short text that names something, such as an angle; empty when not given or unusable."""
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
        if word.lower() == "none":  # a proper way to say so
            return ""
        if word.lower() in _EMPTY_WORDS:
            self.note(f"{shown(word)} read as not given")
            return ""
        return word

    def flag(self) -> bool:
        """True or false, also as 1/0 and as text; anything else is false."""
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
        """A UUID; None when not given or not one."""
        if not self.given:
            return None
        try:
            return UUID(self.value.strip())
        except (ValueError, AttributeError):
            self.note(f"{shown(self.value)} is not a UUID; read as not given")
            return None

    def _storable(self, text: str) -> str:
        clean = storable(text)
        if clean != text:
            self.note("holds characters that cannot be stored; they were left out or replaced")
        return clean.strip()


def read_document(value: Any, repairs: list[Repair]) -> Field:
    """`job_input_data` as an object; JSON text of one (even encoded twice) is read as it.

    Raises:
        JobInputError: it is not an object.
    """
    field = Field(value, "job_input_data", repairs)
    for _ in range(2):
        if isinstance(field.value, str):
            field.note("is JSON text; read as what it holds")
            field = Field(_decoded(field.value), field.path, repairs)
    if not isinstance(field.value, dict):
        Field(value, field.path, repairs).refuse(f"{shown(value)} is not an object")
    return Field(field.value, "", repairs)


def _decoded(value: Any) -> Any:
    """What JSON text holds; None when it is no text or no JSON."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


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
