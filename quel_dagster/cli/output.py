"""Output of commands: text for people, JSON for programs, one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from quel_dagster.errors import QuelError
from quel_dagster.redaction import redact

#: width of a table in a file or a pipe
PIPED_WIDTH = 240
#: minimum width at which a column of prose is wrapped
_FOLDED_WIDTH = 24

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_JOB_HELP = "A job id or its beginning, the id of a run or a production, or a production's name."
JobWord = Annotated[str, typer.Argument(metavar="JOB", help=_JOB_HELP)]
SomeJobs = Annotated[list[str], typer.Argument(metavar="JOB…", help=_JOB_HELP)]
JobWords = Annotated[list[str] | None, typer.Argument(metavar="JOB…", help=_JOB_HELP)]

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


def fail(error: QuelError, code: int) -> None:
    """Print one line on stderr, and exit."""
    sys.stderr.write(f"quel: {printable(str(error))}\n")
    sys.exit(code)


def print_text(text: str, *, secrets: bool = False) -> None:
    """Print lines of this program; a user's text in them must go through `printable` first.

    Args:
        secrets: print the text unredacted, for a command that is meant to print secrets.
    """
    sys.stdout.write((text if secrets else "\n".join(map(printable, text.split("\n")))) + "\n")
    sys.stdout.flush()


def print_json(value: Any, *, secrets: bool = False) -> None:
    """Print `value` as JSON; ids and times as text, models as objects.

    Terminal control characters are written as JSON escapes: the same value, but harmless.
    """
    text = json.dumps(value, indent=2, default=_plain, ensure_ascii=False)
    print_text("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text), secrets=secrets)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Print a name and a value per line; leave out values that are None."""
    for name, value in facts:
        if value is not None:
            shown = value if isinstance(value, str) else str(value)
            console.print(f"[bold]{name:<12}[/bold]{escape(printable(shown))}", soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print plain columns; nothing is ever cut, and a value that is None is left blank.

    A name that begins with `>` makes a column of figures; one that begins with `~` may be wrapped; one that begins with
    `_` is printed below its row in a terminal that is too narrow for all columns. The others keep their width, in a
    narrow terminal too: an id in two pieces cannot be copied.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    headings = [name.lstrip(">~_") for name in columns]
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    room = console.width if console.is_terminal else PIPED_WIDTH
    too_wide = console.is_terminal and sum(widths) + 2 * len(widths) > room
    below = [place for place, name in enumerate(columns) if too_wide and name.startswith("_")]
    beside = [place for place in range(len(columns)) if place not in below]
    folds = [place for place in beside if columns[place].startswith(("~", "_"))]
    needed = {place: min(widths[place], _FOLDED_WIDTH) if place in folds else widths[place] for place in beside}
    left = max(room - sum(needed.values()) - 2 * len(needed), 0)
    for place in folds:  # the rest of the line, the first ones first
        more = min(left, widths[place] - needed[place])
        needed[place] += more
        left -= more
    out = Console(highlight=False, width=max(room, sum(needed.values()) + 2 * len(needed)))

    def new_table() -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        for place in beside:
            side: Literal["right", "left"] = "right" if columns[place].startswith(">") else "left"
            width = max(needed[place], 1)
            table.add_column(justify=side, no_wrap=place not in folds, overflow="fold", width=width)
        return table

    table = new_table()
    table.add_row(*(escape(headings[place]) for place in beside), style="bold")
    for row in cells:
        table.add_row(*(_coloured(row[place]) for place in beside))
        if any(row[place] for place in below):
            out.print(table)
            table = new_table()
            for place in below:
                out.print(Padding(escape(row[place]), (0, 0, 0, 4)))
    if table.row_count:
        out.print(table)


def _coloured(text: str) -> str:
    colour = _COLOURS.get(text.lower())
    return f"[{colour}]{escape(text)}[/{colour}]" if colour else escape(text)


def printable(text: str) -> str:
    """Return the text on one line, without secrets.

    Escapes characters that control a terminal, reorder the displayed text, or fake a line break.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in redact(text))
