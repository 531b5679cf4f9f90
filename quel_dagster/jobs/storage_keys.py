"""The storage key of a generated picture (domain.md §7, §8).

`generated-images/user-{userId}/{jobId}_u0002_p0001_{random}.webp`: job and slot for people who look at a bucket, and
128 random bits, so that the address of a picture cannot be computed. Nothing reads a slot out of a key: the table
`quel_dagster.picture_slot` knows it.
"""

from __future__ import annotations

import secrets
from uuid import UUID

from quel_dagster.jobs.model import Slot

GENERATED = "generated-images/"


def new_picture_key(user_id: UUID, job_id: UUID, slot: Slot) -> str:
    """Return a new key for the picture in this slot; two calls never return the same."""
    return f"{GENERATED}user-{user_id}/{job_id}_{slot}_{secrets.token_hex(16)}.webp"


def key_names_job(key: str, job_id: UUID) -> bool:
    """Return whether the last part of this key names this job."""
    return key.rsplit("/", 1)[-1].startswith(f"{job_id}_")
