from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quel_dagster.errors import ReferenceUnavailableError, StorageKeyError
from quel_dagster.jobs.model import Attach
from quel_dagster.jobs.references import MAX_KEY_BYTES, checked_key, is_generated_for_another, reference_key


def attach(file_path: str | None, directory: str | None = None) -> Attach:
    return Attach(attach_id=39070, file_path=file_path, directory=directory)


@pytest.mark.parametrize(
    ("file_path", "directory", "key"),
    [
        ("folder/a.png", "other/b.png", "folder/a.png"),
        ("", "other/b.png", "other/b.png"),
        ("  ", "other/b.png", "other/b.png"),
        (None, "other/b.png", "other/b.png"),
        ("upload-17.png", None, "uploads/upload-17.png"),
        (None, "upload-17.png", "uploads/upload-17.png"),
        ("uploads/upload-17.png", None, "uploads/upload-17.png"),
        ("folder/upload-17.png", None, "folder/upload-17.png"),
        ("uploaded.png", None, "uploaded.png"),
    ],
)
def test_the_key_is_the_file_path_or_else_the_directory(file_path: str | None, directory: str | None, key: str) -> None:
    assert reference_key(attach(file_path, directory)) == key


@pytest.mark.parametrize(("file_path", "directory"), [(None, None), ("", ""), (" ", None)])
def test_a_row_without_a_path_is_an_unavailable_reference(file_path: str | None, directory: str | None) -> None:
    with pytest.raises(ReferenceUnavailableError, match="39070"):
        reference_key(attach(file_path, directory))


def test_a_refused_file_path_is_not_replaced_by_the_directory() -> None:
    with pytest.raises(StorageKeyError):
        reference_key(attach("../secret", "fine/b.png"))


@pytest.mark.parametrize(
    "key",
    [
        "generated-images/user-6f1c/j_u0000_p0001.webp",
        "uploads/my summer photo (2).png",
        "uploads/상의 – 여름／하의.png",
        "uploads/naïve+café=ok&more.png",
        "uploads/me@2x.png",
        "uploads/100%.png",
        "uploads/a#b?c.png",
        "uploads/IMG 12:30:05.png",
        "uploads/.hidden",
        "uploads/dots...png",
        "uploads/👩‍🎤.png",
    ],
)
def test_ordinary_names_stay_as_they_are(key: str) -> None:
    assert checked_key(key) == key


def test_percent_encoding_is_undone_once() -> None:
    assert checked_key("uploads/my%20photo%20%ED%95%9C.png") == "uploads/my photo 한.png"


@pytest.mark.parametrize(
    "key",
    [
        "../etc/passwd",
        "a/../../b.png",
        "a/..",
        "./a.png",
        "a/./b.png",
        "%2e%2e/b.png",
        "a/%2E%2e/b.png",
        "a/.%2e/b.png",
        "%252e%252e/b.png",
        "a%252fb.png",
        "a/%2525.png",
        "..%2fb.png",
        "..%5cb.png",
        "．．/b.png",
        "‥/b.png",
        "a/․․/b.png",
        "..／b.png",
        "/etc/passwd",
        "//evil.example/a.png",
        "%2f%2fevil.example/a.png",
        "http://evil.example/a.png",
        "HTTPS://evil.example/a.png",
        "file:///etc/passwd",
        "http:/evil.example/a.png",
        "http%3A%2F%2Fevil.example/a.png",
        "C:/windows/a.png",
        "@evil.example/a.png",
        "%40evil.example/a.png",
        "\\\\host\\share",
        "a\\..\\b.png",
        "a//b.png",
        "a/b/",
        "",
        "a\nb.png",
        "a\x00b.png",
        "a%00b.png",
        "a%0d%0aHost: evil",
        "a\u2028b.png",
        "a%ff.png",
        "a\udcff.png",
        "k" * (MAX_KEY_BYTES + 1),
        "한" * 400,
    ],
)
def test_what_could_point_outside_is_refused(key: str) -> None:
    with pytest.raises(StorageKeyError) as refusal:
        checked_key(key)
    message = str(refusal.value)
    assert message.isprintable()
    assert "\n" not in message
    assert len(message) < 300


@given(st.text(max_size=60) | st.text(alphabet="./%2eEfF5cC\\@:ab", max_size=30))
def test_a_key_that_passes_is_plain_and_passes_again(text: str) -> None:
    try:
        key = checked_key(text)
    except StorageKeyError:
        return
    assert checked_key(key) == key
    assert not {"", ".", ".."} & set(key.split("/"))
    assert not key.startswith(("/", "@"))
    assert "\\" not in key


def test_one_leading_slash_is_the_root_of_the_store() -> None:
    assert reference_key(Attach(attach_id=1, file_path="/uploads/x.jpg", directory=None)) == "uploads/x.jpg"
    assert reference_key(Attach(attach_id=1, file_path="/upload-7.jpg", directory=None)) == "uploads/upload-7.jpg"


@pytest.mark.parametrize(
    "path", ["//evil.example/a.png", "/../a.png", "/%2e%2e/a.png", "/", "/@evil.example/a", "/a//b"]
)
def test_a_leading_slash_opens_no_other_door(path: str) -> None:
    with pytest.raises(StorageKeyError):
        reference_key(Attach(attach_id=1, file_path=path, directory=None))


MEMBER, OTHER = UUID("5f2a4c1e-0d8b-4c8e-9a52-5b6f7e1d2c3a"), UUID("00000000-0000-4000-8000-000000000001")


@pytest.mark.parametrize(
    ("key", "foreign"),
    [
        (f"generated-images/user-{MEMBER}/a.webp", False),
        (f"generated-images/user-{str(MEMBER).upper()}/a.webp", False),
        (f"generated-images/user-{OTHER}/a.webp", True),
        ("generated-images/user-/a.webp", True),
        ("generated-images/user-other/deeper/a.webp", True),
        ("Generated-Images/User-other/a.webp", True),
        ("generated-images/a.webp", False),
        ("uploads/generated-images/user-x.webp", False),
    ],
)
def test_generated_picture_of_another_member_is_recognized(key: str, foreign: bool) -> None:
    assert is_generated_for_another(key, MEMBER) is foreign


def test_without_a_member_every_generated_picture_is_anothers() -> None:
    assert is_generated_for_another(f"generated-images/user-{MEMBER}/a.webp", None)
