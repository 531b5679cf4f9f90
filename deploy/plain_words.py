"""Count the words that this project avoids; behind `make check`.

    python -m deploy.plain_words              # fail when a word is used more often than its budget allows
    python -m deploy.plain_words FOLDER ...   # list the lines of these folders that hold one

They hide the actor (whoever, nobody), are metaphors (away, keeper) or have a shorter plain form (anew: again).
Names count too: `away_since` and `AwayError` hold one each.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Word → how often it may occur outside of `ALLOWED`: a twentieth of the count when this check was written.
BUDGET = {
    **{  # the most frequent
        "told": 7,
        "away": 4,
        "patience": 5,
        "nobody": 4,
        "whose": 3,
        "keeper": 2,
        "shelf": 2,
        "ticket": 2,
        "whatever": 2,
    },
    **dict.fromkeys(["whoever", "somebody", "anew", "for good", "of ours", "says so", "bury"], 1),
    **dict.fromkeys(["someone", "whichever", "in vain", "say so", "mend", "mends", "mended", "buried", "goodbye"], 0),
}
#: Files that hold them with a reason, as prefixes.
ALLOWED = (
    "deploy/plain_words.py",
    "docs/domain.md",  # the contract
    "docs/prompts.md",  # made from the prompts
    "quel_dagster/jobs/categories/",  # the prompts
    "tests/unit/jobs/test_composing.py",  # quotes the prompts
    "quel_dagster/adapters/database/migrations/",  # an applied migration is never changed
    "docs/schema/",  # made from the migrations
    "CHANGELOG.md",  # entries of past versions
    "requirements.lock",
    "deploy/requirements.lock",
)
_SPACE = r"[\s_-]"
_ANYWHERE = "|".join(word.replace(" ", _SPACE) for word in BUDGET)
_CAMEL_CASE = "|".join(word.title() for word in BUDGET if " " not in word)
#: Each word between non-letters in any case, and as a part of a name in CamelCase.
_PATTERN = re.compile(rf"(?<![A-Za-z])(?i:{_ANYWHERE})(?![A-Za-z])|(?:{_CAMEL_CASE})(?![a-z])")


def main(folders: Sequence[str]) -> int:
    """Print the lines of `folders`, or check the budgets; return the exit code."""
    if folders:
        sys.stdout.writelines(f"{place}: {line}\n" for _, place, line in _found() if place.startswith(tuple(folders)))
        return 0
    places: dict[str, list[str]] = {}
    for word, place, _ in _found():
        places.setdefault(word, []).append(place)
    over = {word: found for word, found in places.items() if len(found) > BUDGET[word]}
    for word, found in over.items():
        sys.stderr.write(f"{word!r}: {len(found)} times, at most {BUDGET[word]}: {', '.join(sorted(set(found)))}\n")
    return 1 if over else 0


def _found() -> Iterator[tuple[str, str, str]]:
    """Yield word, place and line of every use in the files that git tracks; a file's name is its line 0."""
    names = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()  # noqa: S607
    for name in names:
        if name.startswith(ALLOWED) or not Path(name).is_file() or Path(name).is_symlink():
            continue
        try:
            lines = Path(name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:  # a picture
            continue
        for number, line in enumerate([name, *lines]):
            for match in _PATTERN.finditer(line):
                yield re.sub(_SPACE, " ", match[0].lower()), f"{name}:{number}", line.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
