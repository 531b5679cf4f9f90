"""What lies in Redis at one instant, for those who only look (domain.md §1)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from quel_dagster.adapters.queue import DEAD, DELIVERIES, PROCESSING, QUEUE, Delivery, JobQueue


@dataclass(frozen=True)
class QueueSnapshot:
    """The lists of job ids."""

    #: ids in `jobs:queue`
    waiting: frozenset[UUID]
    #: entries of `jobs:processing`, equal ones as one; the number is empty for one that no tick has seen yet
    processing: tuple[Delivery, ...]
    #: ids in `jobs:dead`
    dead: frozenset[UUID]

    @property
    def underway(self) -> frozenset[UUID]:
        """Ids that wait for a run."""
        return self.waiting | {delivery.job_id for delivery in self.processing if delivery.job_id}


def take_snapshot(queue: JobQueue) -> QueueSnapshot:
    """Read every list in one transaction, changing nothing: `JobQueue.deliveries` would number the entries."""
    batch: Any = queue._redis.pipeline(transaction=True)
    batch.lrange(QUEUE, 0, -1).lrange(PROCESSING, 0, -1).hgetall(DELIVERIES).lrange(DEAD, 0, -1)
    waiting, processing, numbers, dead = batch.execute()
    return QueueSnapshot(
        waiting=_ids(waiting),
        processing=tuple(
            Delivery(
                raw=raw,
                job_id=_job_id(raw),
                number=numbers.get(str(_job_id(raw)).encode(), b"").decode(),
                copies=copies,
            )
            for raw, copies in Counter(reversed(processing)).items()
        ),
        dead=_ids((json.loads(letter)["value"] or "").encode() for letter in dead),
    )


def _ids(entries: Any) -> frozenset[UUID]:
    return frozenset(job_id for raw in entries if (job_id := _job_id(raw)))


def _job_id(raw: bytes) -> UUID | None:
    try:
        job_id = UUID(raw.decode("ascii"))
    except ValueError:
        return None
    return job_id if len(raw) == len(str(job_id)) else None
