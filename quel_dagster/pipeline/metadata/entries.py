"""The parts that metadata entries are made of: tables, thumbnails, links, limits of size.

The UI shows about six entries of an event, and the rest on a click: put the answer first.

An event is a row that Dagster writes while the run waits and reads completely to show a page. Every list here is
truncated, so that an event stays below EVENT_BYTES for any job.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from dagster import JsonMetadataValue, MetadataValue, TableColumn, TableMetadataValue, TableRecord, TableSchema

from quel_dagster.engine.outcomes import PictureMade
from quel_dagster.jobs.model import PartLayout, Repair, Unit

#: Maximum bytes of an event; tests check the largest event of every kind against it.
EVENT_BYTES = 200_000
#: Maximum of thumbnails per event: bytes of their text, and number.
THUMBNAIL_BYTES = 90_000
THUMBNAILS = 24
#: Maximum of rows per table, and of characters per cell.
ROWS, CELL = 120, 300
#: Maximum of characters per text, such as a prompt, and of bytes of `job_input_data`.
TEXT = 8_000
INPUT_BYTES = 60_000

Entries = dict[str, Any]


def table(
    columns: Sequence[str], rows: Iterable[Mapping[str, str | int | float]], *, most: int = ROWS
) -> MetadataValue:
    """Return a table for the UI; long cells are cut, surplus rows counted."""
    everything = list(rows)
    shown = [dict(row) for row in everything[:most]]
    if len(everything) > most:
        shown.append({columns[0]: f"… and {len(everything) - most} more"})
    records = [TableRecord({name: _cell(row.get(name, "")) for name in columns}) for row in shown]
    return MetadataValue.table(records=records, schema=TableSchema(columns=[TableColumn(name) for name in columns]))


def _cell(value: str | int | float) -> str | int | float:
    return cut(value, CELL) if isinstance(value, str) else value


def fitted(entries: Mapping[str, Any]) -> Entries:
    """Return the entries that have a value. From an event that is too large, leave out the largest ones."""
    kept = {name: value for name, value in entries.items() if value is not None}
    weights = {name: _weight(value) for name, value in kept.items()}
    while sum(weights.values()) > EVENT_BYTES * 0.9:
        heaviest = max(weights, key=lambda name: weights[name])
        kept[heaviest] = (
            f"left out: {weights[heaviest] // 1000} kB are too much for this page; the rows and logs hold it"
        )
        weights[heaviest] = 200
    return kept


def _weight(value: Any) -> int:
    """Return the approximate bytes of an entry in an event, where non-ASCII characters are escaped."""
    if isinstance(value, TableMetadataValue):
        return sum(100 + sum(_weight(cell) for cell in record.data.values()) for record in value.records)
    if isinstance(value, JsonMetadataValue):
        return len(json.dumps(value.data))
    text = value.value if isinstance(value, MetadataValue) else value
    return 60 + (len(json.dumps(text)) if isinstance(text, str) else 0)


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more characters)"


def literal(text: str) -> str:
    """Return `text` as a Markdown code block, so that no markup in it is active, such as an image of another server."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def repairs(found: Sequence[Repair]) -> MetadataValue | None:
    """Return the table of what was read leniently; None when nothing was."""
    if not found:
        return None
    return table(("path", "problem"), ({"path": repair.path, "problem": repair.problem} for repair in found))


def references(unit: Unit) -> str:
    return ", ".join(f"{reference.attach_id} ({reference.type})" for reference in unit.references)


def parts(layouts: Iterable[PartLayout]) -> str:
    """Return the image parts of a request in one line."""
    return cut(
        "; ".join(
            f"{number}. {part.role} ({part.arrangement.value}: {', '.join(map(str, part.attach_ids))})"
            for number, part in enumerate(layouts, 1)
        ),
        TEXT,
    )


def ids(attach_ids: Iterable[int]) -> str:
    return cut(", ".join(map(str, attach_ids)), TEXT)


def made_of(made: int, planned: int) -> str:
    return f"{made} of {planned} pictures"


def sum_of(seconds: Iterable[float]) -> float:
    return round(sum(seconds), 2)


def runs_link(tag: str, value: str) -> MetadataValue:
    """Return the link to the list of runs with a tag, on this web server."""
    return MetadataValue.url(f"{_prefix()}/runs?q[0]={quote(f'tag:{tag}={value}', safe='')}")


def page_link(path: str) -> MetadataValue:
    """Return the link to a page below /quel, on this web server."""
    return MetadataValue.url(f"{_prefix()}/quel{path}")


def _prefix() -> str:
    """Return the path below which people reach the web UI; empty at the root."""
    return urlsplit(os.environ.get("QUEL_WEBSERVER_URL", "")).path.rstrip("/")


def thumbnails(pictures: Iterable[PictureMade]) -> MetadataValue | None:
    """Return as many as fit, the first of every unit before the second of any; None when there is none."""
    everything = [picture for picture in pictures if picture.thumbnail]
    chosen: set[int] = set()
    size = 0
    for picture in sorted(everything, key=lambda made: (made.slot.number, made.slot.unit)):
        size += len(picture.thumbnail or "")
        if size > THUMBNAIL_BYTES or len(chosen) == THUMBNAILS:
            break
        chosen.add(picture.attach_id)
    if not chosen:
        return None
    images = " ".join(
        f"![{picture.attach_id}](data:image/webp;base64,{picture.thumbnail})"
        for picture in everything
        if picture.attach_id in chosen
    )
    more = f"\n\nand {len(everything) - len(chosen)} more" if len(everything) > len(chosen) else ""
    return MetadataValue.md(images + more)
