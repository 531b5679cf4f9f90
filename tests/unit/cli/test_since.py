"""`--since` reads lengths and moments, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from quel_dagster.cli.since import parse_since


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("30 min", timedelta(minutes=30)),
        ("24h", timedelta(hours=24)),
        ("1.5H", timedelta(minutes=90)),
        (" 7d ", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_a_length_is_before_now(text: str, length: timedelta) -> None:
    before = datetime.now(UTC)
    assert before - length <= parse_since(text) <= datetime.now(UTC) - length


def test_a_moment() -> None:
    assert parse_since("2026-11-22T10:00:00+02:00") == datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert parse_since("2026-11-22") == datetime(2026, 11, 22).astimezone(UTC)


@pytest.mark.parametrize("text", ["", "h", "-3h", "3 years", "yesterday", "2026-13-01", "9" * 30 + "d"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_since(text)
