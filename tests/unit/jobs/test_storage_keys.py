"""The storage key of a generated picture: readable, and impossible to guess."""

from __future__ import annotations

import re
from uuid import UUID

from quel_dagster.jobs.model import Slot
from quel_dagster.jobs.storage_keys import key_names_job, new_picture_key

USER = UUID("11111111-1111-4111-8111-111111111111")
JOB = UUID("22222222-2222-4222-8222-222222222222")
OTHER = UUID("33333333-3333-4333-8333-333333333333")


def test_a_key_names_member_job_and_slot_and_holds_128_random_bits() -> None:
    key = new_picture_key(USER, JOB, Slot(unit=2, number=1))
    assert re.fullmatch(rf"generated-images/user-{USER}/{JOB}_u0002_p0001_[0-9a-f]{{32}}\.webp", key)


def test_two_keys_of_one_slot_differ() -> None:
    keys = {new_picture_key(USER, JOB, Slot(unit=0, number=0)) for _ in range(100)}
    assert len(keys) == 100


def test_a_key_names_its_job_alone() -> None:
    key = new_picture_key(USER, JOB, Slot(unit=0, number=0))
    assert key_names_job(key, JOB)
    assert not key_names_job(key, OTHER)
    assert not key_names_job(f"generated-images/{JOB}_u0000/x.webp", JOB)
