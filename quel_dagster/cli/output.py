"""How commands print: text for people, JSON for programs, never more than one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quel_dagster.errors import QuelError
from quel_dagster.redaction import redact

#: width of a table that goes into a file or a pipe
PIPED_WIDTH = 240
#: a column of prose is folded at this width at the least
_FOLDED_WIDTH = 24

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
JobIds = Annotated[list[UUID], typer.Argument(metavar="JOB_ID…", help="Ids of rows in quel_production_jobs.")]

console = Console(highlight=False)

_COLOURS = {
    "completed": "green",
    "success": "green",
    "failed": "red",
    "failure": "red",
    "processing": "cyan",
    "started": "cyan",
    "user_cancelled": "yellow",
    "cancelled": "yellow",
    "canceled": "yellow",
}


def examples(*lines: str) -> str:
    """The epilogue of a command's help."""
    return "Examples:\n\n" + "\n".join(f"  {escape(line)}" for line in lines)


def fail(error: QuelError, code: int) -> None:
    """One line on stderr, and the end."""
    sys.stderr.write(f"quel: {error}\n")
    sys.exit(code)


def say(line: str, *, secrets: bool = False) -> None:
    """One line; with the secrets in it where somebody asked for just those."""
    sys.stdout.write((line if secrets else redact(line)) + "\n")
    sys.stdout.flush()


def print_json(value: Any, *, secrets: bool = False) -> None:
    """`value` as JSON; ids and times as text, models as objects."""
    say(json.dumps(value, indent=2, default=_plain, ensure_ascii=False), secrets=secrets)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """A name and a value on each line; a value that is None is left out."""
    for name, value in facts:
        if value is not None:
            shown = value if isinstance(value, str) else str(value)
            console.print(f"[bold]{name:<12}[/bold]{escape(printable(shown))}", soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Plain columns; nothing is ever cut, and a value that is None is left blank.

    A name that begins with `>` makes a column of figures; one that begins with `~` may be folded. The others are as
    wide as they are, in a narrow terminal too: an id in two pieces cannot be copied.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    needed = 0
    for place, name in enumerate(columns):
        heading, folds = name.lstrip(">~"), name.startswith("~")
        width = max(map(cell_len, (heading, *(row[place] for row in cells))))
        needed += 2 + (min(width, _FOLDED_WIDTH) if folds else width)
        table.add_column(
            heading, justify="right" if name.startswith(">") else "left", no_wrap=not folds, overflow="fold"
        )
    for row in cells:
        table.add_row(*map(_coloured, row))
    room = console.width if console.is_terminal else PIPED_WIDTH
    Console(highlight=False, width=max(room, needed)).print(table)


def _coloured(text: str) -> str:
    colour = _COLOURS.get(text.lower())
    return f"[{colour}]{escape(text)}[/{colour}]" if colour else escape(text)


def printable(text: str) -> str:
    """The text without secrets, and with everything escaped that a terminal might obey, or that reorders what a
    person reads."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in redact(text))


def plural(number: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def at(moment: datetime | None) -> str | None:
    """A moment to the second, in UTC."""
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(moment: datetime | None, *, now: datetime | None = None) -> str | None:
    """How long ago, in one unit: `42 s`, `7 min`, `3 h`, `5 d`."""
    if moment is None:
        return None
    return span(((now or datetime.now(UTC)) - moment).total_seconds())


def span(seconds: float) -> str:
    """A length of time in one unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from `start` to `end`, where both are known."""
    return None if start is None or end is None else round((end - start).total_seconds(), 1)
