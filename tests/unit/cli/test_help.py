"""Every command has help with an example, and an entry in docs/cli.md."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quel_dagster.cli.main import COMMANDS as TABLE
from quel_dagster.cli.main import app

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"


#: imported by commands, never by the list of them: 0.87 s of CPU before, 0.2 s without
HEAVY = ("pydantic", "sqlalchemy", "psycopg", "redis", "dagster", "PIL", "httpx", "starlette")


def commands() -> Iterator[tuple[str, ...]]:
    for name, entry in TABLE.items():
        loaded = entry.load(name)
        if hasattr(loaded, "commands"):
            yield from ((name, sub) for sub in loaded.commands)
        else:
            yield (name,)


COMMANDS = [*commands()]


def test_the_commands_that_operators_were_promised() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        *("up", "worker", "demo", "env", "metrics", "submit", "enqueue", "status", "list", "show", "gallery"),
        *("doctor", "cancel", "retry", "audit", "stats", "member", "pause", "resume", "plan", "refund", "migrate"),
        *("dead list", "dead show", "dead requeue", "dead drop"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    examples = result.stdout.partition("Examples:")[2]
    assert f"quel {' '.join(path)}" in examples


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_page_about_the_command_line_has_it(path: tuple[str, ...]) -> None:
    assert f"quel {' '.join(path)}" in DOCS.read_text(encoding="utf-8")


def test_no_words_is_help_and_an_unknown_one_is_code_2() -> None:
    answer = CliRunner().invoke(app, ["audi"])
    assert answer.exit_code == 2
    assert "audit" in answer.stderr
    assert "When something is wrong" in CliRunner().invoke(app, []).output


@pytest.mark.parametrize("name", TABLE)
def test_the_list_of_commands_repeats_the_first_sentence_of_each_help(name: str) -> None:
    help_text = " ".join((TABLE[name].load(name).help or "").split())
    assert help_text.startswith(TABLE[name].summary)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], []], ids=" ".join)
def test_the_list_of_commands_imports_no_command(words: list[str]) -> None:
    script = (
        "import sys; from quel_dagster.cli.main import app\n"
        f"try: app({words!r})\n"
        "except SystemExit: pass\n"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "[]"


def test_version_is_one_line() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("quel 0.")


def test_short_h_is_help_everywhere() -> None:
    assert "Usage: quel dead list" in CliRunner().invoke(app, ["dead", "list", "-h"], prog_name="quel").stdout
