"""Where a picture lies says which job and slot it is of."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quel_dagster.jobs.model import Slot
from quel_dagster.jobs.storage_keys import picture_key, slot_of_key

USER = UUID("11111111-1111-4111-8111-111111111111")
JOB = UUID("22222222-2222-4222-8222-222222222222")
OTHER = UUID("33333333-3333-4333-8333-333333333333")

slots = st.builds(Slot, unit=st.integers(0, 100_000), number=st.integers(0, 100_000))
sortable = st.builds(Slot, unit=st.integers(0, 9_999), number=st.integers(0, 9_999))


def test_the_key_as_it_is_written() -> None:
    key = picture_key(USER, JOB, Slot(unit=2, number=1))
    assert key == f"generated-images/user-{USER}/{JOB}_u0002_p0001.webp"


@given(slots)
def test_a_key_names_its_slot(slot: Slot) -> None:
    assert slot_of_key(picture_key(USER, JOB, slot), JOB) == slot


@given(slots)
def test_a_key_of_another_job_names_none(slot: Slot) -> None:
    assert slot_of_key(picture_key(USER, JOB, slot), OTHER) is None


@given(sortable, sortable)
def test_keys_sort_as_slots_do(first: Slot, second: Slot) -> None:
    in_order = (first.unit, first.number) < (second.unit, second.number)
    assert (picture_key(USER, JOB, first) < picture_key(USER, JOB, second)) == in_order


@pytest.mark.parametrize(
    "key",
    [
        "",
        "generated-images/user-1/generated_1699.webp",
        f"{JOB}.webp",
        f"{JOB}_u0001.webp",
        f"{JOB}_u1_p1.webp",
        f"{JOB}_u0001_p0001.png",
        f"{JOB}_u0001_p0001.webp.bak",
        f"x{JOB}_u0001_p0001.webp",
        f"{JOB}_u0001_p0001.webp/other",
        f"{JOB}_u-001_p0001.webp",
    ],
)
def test_a_name_that_another_program_made_has_no_slot(key: str) -> None:
    assert slot_of_key(key, JOB) is None


def test_the_folder_does_not_matter() -> None:
    assert slot_of_key(f"{JOB}_u0000_p0003.webp", JOB) == Slot(unit=0, number=3)
    assert slot_of_key(f"elsewhere/{JOB}_u0000_p0003.webp", JOB) == Slot(unit=0, number=3)
