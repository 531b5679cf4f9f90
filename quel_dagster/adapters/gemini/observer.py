"""What happens while one picture is made, as events."""

from __future__ import annotations

from quel_dagster.errors import GeminiError


class Observer:
    """Gets the events of one picture. Override those of interest; the others do nothing."""

    def waiting(self, reason: str) -> None:
        """The gate or an outage delays a call."""

    def admitted(self, seconds: float) -> None:
        """A call may begin, after so long at the gate. That counts for no deadline and is no attempt."""

    def calling(self, number: int) -> None:
        """A request is sent: the first, second, … of this picture."""

    def retrying(self, number: int, error: GeminiError, pause: float) -> None:
        """This attempt failed; the next one begins after a pause of so many seconds."""

    def noted(self, note: str) -> None:
        """A remark for readers of the run: another model, another shape."""
