"""Read JSON that `json.loads` refuses, with a mark in place of each value that cannot be read.

PostgreSQL stores any JSON: 1e5000 as a number of 5,001 digits, lists nested by the thousand. `json.loads` raises on
both inside the driver, so that one field makes the whole row unreadable.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

#: Prefix of the text that replaces an unreadable value.
MARK = "\N{REPLACEMENT CHARACTER} unreadable: "
#: Python converts no longer text to an integer (sys.int_info.default_max_str_digits).
MOST_DIGITS = 4_300
#: Levels of lists and objects. Serializers along the way have limits of their own, the lowest at 255.
MOST_LEVELS = 64

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


def read_json(text: str | bytes) -> Any:
    """Parse JSON text; a number or a part that cannot be read becomes a text that begins with MARK.

    Linear in the text.

    Raises:
        ValueError: not JSON.
    """
    whole = text.decode() if isinstance(text, bytes) else text
    return json.loads(_cut_below(whole, MOST_LEVELS), parse_int=_whole_number, parse_float=_number)


def unreadable_part(value: Any, path: str = "") -> tuple[str, str] | None:
    """Return the path of the first part of `value` that could not be read, and what is wrong with it."""
    stack = [(path, value)]
    while stack:
        place, part = stack.pop()
        if isinstance(part, str) and part.startswith(MARK):
            return place, part.removeprefix(MARK)
        if isinstance(part, dict):
            stack += [(f"{place}.{key}" if place else str(key), part[key]) for key in reversed(part)]
        elif isinstance(part, list):
            stack += [(f"{place}[{number}]", part[number]) for number in reversed(range(len(part)))]
    return None


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= MOST_DIGITS else f"{MARK}a number of {len(digits.lstrip('-')):,} digits"


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else f"{MARK}a number beyond 10^308"


def _cut_below(text: str, levels: int) -> str:
    """Return `text` with a mark in place of every list and object that is nested deeper than `levels`."""
    depth, start = 0, 0
    pieces: list[str] = []
    for match in _STRING_OR_BRACKET.finditer(text):
        found = match[0]
        if found in "[{":
            depth += 1
            if depth == levels + 1:
                pieces.append(text[start : match.start()])
        elif found in "]}":
            if depth == levels + 1:
                pieces.append(json.dumps(f"{MARK}nested deeper than {levels} levels"))
                start = match.end()
            depth -= 1
    if depth > levels:
        raise ValueError("not JSON: a list or object does not end")
    return "".join([*pieces, text[start:]]) if pieces else text
