"""Parse the query of a URL into a filter of jobs, with the option names of the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from starlette.datastructures import QueryParams

from quel_dagster.adapters.database.job_list import Filter
from quel_dagster.console import lookup
from quel_dagster.console.connections import Connections
from quel_dagster.errors import QuelError
from quel_dagster.jobs.model import Category

_SPAN = re.compile(r"(\d{1,6})(m|h|d|w)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


async def filter_of(connections: Connections, params: QueryParams) -> Filter:
    """Return the filter of `status` (may be repeated), `reason`, `member`, `category`, `since` and `ended`.

    Raises:
        QuelError: a value that no job can have.
    """
    try:
        return await lookup.filter_of(
            connections,
            status=filter(None, params.getlist("status")),
            member=params.get("member", "").strip(),
            category=Category(params["category"]) if params.get("category") else None,
            since=_since(params.get("since", "")),
            ended_since=_since(params.get("ended", "")),
            reason=params.get("reason") or None,
        )
    except ValueError as error:
        raise QuelError(f"{error}; use the form above the list.") from None


def _since(text: str) -> datetime | None:
    if not text:
        return None
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise QuelError(f"{text!r:.40} is not a duration; use 30m, 24h, 7d or 2w.")
    return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})


def in_words(params: QueryParams) -> str:
    """Return the query as a heading."""
    statuses = " or ".join(word for word in params.getlist("status") if word)
    words = [
        statuses or "all",
        "jobs",
        f"of {params['member']}" if params.get("member") else "",
        f"in {params['category']}" if params.get("category") else "",
        f"with “{params['reason']}”" if params.get("reason") else "",
        f"created in the last {params['since']}" if params.get("since") else "",
        f"ended in the last {params['ended']}" if params.get("ended") else "",
    ]
    text = " ".join(part for part in words if part)
    return text[0].upper() + text[1:]
