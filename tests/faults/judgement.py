"""What a finished installation owes its users: every picture that was asked for, or a reason that it could not help.

Compares the rows with the orders: with what a user asked for, and with what the harness did to it on purpose. Knows
nothing of the code that made the pictures. The fault tests and the soak have no other rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

#: The rows that `judge` takes; the caller appends a condition.
ROWS = """
select job_id, job_status::text as status, total_images, coalesce(completed_images, 0) as completed_images,
       error_message,
       array(select array[s.unit, s.number] from quel_dagster.picture_slot s
             where s.job_id = j.job_id and s.attach_id is not null) as slots
from quel_production_jobs j
"""
_HEADING = re.compile(r"(?P<failed>\d+) of (?P<total>\d+) pictures failed\. ")
#: `stage0 #1, stage2 #0 …: why`; a reason may hold semicolons and colons, but no place
_PLACES = re.compile(r"(?:^|; )(?P<places>[\w-]+ #\d+(?:, [\w-]+ #\d+)*)(?P<more> …)?: ")

Slot = tuple[int, int]


@dataclass(frozen=True)
class Excuse:
    """A reason that the harness causes on purpose."""

    #: found in the reason of a missing picture
    reason: re.Pattern[str]
    #: at most so many pictures of the job; None: all
    pictures: int | None = None


@dataclass
class Order:
    """What a user asked for, and what the harness did to it on purpose."""

    job_id: UUID
    pictures: int
    #: (unit, number) of each picture; None when the input has to be repaired first
    slots: frozenset[Slot] | None = None
    #: statuses in which it may end with any number of pictures: it was cancelled, or its run was terminated
    stopped: set[str] = field(default_factory=set)
    excuses: list[Excuse] = field(default_factory=list)

    def excuse(self, reason: str, pictures: int | None = None) -> None:
        """Accept a missing picture with a reason that contains this pattern."""
        self.excuses.append(Excuse(re.compile(reason), pictures))


@dataclass(frozen=True)
class Missing:
    """Pictures that a job's `error_message` names, and their reason."""

    #: None: the message does not count them
    pictures: int | None
    reason: str


@dataclass(frozen=True)
class Lost:
    """A job that got less than was asked for, without an excuse."""

    job_id: UUID
    status: str
    made: int
    asked: int
    #: pictures without an excuse
    pictures: int
    #: what is wrong
    why: str

    def __str__(self) -> str:
        return f"job {self.job_id} {self.status} with {self.made} of {self.asked} pictures: {self.why}"


@dataclass(frozen=True)
class Judgement:
    """The result of the comparison."""

    #: pictures that were asked for, of jobs that were not stopped
    asked: int
    #: of these, the pictures that were made
    made: int
    lost: tuple[Lost, ...]
    #: jobs that got fewer pictures because of the harness, and how many pictures
    excused: Mapping[UUID, int]

    def lines(self) -> Iterator[str]:
        yield f"asked        {self.asked} pictures of jobs that were not stopped, {self.made} made"
        yield f"excused      {sum(self.excused.values())} pictures of {len(self.excused)} jobs, spoilt by the harness"
        yield f"lost         {sum(job.pictures for job in self.lost)} pictures of {len(self.lost)} jobs"


def judge(rows: Iterable[Mapping[str, Any]], orders: Iterable[Order]) -> Judgement:
    """Compare finished jobs, as rows of `ROWS`, with their orders."""
    found = {row["job_id"]: row for row in rows}
    lost: list[Lost] = []
    excused: dict[UUID, int] = {}
    total = made = 0
    for order in orders:
        row = found.get(order.job_id)
        if row is None:
            lost.append(Lost(order.job_id, "gone", 0, order.pictures, order.pictures, "its row is gone"))
            continue
        if row["status"] in order.stopped:
            continue
        total += order.pictures
        made += min(order.pictures, row["completed_images"])
        missing = max(0, order.pictures - row["completed_images"])
        if why := _complaint(row, order, missing):
            lost.append(Lost(order.job_id, row["status"], row["completed_images"], order.pictures, missing, why))
        elif missing:
            excused[order.job_id] = missing
    return Judgement(asked=total, made=made, lost=tuple(lost), excused=excused)


def _complaint(row: Mapping[str, Any], order: Order, missing: int) -> str | None:
    """Return what is wrong with a job that was not stopped; None when it is whole or excused."""
    if row["status"] in {"pending", "processing"}:
        return "it has not ended"
    if row["status"] not in {"completed", "failed"}:
        return "the harness did not stop it so"
    slots = {(unit, number) for unit, number in row["slots"]}
    if order.slots is not None and not slots <= order.slots:
        return f"pictures that were not asked for: {sorted(slots - order.slots)}"
    error = row["error_message"]
    if error is None:
        if missing:
            return f"{missing} pictures are missing without a reason"
        return None if row["status"] == "completed" else "it failed with every picture made"
    return _unexcused(read_message(error), order, missing)


def _unexcused(parts: Sequence[Missing], order: Order, missing: int) -> str | None:
    """Return the first reason of a missing picture that no excuse covers, or what the message leaves out."""
    left = [excuse.pictures for excuse in order.excuses]
    named = 0
    for part in parts:
        pictures = missing - named if part.pictures is None else part.pictures
        named += pictures
        for place, excuse in enumerate(order.excuses):
            room = left[place]
            if excuse.reason.search(part.reason) and (room is None or room >= pictures):
                left[place] = None if room is None else room - pictures
                break
        else:
            return f"{pictures} pictures without an excuse: {part.reason}"
    return f"its message names {named} of {missing} missing pictures" if named != missing else None


def read_message(error: str) -> list[Missing]:
    """Return the reasons in an `error_message`, each with the number of its pictures.

    A message without the list of pictures is one reason for all of them.
    """
    heading = _HEADING.match(error)
    if heading is None:
        return [Missing(None, error)]
    listed, note, lost_references = error[heading.end() :].partition(" Made without some references: ")
    marks = list(_PLACES.finditer(listed))
    ends = [mark.start() for mark in marks[1:]] + [len(listed)]
    counts = [len(mark["places"].split(", ")) for mark in marks]
    # The list of a reason stops after some places; what it leaves out is counted in the heading alone.
    unnamed = int(heading["failed"]) - sum(counts)
    parts = []
    for mark, count, end in zip(marks, counts, ends, strict=True):
        more = unnamed if mark["more"] else 0
        unnamed -= more
        parts.append(Missing(count + more, listed[mark.end() : end]))
    if unnamed:
        parts.append(Missing(unnamed, "the message names them nowhere"))
    if note:
        parts.append(Missing(0, f"{note.strip()} {lost_references}"))
    return parts


def slots_asked_for(job_type: str, total: int, data: Any) -> frozenset[Slot] | None:
    """Return the pictures that this input asks for (domain.md §4); None where it has to be repaired first."""
    units: Any = [{"quantity": total}]
    if isinstance(data, Mapping) and (
        name := {"single_batch": "combinations", "pipeline_stage": "stages"}.get(job_type)
    ):
        units = data.get(name) or units
    if not isinstance(units, list) or not all(isinstance(unit, Mapping) for unit in units):
        return None
    quantities = [unit.get("quantity") for unit in units]
    in_order = all(unit.get("stage_index", place) == place for place, unit in enumerate(units))
    if not in_order or not all(type(each) is int and each > 0 for each in quantities) or sum(quantities) != total:
        return None
    return frozenset((unit, number) for unit, each in enumerate(quantities) for number in range(each))
