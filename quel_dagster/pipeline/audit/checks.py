"""What a check is: a look at one invariant, at all of it or again at what was suspicious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dagster import DagsterInstance
from sqlalchemy import TextClause

from quel_dagster.adapters.database.audit import AuditReader
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.storage.store import ObjectStore
from quel_dagster.pipeline.audit.report import LISTED, Breach, breach_of


@dataclass(frozen=True)
class Sources:
    """Where to look. What is None leaves the invariants that need it undone."""

    #: PostgreSQL, or its URL
    database: Database | str
    queue: JobQueue | None = None
    store: ObjectStore | None = None
    instance: DagsterInstance | None = None


@dataclass(frozen=True)
class Look:
    """What one look at an invariant showed."""

    checked: int = 0
    breaches: tuple[Breach, ...] = ()
    total: int = 0
    not_done: str | None = None


class Check(Protocol):
    """One invariant, `I1` to `I14`."""

    code: str

    async def look(self, suspects: Sequence[Breach] | None = None) -> Look:
        """Look at everything, or (at least) again at what was suspicious before."""


@dataclass(frozen=True)
class Table(Check):
    """An invariant that one question answers."""

    code: str
    reader: AuditReader
    question: TextClause
    price: int | None = None

    async def look(self, suspects: Sequence[Breach] | None = None) -> Look:
        answer = await self.reader.ask(self.question, limit=LISTED, price=self.price)
        return Look(
            checked=answer.checked,
            breaches=tuple(breach_of(self.code, kind, facts) for kind, facts in answer.found),
            total=answer.total,
        )
