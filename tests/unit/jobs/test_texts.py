from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quel_dagster.adapters.gemini.excerpts import excerpt
from quel_dagster.jobs.texts import shown, without_links

#: what remark-gfm, which Dagster's pages use, and common log viewers make links of
LINK = re.compile(r"\w://|www\.|[-.\w+]@[-\w]+\.[-\w]", re.IGNORECASE)
#: characters on which the patterns branch
PIECES = st.lists(st.sampled_from(["http", "://", ":", "//", "www", "WWW", ".", "@", "a", "-", "+", " ", "é"]))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("see http://attacker.example/a?b", "see http[:]//attacker.example/a?b"),
        ("HTTPS://x.example", "HTTPS[:]//x.example"),
        ("Www.attacker.example", "Www[.]attacker.example"),
        ("ana@attacker.example", "ana[@]attacker.example"),
        ("a ratio of 16:9 @ 4K, 3. and w.", "a ratio of 16:9 @ 4K, 3. and w."),
    ],
)
def test_addresses_are_broken_and_stay_readable(text: str, plain: str) -> None:
    assert without_links(text) == plain
    assert shown(text) == f'"{plain}"'
    assert excerpt(text) == plain


@given(PIECES)
def test_nothing_is_left_that_becomes_a_link(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert not LINK.search(without_links(text))
    assert not LINK.search(shown(text))
    assert not LINK.search(excerpt(text))
