"""Read the lists in Redis at one instant, for read-only commands (domain.md §1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from quel_dagster.adapters.queue import AGAIN, DEAD, DELIVERIES, PROCESSING, QUEUE, JobQueue
from quel_dagster.adapters.queue_entries import DEAD_VALUE_BYTES, LETTER_BYTES, DeadLetter, Delivery, job_id_of

#: The entries of the lists KEYS[1…3] of at most ARGV[1] bytes and of KEYS[4] of at most ARGV[2], oldest first, and the
#: hash KEYS[5]: at one instant, since a script is one.
_SNAPSHOT = """
local answer = {}
for list = 1, 4 do
    local longest = tonumber(list == 4 and ARGV[2] or ARGV[1])
    local entries, found = redis.call('LRANGE', KEYS[list], 0, -1), {}
    for place = #entries, 1, -1 do
        if #entries[place] <= longest then found[#found + 1] = entries[place] end
    end
    answer[list] = found
end
answer[5] = redis.call('HGETALL', KEYS[5])
return answer
"""


@dataclass(frozen=True)
class QueueSnapshot:
    """The lists of job ids."""

    #: ids in `jobs:again` and `jobs:queue`
    waiting: frozenset[UUID]
    #: entries of `jobs:processing`, equal ones as one; the number is empty for one that no tick has seen yet
    processing: tuple[Delivery, ...]
    #: ids in `jobs:dead`
    dead: frozenset[UUID]

    @property
    def underway(self) -> frozenset[UUID]:
        """The ids that wait for a run."""
        return self.waiting | {delivery.job_id for delivery in self.processing if delivery.job_id}


def take_snapshot(queue: JobQueue) -> QueueSnapshot:
    """Read every list at one instant, changing nothing: `JobQueue.deliveries` would number the entries."""
    again, waiting, processing, dead, pairs = cast(
        list[list[bytes]],
        queue._redis.eval(_SNAPSHOT, 5, AGAIN, QUEUE, PROCESSING, DEAD, DELIVERIES, DEAD_VALUE_BYTES, LETTER_BYTES),
    )
    numbers = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return QueueSnapshot(
        waiting=_ids([*again, *waiting]),
        processing=tuple(
            Delivery(
                raw=raw,
                job_id=job_id_of(raw),
                number=numbers.get(str(job_id_of(raw)).encode(), b"").decode(),
                copies=copies,
            )
            for raw, copies in Counter(processing).items()
        ),
        dead=frozenset(job_id for raw in dead if (job_id := DeadLetter.read(raw).job_id)),
    )


def _ids(entries: Iterable[bytes]) -> frozenset[UUID]:
    return frozenset(job_id for raw in entries if (job_id := job_id_of(raw)))
