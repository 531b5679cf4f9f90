"""The log lines of a session with their times: the log facts of a run (domain.md §10) as values.

The middle of a long timeline is left out, so that its size does not grow with the job.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from quel_dagster.engine.outcomes import Moment

#: Receives one log line of the run (domain.md §10).
LogLine = Callable[[str], None]

#: Moments kept from the beginning and from the end; those in between are only counted.
FIRST, LAST = 150, 100
#: Maximum characters of one moment.
LONGEST = 200


class Timeline:
    """Starts when it is created. Belongs to one event loop."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: list[Moment] = []
        self._last: deque[Moment] = deque(maxlen=LAST)
        self._noted = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self._started, 3)

    def note(self, step: str, what: str) -> None:
        moment = Moment(seconds=self.seconds, step=step, what=what if len(what) <= LONGEST else what[:LONGEST] + " …")
        self._noted += 1
        if len(self._first) < FIRST:
            self._first.append(moment)
        else:
            self._last.append(moment)

    def recording(self, step: str, log: LogLine) -> LogLine:
        """Return a callback that records each line and passes it on to `log`."""

        def log_and_record(line: str) -> None:
            self.note(step, line)
            log(line)

        return log_and_record

    def moments(self) -> tuple[Moment, ...]:
        """Return the moments in order; one moment stands for those left out."""
        kept = len(self._first) + len(self._last)
        if kept == self._noted:
            return (*self._first, *self._last)
        gap = Moment(
            seconds=self._first[-1].seconds, step="", what=f"… {self._noted - kept} more lines, see the logs …"
        )
        return (*self._first, gap, *self._last)
