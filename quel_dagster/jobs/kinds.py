"""The kinds of jobs on the shared list that only the older worker makes (domain.md §1).

Not here: the SQL that finds the kind of a row (`adapters/database/kinds.py`); the reaction to it (sensor, sweep, ops,
CLI).
"""

from __future__ import annotations

from enum import StrEnum


class ForeignKind(StrEnum):
    """A kind of job that only the older worker makes. It is never drawn and never charged here."""

    INPAINTING = "inpainting"
    MULTIVIEW = "multiview"
    LANDING = "landing"

    @property
    def reason(self) -> str:
        """Return the reason why such a job does not run here, as its dead letter holds it."""
        return f"job of kind {self.value}, which only the older worker makes"
