"""`--since`: a duration before now, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_since(text: str) -> datetime:
    """Parse `24h`, `30m`, `7d`, `2w`, or an ISO date or time; without an offset it is local time.

    Raises:
        typer.BadParameter: neither.
    """
    if match := _LENGTH.fullmatch(text.strip()):
        try:
            return datetime.now(UTC) - timedelta(seconds=float(match[1]) * _SECONDS[match[2].lower()])
        except OverflowError:
            raise typer.BadParameter(f"{text} is too long.") from None
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a duration (30m, 24h, 7d) nor a date (2026-11-22).") from None


Since = Annotated[
    datetime | None,
    typer.Option(
        parser=parse_since,
        metavar="TIME",
        help="Jobs created or ended since: 30m, 24h, 7d, or a date such as 2026-11-22.",
    ),
]
