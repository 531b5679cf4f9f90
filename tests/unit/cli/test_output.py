"""What is printed is whole, harmless and readable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from quel_dagster.cli.output import ago, at, plural, print_json, print_table, printable, span


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[2Jb\x00\u202ec\x9b\r\t") == "a\\x1b[2Jb\\x00\\u202ec\\x9b\\r\\t"
    assert printable("Größe 바지 🎬\nnext") == "Größe 바지 🎬\nnext"


def test_a_table_cuts_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ids = [str(uuid4()) for _ in range(3)]
    print_table(("JOB", ">N", "KEY", "~WHY"), [(name, 5, "k" * 150, "[red]words[/red] " * 30) for name in ids])
    out = capsys.readouterr().out
    for whole in (*ids, "k" * 150, "[red]words[/red]"):
        assert whole in out
    assert out.count("words") == 90


def test_a_value_that_is_none_is_blank(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [(None, 1)])
    assert "None" not in capsys.readouterr().out


def test_json_takes_ids_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"at": datetime(2026, 11, 22, tzinfo=UTC), "name": "Größe"})
    assert capsys.readouterr().out == '{\n  "at": "2026-11-22T00:00:00+00:00",\n  "name": "Größe"\n}\n'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d"), (-240, "-4 min")],
)
def test_a_length_of_time_has_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_moments() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert ago(now - timedelta(minutes=5), now=now) == "5 min"
    assert at(now) == "2026-11-22 12:00:00 UTC"
    assert ago(None) is at(None) is None


def test_plural() -> None:
    assert [plural(n, "picture") for n in (0, 1, 1234)] == ["0 pictures", "1 picture", "1,234 pictures"]
