"""A picture as the older worker writes it: attach row, balance, ledger, progress, each by itself.

What the fault suite must find fault with; were it content with this, it would tell nothing of the one transaction.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.records import Committed
from quel_dagster.adapters.database.work import JobWork
from quel_dagster.jobs.model import Slot

#: seconds between two steps, each of which the older worker asks of an HTTP API
BETWEEN_STEPS = 0.03

_ATTACH = text(
    "insert into quel_attach (created_at, attach_original_name, attach_file_name, attach_file_path, attach_directory,"
    " attach_file_size, attach_file_type, attach_storage_type)"
    " values (now(), :name, :name, :key, :key, :size, 'image/webp', :storage) returning attach_id"
)
_READ_BALANCE = text("select quel_member_credit from quel_member where quel_member_id = :member")
_WRITE_BALANCE = text("update quel_member set quel_member_credit = :balance where quel_member_id = :member")
_LEDGER = text(
    "insert into quel_credits (id, user_id, transaction_type, amount, balance_after, attach_idx, production_idx)"
    " select gen_random_uuid(), :member, 'DEDUCT', -:price, :balance, :attach, production_id"
    " from quel_production_jobs where job_id = :job"
)
_READ_PROGRESS = text("select generated_attach_ids from quel_production_jobs where job_id = :job")
_WRITE_PROGRESS = text(
    "update quel_production_jobs set generated_attach_ids = to_jsonb(cast(:ids as bigint[])),"
    " completed_images = cardinality(cast(:ids as bigint[])) where job_id = :job"
)


async def commit_step_by_step(
    self: JobWork,
    job_id: UUID,
    token: int,
    slot: Slot,
    *,
    key: str,
    size: int,
    sha256: str,
    storage: str,
    price: int,
    total: int,
    usage: str | None = None,
) -> Committed:
    """In place of `JobWork.commit_picture`: no lock, no slot, no fence, every step in its own transaction."""

    async def value(statement: object, **parameters: object) -> object:
        await asyncio.sleep(BETWEEN_STEPS)
        ((found,),) = await self._database.ask(statement, **parameters)  # type: ignore[arg-type]
        return found

    async def write(statement: object, **parameters: object) -> None:
        await asyncio.sleep(BETWEEN_STEPS)
        await self._database.execute(statement, **parameters)  # type: ignore[arg-type]

    folder, _, name = key.rpartition("/")
    member_id = UUID(folder.rpartition("user-")[2])
    attach = int(await value(_ATTACH, name=name, key=key, size=size, storage=storage))  # type: ignore[call-overload]
    balance = int(await value(_READ_BALANCE, member=member_id)) - price  # type: ignore[call-overload]
    await write(_WRITE_BALANCE, balance=balance, member=member_id)
    await write(_LEDGER, member=member_id, price=price, balance=balance, attach=attach, job=job_id)
    ids = [*(await value(_READ_PROGRESS, job=job_id)), attach]  # type: ignore[misc]
    await write(_WRITE_PROGRESS, ids=ids, job=job_id)
    return Committed(attach_id=attach, completed=len(ids), key=key, balance=balance)
