"""Takes words out of a prompt that a shot cannot show (domain.md §6), by whole word, in Korean and English.

A whole English word is not part of a longer one ("tights" leaves "tighten" alone); in a hyphenated compound
the last part decides, and all of it goes ("ankle-boots"). A Korean noun carries its particle with it, so
바지를 and 신발은 go whole, but only when what follows the noun is nothing except particles: 바지락 (a clam)
and 청바지 stay unless they are listed themselves. An English word with a Korean particle ("pants를") is cut
like a Korean one. What is left is closed up: no doubled spaces or commas.
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
    """`text` without any of `words`; unchanged, to the letter, when it holds none of them."""
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
    """Spaces and commas as somebody would write them who never wrote the words."""
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" (?=[,.;:!?)\]\n])|(?<=[(\[\n]) ", "", text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    text = re.sub(r",(?=[.;:!?)\]])|(?<=[(\[]),|\(\)|\[\]", "", text)
    text = re.sub(r"(?m)^[ ,;]+", "", text)
    return re.sub(r"(?m)[ ,;]+$", "", text).strip()
