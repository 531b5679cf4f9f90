"""What a row of the table is, and how the table is printed and written."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from quel_dagster.sandbox.packages import postgres_programs, redis_server

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    row: str
    what: str
    aim: str
    measured: str
    #: None: no aim, or not measured
    met: bool | None
    #: Markdown below the table: how it was measured, and its parts
    details: str = ""
    #: seconds of the loop of `speed` before and after the row
    loop: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**not met**", None: "—"}[self.met]

    @property
    def speed(self) -> str:
        """The loop before and after the row, in seconds."""
        return " → ".join(f"{seconds:.2f}" for seconds in self.loop or ())


@dataclass(frozen=True)
class Machine:
    """What the figures were taken on."""

    lines: tuple[str, ...]

    @classmethod
    def look(cls) -> Machine:
        load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
        memory = psutil.virtual_memory().total / 2**30
        return cls(
            (
                f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}",
                f"{_cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}",
                f"load at the start {load}",
                f"Python {platform.python_version()}, Dagster {importlib.metadata.version('dagster')}, "
                f"{_version('postgres')}, {_version('redis')}",
            )
        )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def _version(program: str) -> str:
    path = postgres_programs() / "postgres" if program == "postgres" else redis_server()
    said = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False).stdout
    words = said.replace("v=", "").split()
    return f"PostgreSQL {words[2]}" if program == "postgres" else f"Valkey {words[2]}"


def table(figures: Sequence[Figure]) -> str:
    """The rows as Markdown."""
    return grid(
        ("", "what", "aim", "measured", "", "loop, s"),
        [(each.row, each.what, each.aim, each.measured, each.verdict, each.speed) for each in figures],
    )


def write(figures: Sequence[Figure], machine: Machine, *, minutes: float, notes: str) -> None:
    """Write docs/benchmarks.md again."""
    parts = [
        "# Benchmarks",
        "`make bench` writes this page again; `python -m bench L1` prints one row. Everything runs on one machine, "
        "PostgreSQL, Redis and the stand-in Gemini included, with the ratios taken within one run.",
        "\n".join(f"- {line}" for line in (*machine.lines, f"{minutes:.0f} minutes in all")),
        table(figures),
        *(f"## {each.row}: {each.what}\n\n{each.details}" for each in figures if each.details),
        notes,
    ]
    DOCUMENT.write_text("\n\n".join(part.strip() for part in parts) + "\n")


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of numbers."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """95th percentile; of a few values the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: what each unit of x adds, and what is there at x = 0."""
    slope, height = statistics.linear_regression(*zip(*points, strict=True))
    return slope, height
