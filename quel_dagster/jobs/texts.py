"""Clean text of users and of Gemini, for storage and for what operators read.

Storable text is valid UTF-8 without characters that PostgreSQL refuses and without long runs of combining marks. Shown
text is one line, and nothing in it becomes a link in a browser.
"""

from __future__ import annotations

import json
import re
import unicodedata

#: Combining marks in a row that are kept, as in Unicode's stream-safe format (UAX #15). Normalising sorts a run of
#: them in quadratic time; no script needs more than a handful.
MOST_MARKS = 30
#: NUL cannot be stored by PostgreSQL; the other control characters mean nothing in a prompt
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_WWW = re.compile(r"(www)\.", re.IGNORECASE)
_MAIL = re.compile(r"(?<=[\w.+-])@(?=[\w-]+\.[\w-])")


def storable(text: str) -> str:
    """Return `text` without control characters and long runs of combining marks; tabs and line ends stay.

    A lone surrogate becomes U+FFFD.
    """
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _with_few_marks(_CONTROL.sub("", whole))


def _with_few_marks(text: str) -> str:
    if text.isascii():
        return text
    kept, run = [], 0
    for character in text:
        # the category, not the combining class: U+0F73 has class 0 and decomposes into two marks
        run = run + 1 if unicodedata.category(character)[0] == "M" else 0
        if run <= MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def slug(text: str, separator: str = "-") -> str:
    """Return `text` as a lower-case ASCII name: "Bird's Eye" → "birds-eye"; empty when no character is ASCII."""
    plain = text.lower().replace("'", "").replace("’", "")
    return re.sub(r"[^a-z0-9]+", separator, plain).strip(separator)


def without_links(text: str) -> str:
    """Return `text` with its addresses broken: `http[:]//host`, `www[.]host`, `name[@]host`.

    The pages of Dagster make links of the addresses in a message; these would be links of a stranger.
    """
    return _MAIL.sub("[@]", _WWW.sub(r"\1[.]", text.replace("://", "[:]//")))


def shown(value: object) -> str:
    """Return a JSON value for a log line: short, on one line, without links, never a whole document."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        start = " ".join(storable(value[:41]).split())
        return json.dumps(without_links(start if len(value) <= 40 else f"{start[:40]}…"), ensure_ascii=False)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**18:
        return "a number of 19 or more digits"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return f"a {type(value).__name__}"
