"""Remove the words from a prompt that a shot cannot show (domain.md §6), whole words in Korean and English.

A whole English word is not part of a longer one: "tights" does not match "tighten". In a hyphenated compound the last
part decides, and the whole compound is removed ("ankle-boots"). A Korean noun is removed with its particles (바지를,
신발은), but only when nothing except particles follows the noun: 바지락 (a clam) and 청바지 stay unless they are listed
themselves. An English word with a Korean particle ("pants를") is removed like a Korean one. Doubled spaces and commas
at a cut are joined.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

#: particles and forms of the copula that may follow a Korean noun; the end of the word decides which
_PARTICLES = (
    "은|는|이|가|을|를|의|에|에서|에게|께서|로|으로|와|과|랑|이랑|하고|도|만|까지|부터|마저|조차|처럼|보다|마다|"
    "나|이나|든지|이든지|며|이며|이고|인|이다|입니다|예요|이에요|라|이라|"
    "에는|에도|에만|에서는|에서도|로는|로만|로도|으로는|으로만|으로도|와는|와도|과는|과도|까지는|까지도|까지만|"
    "부터는|만을|만은|만이|만으로"
)


def cut_words(text: str, words: Sequence[str]) -> str:
    """Return `text` without `words`; exactly `text` when it holds none of them.

    Linear in the text, which has no long runs of combining marks (`texts.storable`).
    """
    composed = unicodedata.normalize("NFC", text)
    cut, number = _pattern(tuple(words)).subn("", composed)
    return _closed_up(cut) if number else text


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    english = "|".join(re.escape(word) for word in words if word.isascii())
    korean = "|".join(re.escape(word) for word in words if not word.isascii())
    tail = rf"(?:들)?(?:{_PARTICLES})?(?!\w)"
    alternatives = []
    if english:
        alternatives.append(
            rf"(?<![A-Za-z0-9_])(?<![A-Za-z0-9]-)(?:[A-Za-z]+-)*(?:{english})(?:['’]s|['’](?!\w))?(?!-\w){tail}"
        )
    if korean:
        alternatives.append(rf"(?<!\w)(?:{korean}){tail}")
    return re.compile("|".join(alternatives) or r"(?!)", re.IGNORECASE)


def _closed_up(text: str) -> str:
    """Join the text on both sides of a cut: no doubled spaces or commas, no empty brackets."""
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" (?=[,.;:!?)\]\n])|(?<=[(\[\n]) ", "", text)
    text = re.sub(r",(?:\s*+,)+", ",", text)
    text = re.sub(r",(?=[.;:!?)\]])|(?<=[(\[]),|\(\)|\[\]", "", text)
    text = re.sub(r"(?m)^[ ,;]+", "", text)
    # only from the start of a run: from each of its characters, a long run would take quadratic time
    return re.sub(r"(?m)(?<![ ,;])[ ,;]++$", "", text).strip()
