"""Options that select jobs: by status, reason, member, organization and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from quel_dagster.adapters.database.job_list import Filter
from quel_dagster.console.connections import Connections
from quel_dagster.console.lookup import filter_of
from quel_dagster.jobs.model import Category


class StatusWord(StrEnum):
    """A status, or `partial`: completed with pictures missing."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    USER_CANCELLED = "user_cancelled"


Status = Annotated[
    list[StatusWord] | None,
    typer.Option(help="Only jobs in this status; may be repeated. partial: completed, with pictures missing."),
]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Only jobs with this text in their error message.")]
Member = Annotated[str | None, typer.Option(metavar="WHO", help="Only jobs of this member: id, name or e-mail.")]
Org = Annotated[UUID | None, typer.Option(metavar="ID", help="Only jobs of this organization.")]
OfCategory = Annotated[Category | None, typer.Option(help="Only jobs of this category.")]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Jobs as selected on a command line."""

    words: Sequence[str] | None = None
    status: Sequence[StatusWord] | None = None
    reason: str | None = None
    member: str | None = None
    org: UUID | None = None
    category: Category | None = None
    since: datetime | None = None
    limit: int

    @property
    def filters(self) -> bool:
        """Whether a filter is given, not only names of jobs."""
        return any(
            given is not None for given in (self.status, self.reason, self.member, self.org, self.category, self.since)
        )


async def make_filter(connections: Connections, choice: Choice) -> Filter:
    """Return the filter of a choice. Raises QuelError when no member matches, or more than one."""
    return await filter_of(
        connections,
        status=choice.status or (),
        member=choice.member,
        category=choice.category,
        org_id=choice.org,
        since=choice.since,
        reason=choice.reason,
    )
