"""What a session said and when: the log facts of a run (domain.md §10) as values.

Of a long story the middle is left out, so that what it weighs does not grow with the job.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from quel_dagster.studio.outcomes import Moment

#: Takes one log line of the run (domain.md §10).
Say = Callable[[str], None]

#: Moments kept from the beginning and from the end; what lies between is counted.
FIRST, LAST = 150, 100
#: Characters of one moment.
LONGEST = 200


class Timeline:
    """Starts when it is made; belongs to one event loop."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: list[Moment] = []
        self._last: deque[Moment] = deque(maxlen=LAST)
        self._noted = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return round(time.monotonic() - self._started, 3)

    def note(self, step: str, what: str) -> None:
        moment = Moment(seconds=self.seconds, step=step, what=what if len(what) <= LONGEST else what[:LONGEST] + " …")
        self._noted += 1
        if len(self._first) < FIRST:
            self._first.append(moment)
        else:
            self._last.append(moment)

    def noting(self, step: str, say: Say) -> Say:
        """`say`, noting every line as it is said."""

        def say_and_note(line: str) -> None:
            self.note(step, line)
            say(line)

        return say_and_note

    def moments(self) -> tuple[Moment, ...]:
        """In order; one moment stands for those left out."""
        kept = len(self._first) + len(self._last)
        if kept == self._noted:
            return (*self._first, *self._last)
        gap = Moment(
            seconds=self._first[-1].seconds, step="", what=f"… {self._noted - kept} more lines, see the logs …"
        )
        return (*self._first, gap, *self._last)
