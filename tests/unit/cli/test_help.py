"""Every command says what it does, with an example, and docs/cli.md knows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from quel_dagster.cli.main import app

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


COMMANDS = [*commands(typer.main.get_command(app))]


def test_the_commands_that_operators_were_promised() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        *("up", "worker", "demo", "env", "metrics", "submit", "enqueue", "status", "list", "show", "gallery"),
        *("doctor", "cancel", "retry", "audit"),
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
