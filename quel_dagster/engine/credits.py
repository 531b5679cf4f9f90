"""The payer of one job, and the slots reserved against their balance (domain.md §8)."""

from __future__ import annotations

from uuid import UUID

from quel_dagster.adapters.database.records import Committed, Payer, Reserved, Taken, Wait
from quel_dagster.adapters.database.store import Database
from quel_dagster.errors import PayerError
from quel_dagster.jobs.model import Slot


class Credits:
    """The costs of one job for its payer, from `begin` to the last charge. Belongs to one event loop."""

    def __init__(self, database: Database, job_id: UUID, token: int, *, price: int) -> None:
        self._database = database
        self._job_id = job_id
        self._token = token
        self.price = price
        self.payer: Payer | None = None
        #: the payer's balance when this run began, and after its last charge
        self.opening_balance: int | None = None
        self.balance: int | None = None
        #: pictures of the job when `balance` was read; answers may arrive out of order
        self._balance_at = -1

    @property
    def payer_name(self) -> str:
        return self.payer.name if self.payer else ""

    async def begin(self) -> None:
        """Enter `processing`, if the payer can pay for one picture.

        Raises:
            PayerError, InsufficientCreditsError, JobCancelledError, LeaseLostError
        """
        self.payer = await self._database.work.begin(self._job_id, self._token, price=self.price)
        self.balance = self.payer.balance
        if self.opening_balance is None:
            self.opening_balance = self.payer.balance

    @property
    def member_id(self) -> UUID:
        """Return the payer's member id. Only valid after `begin`."""
        if self.payer is None or self.payer.member_id is None:
            raise PayerError(f"Job {self._job_id} has not begun, so no picture can be charged.")
        return self.payer.member_id

    async def reserve(self, slot: Slot, key: str) -> Reserved | Taken | Wait:
        """Reserve a slot for the object under `key`.

        Raises:
            PayerError, InsufficientCreditsError, JobCancelledError, LeaseLostError
        """
        return await self._database.work.reserve(self._job_id, self._token, slot, key=key, price=self.price)

    def charged(self, committed: Committed) -> None:
        """Record the balance after a committed, charged picture."""
        if committed.completed > self._balance_at:
            self._balance_at, self.balance = committed.completed, committed.balance
