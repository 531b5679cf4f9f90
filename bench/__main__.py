"""The benchmarks: `make bench`, or `python -m bench [--quick] [--full] [ROW …]`.

All rows print the table and write docs/benchmarks.md; single rows, and `--quick` ones, only print. A row that cannot
be measured says why, the others go on, and the exit status is 1; aims that are not met leave it 0.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from bench.report import Figure, Machine, table, write
from bench.speed import loop_seconds

#: row → module and function
ROWS = {
    "B1": "crowd:b1",
    "B2": "crowd:b2",
    "L1": "latency:l1",
    "L2": "latency:l2",
    "O1": "overhead:o1",
    "O2": "overhead:o2",
    "T1": "overhead:t1",
    "D1": "round_trips:d1",
    "D2": "round_trips:d2",
    "D3": "kept_storage:d3",
    "S1": "scale:s1",
    "M1": "memory:m1",
    "M2": "memory:m2",
    "M3": "crowd:m3",
    "K1": "crowd:k1",
    "C1": "stock:c1",
}
FULL = {"S1": "scale:s1_full"}
NOTES = Path(__file__).with_name("notes.md")


def measure(row: str, place: str, *, quick: bool) -> Figure:
    """One row; an error becomes what was measured."""
    module, function = place.split(":")
    begun, before = time.monotonic(), loop_seconds()
    try:
        figure: Figure = getattr(importlib.import_module(f"bench.{module}"), function)(quick=quick)
    except Exception as error:  # noqa: BLE001  a row that fails must not take the others with it
        traceback.print_exc()
        figure = Figure(row, "could not be measured", "", f"{type(error).__name__}: {error}".splitlines()[0], None)
    figure = replace(figure, loop=(before, loop_seconds()))
    seconds = f"{time.monotonic() - begun:.0f} s, loop {figure.speed} s"
    print(f"{row}: {figure.measured}; {figure.verdict} ({seconds})", file=sys.stderr, flush=True)
    return figure


def main() -> int:
    """Run the rows asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that everything works")
    parser.add_argument("--full", action="store_true", help="S1 with 10,000 ids, which takes half an hour")
    arguments = parser.parse_args()
    rows = [row.upper() for row in arguments.rows] or list(ROWS)
    if unknown := set(rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    places = {**ROWS, **FULL} if arguments.full else ROWS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is stopped
    begun = time.monotonic()
    machine = Machine.look()
    figures = [measure(row, places[row], quick=arguments.quick) for row in rows]
    print("\n".join(machine.lines), end="\n\n")
    print(table(figures))
    if arguments.rows:
        for figure in figures:
            print(f"\n{figure.row}\n{figure.details}")
    elif not arguments.quick:
        write(figures, machine, minutes=(time.monotonic() - begun) / 60, notes=NOTES.read_text())
    return 1 if any(not figure.aim for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
