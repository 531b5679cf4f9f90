"""Where a generated picture lies: a storage key made from the job and the slot, the same on every rerun.

`generated-images/user-{userId}/{jobId}_u0002_p0001.webp` (domain.md §7; the name is ours). Keys of one job sort
in slot order, which is the order of `generated_attach_ids`.
"""

from __future__ import annotations

import re
from uuid import UUID

from quel_dagster.jobs.model import Slot


def picture_key(user_id: UUID, job_id: UUID, slot: Slot) -> str:
    """The key of the picture in this slot."""
    return f"generated-images/user-{user_id}/{job_id}_{slot}.webp"


def slot_of_key(key: str, job_id: UUID) -> Slot | None:
    """The slot that a key of this job names; None for a key that another program made."""
    match = re.search(rf"(?:^|/){re.escape(str(job_id))}_u(\d{{4,}})_p(\d{{4,}})\.webp$", key)
    return Slot(unit=int(match[1]), number=int(match[2])) if match else None
