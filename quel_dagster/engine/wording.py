"""The text of `error_message`: which pictures are missing and why, in one line (domain.md §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quel_dagster.engine.outcomes import UnitOutcome
from quel_dagster.errors import QuelError

#: places and units listed by name; the rest is counted
NAMED = 8
#: maximum characters of `error_message`
LONGEST = 2000


def failures(outcomes: Sequence[UnitOutcome], stop: QuelError | None) -> str | None:
    """Return which pictures are missing and why; None when none is missing."""
    failed = [(outcome.unit, failure) for outcome in outcomes for failure in outcome.failed]
    if not failed:
        return str(stop) if stop else None
    total = sum(outcome.unit.quantity for outcome in outcomes)
    reasons: dict[str, list[str]] = {}
    for unit, failure in failed:
        reasons.setdefault(failure.reason, []).append(f"{unit.key} #{failure.slot.number}")
    listed = "; ".join(
        f"{', '.join(places[:NAMED])}{' …' if len(places) > NAMED else ''}: {why}" for why, places in reasons.items()
    )
    return f"{len(failed)} of {total} pictures failed. {listed}"[:LONGEST]


def lost_references(by_unit: Mapping[str, Sequence[str]]) -> str | None:
    """Return which units were made without a requested reference, and why; None when there is none."""
    lost = [f"{key}: {clause}" for key, clauses in by_unit.items() for clause in clauses]
    if not lost:
        return None
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    return f"Made without some references: {'; '.join(lost[:NAMED])}{more}."[:LONGEST]


def left_out_units(keys: Sequence[str]) -> str | None:
    """Return which units the run's config left out; None when there is none."""
    if not keys:
        return None
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return f"This run's config left out some units: {', '.join(keys[:NAMED])}{more}; run the whole job for the rest."
