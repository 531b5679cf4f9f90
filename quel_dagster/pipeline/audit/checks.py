"""The interface of a check: check one invariant completely, or again for suspected breaches."""

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
    """The systems to check. Invariants that need one that is None are not checked."""

    #: the database, or its URL
    database: Database | str
    queue: JobQueue | None = None
    store: ObjectStore | None = None
    instance: DagsterInstance | None = None


@dataclass(frozen=True)
class CheckResult:
    """The result of checking one invariant once."""

    checked: int = 0
    breaches: tuple[Breach, ...] = ()
    total: int = 0
    not_done: str | None = None


class Check(Protocol):
    """One invariant, `I1` to `I14`."""

    code: str

    async def run(self, suspects: Sequence[Breach] | None = None) -> CheckResult:
        """Check everything, or check (at least) these suspected breaches again."""


@dataclass(frozen=True)
class Table(Check):
    """An invariant that a single query checks."""

    code: str
    reader: AuditReader
    question: TextClause
    price: int | None = None

    async def run(self, suspects: Sequence[Breach] | None = None) -> CheckResult:
        answer = await self.reader.ask(self.question, limit=LISTED, price=self.price)
        return CheckResult(
            checked=answer.checked,
            breaches=tuple(breach_of(self.code, kind, facts) for kind, facts in answer.found),
            total=answer.total,
        )
