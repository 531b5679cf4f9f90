"""The commands that the pages for operators show: fenced and indented blocks, and `quel …` in the text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("operations", "migration", "cli", "ui", "metrics", "runbook", "scaling")),
)
_SPAN = re.compile(r"`([^`]+)`")
#: first words of a shell command in a block; what else stands there is SQL, YAML, nginx or output
PROGRAMS = (
    *(
        "make",
        "quel",
        ".venv/bin/quel",
        "curl",
        "redis-cli",
        "pg_dump",
        "pg_restore",
        "eval",
        "echo",
        "export",
        "docker",
    ),
    *("python", "apt-get"),
)
_CALL = re.compile(r"(?<![\w/-])(?:\.venv/bin/)?quel ([a-z][^|;&()]*)")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z_]*=\S*")


@dataclass(frozen=True)
class Command:
    """One command line, and the page that shows it."""

    page: str
    line: str

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def blocks() -> Iterator[Command]:
    """Yield the command lines of the blocks, without comments."""
    for page in PAGES:
        text = re.sub(r"^```yaml.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for line in text.splitlines():
            command = re.sub(r"\s+#.*", "", line).strip()
            if line.startswith("    ") and _program(command) in PROGRAMS:
                yield Command(page, command)


def block_command(words: str) -> str:
    """Return the one command line in the blocks that begins with these words."""
    (line,) = {command.line for command in blocks() if command.line.startswith(words)}
    return line


def spans() -> Iterator[Command]:
    """Yield the commands in the text: `quel` with a subcommand, or another program with arguments."""
    for page in PAGES:
        text = re.sub(r"^(?:```| {4}).*$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
        for found in _SPAN.findall(" ".join(text.split("\n"))):
            command = re.sub(r"\s+", " ", found)
            if _program(command) in PROGRAMS and " " in command:
                yield Command(page, command)


def calls_of_quel(command: Command) -> Iterator[list[str]]:
    """Yield the words after each `quel` of a command line, substitutions included."""
    line = re.sub(r"[\[\]]", "", re.sub(r"<[^>]+>", "ANY", command.line))
    for found in _CALL.finditer(line):
        words = found[1] if found[1].count('"') % 2 == 0 else found[1].replace('"', "")
        yield shlex.split(words)


def _program(line: str) -> str:
    words = line.split()
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    return words[0] if words else ""
