"""The tree of exceptions: one readable line each, and what a caller may do about it."""

from __future__ import annotations

import inspect

import pytest

from quel_dagster import errors
from quel_dagster.errors import (
    GeminiError,
    GeminiRateLimitedError,
    InsufficientCreditsError,
    JobInputError,
    PayerError,
    QuelError,
    StorageError,
)

ALL = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, Exception)]
PLAIN = [each for each in ALL if each is not JobInputError]


def test_there_is_one_tree() -> None:
    assert all(issubclass(each, QuelError) for each in ALL)


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_the_default_message_is_the_first_line_of_the_docstring(kind: type[QuelError]) -> None:
    assert kind.__doc__
    assert str(kind()) == kind.__doc__.strip().splitlines()[0]
    assert str(kind("because")) == "because"


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_every_class_says_something_of_its_own(kind: type[QuelError]) -> None:
    assert [other for other in PLAIN if str(other()) == str(kind())] == [kind]


def test_a_message_is_one_line() -> None:
    assert str(QuelError("first\n  second\tthird ")) == "first second third"


def test_bad_input_opens_with_the_path_of_the_field() -> None:
    error = JobInputError("stages[1].quantity", "two is too many")
    assert str(error) == "stages[1].quantity: two is too many"
    assert (error.path, error.problem) == ("stages[1].quantity", "two is too many")


@pytest.mark.parametrize(
    ("name", "transient"),
    [
        ("GeminiRefusedError", False),
        ("GeminiRejectedError", False),
        ("GeminiUnavailableError", True),
        ("GeminiRateLimitedError", True),
        ("GeminiTimeoutError", True),
        ("GeminiBadAnswerError", True),
        ("StorageUnavailableError", True),
        ("ObjectNotFoundError", False),
        ("StorageKeyError", False),
    ],
)
def test_what_may_be_tried_again(name: str, transient: bool) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, GeminiError | StorageError)
    assert kind.transient is transient


def test_a_rate_limit_says_how_long_to_wait() -> None:
    assert GeminiRateLimitedError(retry_after=3.5).retry_after == 3.5
    assert GeminiRateLimitedError().retry_after is None
    assert GeminiError().retry_after is None


def test_an_empty_balance_is_a_matter_of_the_payer() -> None:
    assert issubclass(InsufficientCreditsError, PayerError)
