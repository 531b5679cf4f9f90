"""Every `quel …` that a page shows is a command with those options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from typer.exceptions import TyperException
from typer.main import get_command

from quel_dagster.cli.main import COMMANDS, app
from tests.documented_commands import PAGES, ROOT, blocks, calls_of_quel, spans

#: stand for a value in the pages
PLACEHOLDER = re.compile(r"[A-Z_]+[…]?|…|\$")
CALLS = {
    " ".join(words): (command, words) for command in (*blocks(), *spans()) for words in calls_of_quel(command) if words
}


def _check(words: Sequence[str]) -> None:
    """Parse the words as the command line does; placeholders are not converted.

    Raises:
        TyperException: no such command or option, or a value that it does not take.
    """
    root: Any = get_command(app)
    context = root.context_class(root, info_name="quel")
    name, command, rest = root.resolve_command(context, list(words))
    context = command.context_class(command, info_name=name, parent=context)
    if hasattr(command, "commands"):
        if not rest:
            return
        name, command, rest = command.resolve_command(context, rest)
        context = command.context_class(command, info_name=name, parent=context)
    values, _, _ = command.make_parser(context).parse_args(args=rest)
    for parameter in command.params:
        value = values.get(parameter.name)
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if parameter.param_type_name == "option" and texts and not any(map(PLACEHOLDER.fullmatch, texts)):
            parameter.process_value(context, value)


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_command_of_the_pages_is_one_of_the_command_line(call: str) -> None:
    command, words = CALLS[call]
    try:
        _check(words)
    except TyperException as error:
        pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("wrong", [["intake"], ["list", "--opne"], ["list", "--status", "done"], ["dead", "lost"]])
def test_a_wrong_command_is_noticed(wrong: list[str]) -> None:
    with pytest.raises(TyperException, match=wrong[-1]):
        _check(wrong)


def test_every_option_in_the_text_is_one_of_some_command() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")))
    assert named - _options() - {"--help", "--install-completion"} == set()


def _options() -> set[str]:
    loaded: list[Any] = [entry.load(name) for name, entry in COMMANDS.items()]
    loaded += [sub for command in loaded for sub in getattr(command, "commands", {}).values()]
    parameters = [parameter for command in loaded for parameter in command.params]
    return {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}


def test_the_pages_are_all_there() -> None:
    assert all((ROOT / page).is_file() for page in PAGES)
    assert len(CALLS) > 40, "the commands of the pages are no longer found"
