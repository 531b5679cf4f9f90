"""Command groups that import a command only when it runs, so that `quel --help` stays below 0.25 s of CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command as build_command


@dataclass(frozen=True)
class Command:
    """A command as `quel --help` lists it."""

    #: `module:attribute`; a function, or a typer.Typer with commands of its own
    target: str
    #: the first sentence of its help (tests/unit/cli/test_help.py compares the two)
    summary: str
    panel: str
    examples: tuple[str, ...] = ()

    def placeholder(self, name: str) -> TyperCommand:
        """Return an entry for the list of commands, without importing the command."""
        return TyperCommand(name=name, help=self.summary, rich_help_panel=self.panel)

    def load(self, name: str) -> Any:
        """Import and return the command."""
        module, _, attribute = self.target.partition(":")
        target = getattr(import_module(module), attribute)
        if isinstance(target, typer.Typer):
            group = build_command(target)
            group.name = name
            return group
        single = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        single.command(name=name, epilog=examples(*self.examples), rich_help_panel=self.panel)(target)
        return build_command(single)


class LazyGroup(TyperGroup):
    """A group with a table of its commands; a subclass sets `table`."""

    table: ClassVar[Mapping[str, Command]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: command.placeholder(name) for name, command in self.table.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, self.table[name].load(name) if name else command, rest


def examples(*lines: str) -> str | None:
    """Return the epilogue of a command's help."""
    return "Examples:\n\n" + "\n".join(f"  {escape(line)}" for line in lines) if lines else None


def is_raised_by(module: str, name: str) -> Callable[[BaseException], bool]:
    """Return whether an error is of this class, without importing the class: an unimported class raised nothing."""

    def check(error: BaseException) -> bool:
        imported = sys.modules.get(module)
        return imported is not None and isinstance(error, getattr(imported, name))

    return check
