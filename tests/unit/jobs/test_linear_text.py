"""The work on a user's text grows with its length, not with its square.

The texts are so long that quadratic work would take hours: a child process gets through all of them within the hang
guard, or the work is not linear. No time is compared.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

HANG_SECONDS = 240
#: 150 times the longest prompt; squared, 10^13 steps
LENGTH = 3_000_000
#: characters and words on which the patterns of the two functions branch
ATOMS = (" ", "\n", ",", ";", ", ", "; ,", "a", "a-", "-", "A B", "pants ", "pants-", "바지", "'", "[", "_", "é", ".")
ENDINGS = ("x", "", "C")

PROGRAM = """
import sys
from quel_dagster.jobs.categories.fashion import FOOTWEAR_WORDS, LOWER_BODY_WORDS
from quel_dagster.jobs.composing import without_camera_opening
from quel_dagster.jobs.word_filter import cut_words
from quel_dagster.jobs.texts import storable
length, attacks = int(sys.argv[1]), eval(sys.argv[2])
for start, atom, ending in attacks:
    text = start + atom * (length // len(atom)) + ending
    without_camera_opening(text, "A B", "C")
    cut_words(storable(text), [*LOWER_BODY_WORDS, *FOOTWEAR_WORDS])
print("done")
"""


def _passes(length: int, attacks: list[tuple[str, str, str]]) -> None:
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(length), repr(attacks)],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert child.stdout == "done\n", child.stderr


@pytest.mark.parametrize(
    ("start", "atom", "ending"),
    [
        ("A B", " ", "x"),  # the blanks between a camera's angle and its shot
        ("A", " ", "x"),
        ("pants x", ";", "x"),  # what is closed up at line ends
        ("pants x", " ,;", "x"),
        ("pants a", "\N{TIBETAN VOWEL SIGN II}", ""),  # of class 0, decomposes into two marks
        ("pants a", "\N{COMBINING ACUTE ACCENT}\N{COMBINING CEDILLA}", ""),
        ("pants", "\n,", "x"),
    ],
)
def test_a_hostile_prompt_costs_linear_work(start: str, atom: str, ending: str) -> None:
    _passes(LENGTH, [(start, atom, ending)])


def test_any_repetition_costs_linear_work() -> None:
    """Every start, repeated atom and ending of the characters on which the patterns branch."""
    starts = ("", "pants ", "A B,")
    attacks = [(start, atom, ending) for start, atom, ending in itertools.product(starts, ATOMS, ENDINGS)]
    _passes(300_000, attacks)
