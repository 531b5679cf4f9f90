"""I2: every `balance_after` follows from the row before."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from quel_dagster.adapters.database import audit_ledger as sql
from quel_dagster.adapters.database.audit import AuditReader
from quel_dagster.jobs.model import Value
from quel_dagster.pipeline.audit.checks import Check, CheckResult
from quel_dagster.pipeline.audit.report import LISTED, Breach, breach_of

#: A row's timestamp is the start of its transaction, which may have waited for the balance: rows this close may be
#: out of order.
_OVERLAP = timedelta(seconds=5)
#: The largest value of `balance_after`: it stands for any balance from there on.
CAP = 2**31 - 1


class Entry(Value):
    """A row of the ledger."""

    ledger: UUID
    payer: UUID
    is_org: bool
    amount: int
    balance_after: int
    created_at: datetime

    @property
    def balance_before(self) -> int | None:
        """The balance before this row; None when it is unknown because the balance after it exceeds the column."""
        return None if self.balance_after >= CAP else self.balance_after - self.amount

    def follows(self, balance: int | None) -> bool:
        """Return whether this row follows from a balance, or from CAP or more when `balance` is None."""
        if balance is None:
            return self.balance_before is None or self.balance_before >= CAP
        return min(balance + self.amount, CAP) == self.balance_after

    def after(self, balance: int | None) -> int | None:
        """Return the balance after this row."""
        if self.balance_after < CAP:
            return self.balance_after
        return None if balance is None else balance + self.amount


@dataclass(frozen=True)
class Ledger(Check):
    """I2: a query finds the ledgers that are out of order; their rows are then followed one by one."""

    code: str
    reader: AuditReader

    async def run(self, suspects: Sequence[Breach] | None = None) -> CheckResult:
        breaches: list[Breach] = []
        total = 0
        async with aclosing(self.reader.stream(Entry, sql.LEDGERS_OUT_OF_LINE)) as entries:
            async for entry, expected in broken_links(entries):
                total += 1
                if total <= LISTED:
                    payer = {"organization" if entry.is_org else "member": entry.payer}
                    facts = {"ledger": entry.ledger, "balance": entry.balance_after, "expected": expected, **payer}
                    breaches.append(breach_of(self.code, "gap", facts))
        checked = (await self.reader.rows(sql.LEDGER_SIZE))[0][0]
        return CheckResult(checked=checked, breaches=tuple(breaches), total=total)


async def broken_links(entries: AsyncIterable[Entry]) -> AsyncIterator[tuple[Entry, int]]:
    """Yield the rows that follow from no row before, each with the expected `balance_after`.

    Rows of overlapping transactions, or of the same instant, may be in any order in which they follow from each
    other. After a broken link the ledger may continue from the expected or from the recorded balance, so that one
    error is reported once.

    Args:
        entries: complete ledgers, one payer after the other, each in ledger order.
    """
    waiting: deque[Entry] = deque()
    balances: tuple[int | None, ...] = ()
    payer: UUID | None = None

    def follow(until: datetime | None) -> Iterator[tuple[Entry, int]]:
        nonlocal balances
        while waiting and (until is None or until - waiting[0].created_at > _OVERLAP):
            balances = balances or (_opening(waiting),)
            found = next(((entry, before) for entry in waiting for before in balances if entry.follows(before)), None)
            if found is None:
                entry = waiting[0]
                expected = CAP if balances[0] is None else min(balances[0] + entry.amount, CAP)
                yield entry, expected
                balances = (expected, entry.after(None))
            else:
                entry, before = found
                balances = (entry.after(before),)
            waiting.remove(entry)

    async for entry in entries:
        for link in follow(entry.created_at if entry.payer == payer else None):
            yield link
        if entry.payer != payer:
            payer, balances = entry.payer, ()
        waiting.append(entry)
    for link in follow(None):
        yield link


def _opening(entries: Sequence[Entry]) -> int | None:
    """Return the opening balance of a ledger: of the rows of its first instant, from the one that follows no other.

    None when that balance is unknown.
    """
    first = [entry for entry in entries if entry.created_at == entries[0].created_at]
    after = {entry.balance_after for entry in first}
    return next((entry.balance_before for entry in first if entry.balance_before not in after), first[0].balance_before)
