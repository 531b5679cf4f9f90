"""I2: does every balance go on from the one before?"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from quel_dagster.adapters.database import audit as sql
from quel_dagster.adapters.database.audit import AuditReader
from quel_dagster.pipeline.audit.checks import Check, Look
from quel_dagster.pipeline.audit.report import LISTED, Breach, breach_of

#: A row is stamped when its transaction begins, and may have waited for the balance: this far may rows be swapped.
_OVERLAP = timedelta(seconds=5)


@dataclass(frozen=True)
class Entry:
    """A row of the ledger."""

    ledger: UUID
    payer: UUID
    is_org: bool
    amount: int
    balance_after: int
    created_at: datetime

    @property
    def balance_before(self) -> int:
        return self.balance_after - self.amount


@dataclass(frozen=True)
class Ledger(Check):
    """I2: a question finds the ledgers that are out of line, and their rows are followed one by one."""

    code: str
    reader: AuditReader

    async def look(self, suspects: Sequence[Breach] | None = None) -> Look:
        breaches: list[Breach] = []
        total = 0
        async with aclosing(self.reader.stream(sql.LEDGERS_OUT_OF_LINE)) as rows:
            async for entry, expected in broken_links(Entry(**row._mapping) async for row in rows):
                total += 1
                if total <= LISTED:
                    payer = {"organization" if entry.is_org else "member": entry.payer}
                    facts = {"ledger": entry.ledger, "balance": entry.balance_after, "expected": expected, **payer}
                    breaches.append(breach_of(self.code, "gap", facts))
        checked = (await self.reader.rows(sql.LEDGER_SIZE))[0][0]
        return Look(checked=checked, breaches=tuple(breaches), total=total)


async def broken_links(entries: AsyncIterable[Entry]) -> AsyncIterator[tuple[Entry, int]]:
    """The rows that do not go on from any row before, each with the balance_after that was expected.

    Rows of transactions that overlapped, or of the same instant, may be in any order in which they go on from each
    other. After a broken link the ledger may go on from what was expected or from what is there, so that one mishap
    is told once.

    Args:
        entries: ledgers whole, one payer after the other, each in ledger order.
    """
    waiting: deque[Entry] = deque()
    balances: tuple[int, ...] = ()
    payer: UUID | None = None

    def follow(until: datetime | None) -> Iterator[tuple[Entry, int]]:
        nonlocal balances
        while waiting and (until is None or until - waiting[0].created_at > _OVERLAP):
            balances = balances or (_opening(waiting),)
            fitting = next((entry for entry in waiting if entry.balance_before in balances), None)
            if fitting is None:
                fitting, expected = waiting[0], balances[0] + waiting[0].amount
                yield fitting, expected
                balances = (expected, fitting.balance_after)
            else:
                balances = (fitting.balance_after,)
            waiting.remove(fitting)

    async for entry in entries:
        for link in follow(entry.created_at if entry.payer == payer else None):
            yield link
        if entry.payer != payer:
            payer, balances = entry.payer, ()
        waiting.append(entry)
    for link in follow(None):
        yield link


def _opening(entries: Sequence[Entry]) -> int:
    """Where a ledger starts: of its rows of the first instant, the one that goes on from none of the others."""
    first = [entry for entry in entries if entry.created_at == entries[0].created_at]
    after = {entry.balance_after for entry in first}
    return next((entry.balance_before for entry in first if entry.balance_before not in after), first[0].balance_before)
