"""Output is complete, harmless and readable."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from rich.console import Console

from quel_dagster.cli import output
from quel_dagster.cli.output import fail, print_facts, print_json, print_table, print_text, printable
from quel_dagster.console.words import ago, at, plural, span
from quel_dagster.errors import QuelError


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[2Jb\x00\u202ec\x9b\r\t") == "a\\x1b[2Jb\\x00\\u202ec\\x9b\\r\\t"
    assert printable("Größe 바지 🎬\nnext\u2028") == "Größe 바지 🎬\\nnext\\u2028"


HOSTILE = "\x1b]0;x\x07\x9b31m\u202etxt.exe\u2066\u200b\x85\u2028\U000e0001\x00\x7f"


def test_json_is_the_same_value_without_anything_to_obey(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: [HOSTILE, "Größe 바지 🎬"]})
    out = capsys.readouterr().out
    assert json.loads(out) == {HOSTILE: [HOSTILE, "Größe 바지 🎬"]}
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "Größe 바지 🎬" in out


def test_a_name_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([("production", "x\nstatus      completed\r"), ("reason", "y")])
    print_table(("NAME",), [("x\nquel: done",)])
    print_text(f"{HOSTILE}\nsecond line")
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 7
    assert all(line.isprintable() for line in lines)


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(QuelError(f"no\nquel: yes {HOSTILE}"), 1)
    (line, end) = capsys.readouterr().err.split("\n")
    assert end == ""
    assert line.isprintable()


def test_a_table_cuts_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ids = [str(uuid4()) for _ in range(3)]
    print_table(("JOB", ">N", "KEY", "~WHY"), [(name, 5, "k" * 150, "[red]words[/red] " * 30) for name in ids])
    out = capsys.readouterr().out
    for whole in (*ids, "k" * 150, "[red]words[/red]"):
        assert whole in out
    assert out.count("words") == 90


def test_in_a_narrow_terminal_a_long_value_is_printed_below_its_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "console", Console(force_terminal=True, width=60))
    reason, name = "words " * 20, "n" * 36
    print_table(("JOB", ">N", "_WHY"), [(name, 5, reason), (name, 6, None)])
    lines = capsys.readouterr().out.splitlines()
    assert "WHY" not in lines[0]
    assert lines[1].split() == [name, "5"]
    assert [line[:10] for line in lines[2:-1]] == ["    words "] * 3
    assert " ".join(lines[2:-1]).split() == reason.split()
    assert lines[-1].split() == [name, "6"]

    print_table(("JOB", "_WHY"), [(name, "short")])
    assert capsys.readouterr().out.splitlines()[1].split() == [name, "short"], "beside it where there is room"


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
    assert [plural(2, noun) for noun in ("process", "breach")] == ["2 processes", "2 breaches"]
