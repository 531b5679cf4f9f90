"""Text that came from a browser, made storable: valid UTF-8 and nothing that PostgreSQL refuses."""

from __future__ import annotations

import json
import re

#: NUL cannot be stored by PostgreSQL; the other control characters mean nothing in a prompt
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def storable(text: str) -> str:
    """`text` without control characters, lone surrogates replaced by U+FFFD; tabs and line ends stay."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CONTROL.sub("", whole)


def slug(text: str, separator: str = "-") -> str:
    """`text` as a lower-case ASCII name: "Bird's Eye" → "birds-eye"; empty when nothing of it is ASCII."""
    plain = text.lower().replace("'", "").replace("’", "")
    return re.sub(r"[^a-z0-9]+", separator, plain).strip(separator)


def shown(value: object) -> str:
    """A JSON value as a log line shows it: short, on one line, never a whole document."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        start = " ".join(storable(value[:41]).split())
        return json.dumps(start if len(value) <= 40 else f"{start[:40]}…", ensure_ascii=False)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**18:
        return "a number of 19 or more digits"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return f"a {type(value).__name__}"
