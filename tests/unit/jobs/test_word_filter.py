"""Words that a shot cannot show are cut by whole word, in Korean and English (domain.md §6)."""

from __future__ import annotations

import unicodedata

import pytest

from quel_dagster.jobs.categories.fashion import FOOTWEAR_WORDS, LOWER_BODY_WORDS
from quel_dagster.jobs.word_filter import cut_words

KOREAN = [
    "바지",
    "팬츠",
    "하의",
    "스커트",
    "치마",
    "청바지",
    "슬랙스",
    "신발",
    "슈즈",
    "운동화",
    "스니커즈",
    "부츠",
    "구두",
    "샌들",
    "로퍼",
]
ENGLISH = [
    "pants",
    "trousers",
    "jeans",
    "slacks",
    "shorts",
    "skirt",
    "shoes",
    "sneakers",
    "boots",
    "sandals",
    "loafers",
    "heels",
    "footwear",
    "socks",
    "stockings",
    "leggings",
    "tights",
]
ALL = LOWER_BODY_WORDS + FOOTWEAR_WORDS


def test_the_lists_are_those_of_the_contract() -> None:
    assert sorted(ALL) == sorted([*KOREAN, *ENGLISH])
    assert not set(LOWER_BODY_WORDS) & set(FOOTWEAR_WORDS)


@pytest.mark.parametrize("word", ENGLISH)
def test_every_english_word_is_cut_in_any_case(word: str) -> None:
    assert cut_words(f"red {word}, dusk", ALL) == "red, dusk"
    assert cut_words(f"{word.upper()} at dusk", ALL) == "at dusk"
    assert cut_words(word.capitalize(), ALL) == ""


@pytest.mark.parametrize("word", KOREAN)
@pytest.mark.parametrize(
    "particle", ["", "를", "을", "은", "는", "이", "가", "와", "과", "에", "로", "의", "도", "까지", "들을", "입니다"]
)
def test_every_korean_noun_is_cut_with_its_particle(word: str, particle: str) -> None:
    assert cut_words(f"빨간 {word}{particle} 입은", ALL) == "빨간 입은"


@pytest.mark.parametrize(
    "text",
    [
        "tighten the belt, skirting the wall, shoeshine, bootstrap, highheels",
        "바지락 파스타, 바지런한 사람, 구두쇠, 치마살, 신발장, 부츠컷",
        "반바지와 와이드팬츠",
        "pants_size and shorts2",
        "pants-suit",
        "  two  spaces , as the user wrote them",
        "",
    ],
)
def test_other_words_stay_to_the_letter(text: str) -> None:
    assert cut_words(text, ALL) == text


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("white shirt, blue jeans, and black shoes.", "white shirt, blue, and black."),
        ("shirt, pants, shoes, scarf", "shirt, scarf"),
        ("jeans, a shirt", "a shirt"),
        ("a shirt (and boots)", "a shirt (and)"),
        ("a shirt (boots)", "a shirt"),
        ("ankle-boots and knee-socks", "and"),
        ("the skirt's hem, the heels’ tips", "the hem, the tips"),
        ("white pants를 입은 모델", "white 입은 모델"),
        ("청바지, 운동화", ""),
        ("one\npants\ntwo", "one\n\ntwo"),
        ("바지/신발", "/"),
    ],
)
def test_what_is_left_is_closed_up(text: str, rest: str) -> None:
    assert cut_words(text, ALL) == rest


def test_decomposed_hangul_is_the_same_word() -> None:
    assert cut_words(unicodedata.normalize("NFD", "빨간 바지를 입은"), ALL) == "빨간 입은"


def test_no_words_cut_nothing() -> None:
    assert cut_words("pants", ()) == "pants"
