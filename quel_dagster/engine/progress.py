"""Which pictures of a job exist, and what this run has made, failed and left out. Belongs to one event loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quel_dagster.adapters.database.records import Committed, Made
from quel_dagster.engine.outcomes import PictureFailed, PictureMade
from quel_dagster.engine.timeline import Timeline
from quel_dagster.jobs.model import Plan, Slot, Unit
from quel_dagster.jobs.slots import filled_slots, missing_slots, slots


class Progress:
    """The pictures of one job. `planned` comes first."""

    def __init__(self, made_before: Sequence[Made], timeline: Timeline) -> None:
        self._made_before = made_before
        self._timeline = timeline
        self._filled: dict[Slot, int] = {}
        #: slots that this run tried to fill and could not
        self.failed: set[Slot] = set()
        #: unit key → references that its pictures were made without
        self.lost: dict[str, tuple[str, ...]] = {}
        #: pictures that this run committed
        self.made = 0
        #: from the claim to the first of them
        self.first_picture_seconds: float | None = None

    def planned(self, plan: Plan) -> None:
        """Find the slots that the existing pictures fill."""
        self._filled = filled_slots(plan, ((picture.attach_id, picture.slot) for picture in self._made_before))

    def missing(self, unit: Unit) -> list[Slot]:
        """Return the slots of a unit without a picture."""
        return missing_slots(unit, self._filled)

    def count_missing(self, units: Iterable[Unit]) -> int:
        """Count the planned pictures of these units that do not exist yet."""
        return sum(len(self.missing(unit)) for unit in units)

    def existing(self, unit: Unit) -> list[PictureMade]:
        """Return the pictures of a unit that exist."""
        return [
            PictureMade(slot=slot, attach_id=self._filled[slot], key="", new=False)
            for slot in slots(unit)
            if slot in self._filled
        ]

    def commit(self, slot: Slot, committed: Committed) -> None:
        """Record a committed picture."""
        self._filled[slot] = committed.attach_id
        if committed.taken:
            return
        self.made += 1
        if self.first_picture_seconds is None:
            self.first_picture_seconds = self._timeline.seconds

    def note(self, results: Iterable[PictureMade | PictureFailed]) -> None:
        """Record how the pictures of a unit ended."""
        for result in results:
            if isinstance(result, PictureMade):
                self._filled.setdefault(result.slot, result.attach_id)
                self.failed.discard(result.slot)
            elif not result.stopped:
                self.failed.add(result.slot)
