"""Numbers and times as text, for the command line and the page."""

from __future__ import annotations

from datetime import UTC, datetime


def plural(number: int, noun: str) -> str:
    """Return a count such as `1 picture`, `2 pictures`, `2 breaches`."""
    ending = "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def at(moment: datetime | None) -> str | None:
    """Return a time to the second, in UTC."""
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(moment: datetime | None, *, now: datetime | None = None) -> str | None:
    """Return an age in one unit: `42 s`, `7 min`, `3 h`, `5 d`."""
    if moment is None:
        return None
    return span(((now or datetime.now(UTC)) - moment).total_seconds())


def span(seconds: float) -> str:
    """Return a duration in one unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from `start` to `end`; None when one is unknown."""
    return None if start is None or end is None else round((end - start).total_seconds(), 1)
