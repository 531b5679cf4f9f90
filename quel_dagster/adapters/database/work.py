"""A run's work on a job: the lease, the slots, the one transaction of a picture, the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from quel_dagster.adapters.database import records
from quel_dagster.adapters.database import statements as sql
from quel_dagster.adapters.database.connection import Connection
from quel_dagster.adapters.database.records import (
    CancelledBy,
    Claim,
    Committed,
    OutputPlace,
    Payer,
    Reserved,
    Settled,
    Taken,
    Wait,
)
from quel_dagster.adapters.database.rows import answer, read, read_of_job
from quel_dagster.errors import (
    InsufficientCreditsError,
    JobCancelledError,
    JobNotFoundError,
    LeaseHeldError,
    LeaseLostError,
    PayerError,
    QuelError,
)
from quel_dagster.jobs.model import Attach, JobStatus, Slot

#: Seconds without renewal after which a lease expires, by the database's clock.
#: Short, so that the loss of a worker host is noticed within 15 s (docs/decisions/lease.md).
LEASE_SECONDS = 10.0


class JobWork:
    """One run works on a job. Every call may be repeated: each function checks what is done."""

    def __init__(self, database: Connection) -> None:
        self._database = database

    async def claim(
        self, job_id: UUID, *, run_id: str, retry_of: Iterable[str] = (), worker: str, seconds: float = LEASE_SECONDS
    ) -> Claim | None:
        """Take the lease of a job for a run.

        A claim that follows a lease which no run gave back counts a death of the job's process.

        Args:
            retry_of: earlier runs that this run retries; it inherits their lease.
            worker: host and process id, for people.

        Returns:
            None when one more death would give this job up, and another such job is tried alone now: ask again.

        Raises:
            JobNotFoundError: no such row.
            LeaseHeldError: another run is at work; the message names it.
        """
        found = await answer(
            self._database,
            records.CLAIM,
            sql.CLAIM_JOB,
            job_id=job_id,
            run_id=run_id,
            retry_of=list(retry_of),
            worker=worker,
            seconds=seconds,
        )
        match found:
            case Claim():
                return found
            case records.Held():
                raise LeaseHeldError(f"Job {job_id}: run {found.holder} is at work on {found.worker}.")
            case records.NotClaimed(outcome="missing"):
                raise JobNotFoundError.of(job_id)
            case records.NotClaimed():
                return None

    async def release(self, job_id: UUID, token: int) -> None:
        """Release the lease, if it is still this one."""
        await self._database.ask(sql.RELEASE_LEASE, job_id=job_id, token=token)

    async def hand_over(self, job_id: UUID, token: int) -> None:
        """Expire the lease now, so that another run may claim the job at once; counts no death."""
        await self._database.ask(sql.EXPIRE_LEASE, job_id=job_id, token=token)

    async def note_trouble(self, job_id: UUID, token: int, trouble: str) -> None:
        """Hand the job over with the reason why PostgreSQL refused to write its rows; the sweep reads it."""
        await self._database.ask(sql.NOTE_TROUBLE, job_id=job_id, token=token, trouble=trouble[:1000])

    async def begin(self, job_id: UUID, token: int, *, price: int) -> Payer:
        """Enter `processing`, the production with it (domain.md §3), if the payer can pay for one picture.

        Args:
            price: credits for one picture.

        Returns:
            the payer with the balance now.

        Raises:
            LeaseLostError, JobCancelledError, PayerError, InsufficientCreditsError: nothing is begun.
        """
        found = await answer(self._database, records.BEGIN, sql.BEGIN_JOB, job_id=job_id, token=token, price=price)
        if isinstance(found, records.Begun):
            return found.payer
        raise _stop(job_id, found, price)

    async def reserve(self, job_id: UUID, token: int, slot: Slot, *, key: str, price: int) -> Reserved | Taken | Wait:
        """Reserve a slot before Gemini is called for it, within what the payer's balance covers.

        Args:
            key: storage key under which the picture will be uploaded.

        Raises:
            LeaseLostError, JobCancelledError, PayerError, InsufficientCreditsError
        """
        found = await answer(
            self._database,
            records.RESERVE,
            sql.RESERVE_SLOT,
            job_id=job_id,
            token=token,
            unit=slot.unit,
            number=slot.number,
            key=key,
            price=price,
        )
        if isinstance(found, Reserved | Taken | Wait):
            return found
        raise _stop(job_id, found, price)

    async def release_slot(self, job_id: UUID, token: int, slot: Slot, *, stored: bool) -> None:
        """Release a slot without a picture.

        Args:
            stored: an object may lie under its key; it is noted for deletion.
        """
        await self._database.ask(
            sql.RELEASE_SLOT, job_id=job_id, token=token, unit=slot.unit, number=slot.number, stored=stored
        )

    async def commit_picture(
        self,
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
        """Write attach row, charge, ledger row, slot and progress in one transaction; nothing for a filled slot.

        Args:
            key: storage key of the uploaded picture, as it was reserved.
            size: bytes.
            sha256: of the bytes, hexadecimal.
            total: pictures that the job plans; the job never gets more.
            usage: what the picture took at Gemini, as `usage.encoded` writes it.

        Raises:
            LeaseLostError, JobCancelledError, PayerError, InsufficientCreditsError
        """
        found = await answer(
            self._database,
            records.COMMIT,
            sql.COMMIT_PICTURE,
            job_id=job_id,
            token=token,
            unit=slot.unit,
            number=slot.number,
            key=key,
            size=size,
            sha256=sha256,
            storage=storage,
            price=price,
            total=total,
            usage=usage,
        )
        match found:
            case records.Stored():
                return Committed(attach_id=found.attach_id, completed=found.completed, balance=found.balance, key=key)
            case records.TakenBefore():
                return Committed(attach_id=found.attach_id, completed=found.completed, taken=True, key=found.object_key)
            case records.Full():
                raise QuelError(f"Job {job_id} already has its {total} pictures; this one is not needed.")
            case _:
                raise _stop(job_id, found, price)

    async def settle(
        self,
        job_id: UUID,
        token: int,
        *,
        status: JobStatus,
        total: int,
        error: str | None,
        inputs: int,
        note: str | None = None,
        failed: int | None = None,
    ) -> Settled:
        """End the job and its production, and release the lease (domain.md §3).

        `status` is what the run concluded; a cancel and the pictures really there have the last word.

        Args:
            total: planned pictures.
            error: which pictures are missing and why.
            inputs: distinct reference pictures of the job.
            note: said in `error_message` also when every picture is made.
            failed: pictures that failed for a reason of their own; after a cancel only these count as failed.

        Raises:
            LeaseLostError
        """
        found = await answer(
            self._database,
            records.SETTLE,
            sql.SETTLE_JOB,
            job_id=job_id,
            token=token,
            status=status.value,
            total=total,
            error=error,
            note=note,
            failed=failed,
            inputs=inputs,
        )
        if not isinstance(found, Settled):
            raise LeaseLostError(f"Job {job_id}: this run no longer holds its lease.")
        return found

    async def keep_cancel(self, job_id: UUID, *, actor: str | None = None, reason: str | None = None) -> None:
        """Store a cancel; nothing is committed for this job after this returns.

        Args:
            actor: the operator who cancels; None for the user's own cancel.
        """
        await self._database.ask(sql.KEEP_CANCEL, job_id=job_id, actor=actor, reason=reason)

    async def is_cancelled_by_operator(self, job_id: UUID) -> bool:
        """Return whether an operator's cancel of this job holds: it was neither lifted nor overruled by a rerun."""
        return bool(await self._database.ask(sql.OPERATORS_CANCEL, job_id=job_id))

    async def lift_operators_cancel(self, job_id: UUID) -> None:
        """Let a job that an operator cancelled run again from the queue."""
        await self._database.ask(sql.LIFT_OPERATORS_CANCEL, job_id=job_id)

    async def payer(self, job_id: UUID) -> Payer:
        """Return the payer with the present balance, or the reason why no one may be charged (domain.md §8).

        Raises:
            JobNotFoundError
        """
        return await read_of_job(self._database, Payer, sql.PAYER, job_id)

    async def orphans(self, *, older_than_seconds: float = 120.0, most: int = 200) -> list[str]:
        """Return the storage keys of objects that may be deleted: no picture of a job has one of them."""
        rows = await self._database.ask(sql.ORPHANS, seconds=older_than_seconds, most=most)
        return [row.object_key for row in rows]

    async def forget_orphans(self, keys: Sequence[str]) -> None:
        """Remove the keys of deleted objects from the list."""
        await self._database.ask(sql.FORGET_ORPHANS, keys=list(keys))

    async def find_attaches(self, attach_ids: Sequence[int]) -> dict[int, Attach]:
        """Return the rows of quel_attach that exist, by id."""
        rows = await read(self._database, Attach, sql.FIND_ATTACHES, attach_ids=list(attach_ids))
        return {row.attach_id: row for row in rows}

    async def write_op_outputs(self, outputs: Mapping[OutputPlace, Any]) -> None:
        """Write the outputs of steps, as JSON; an earlier one of the same place is replaced."""
        rows = [{**place._asdict(), "value": value} for place, value in outputs.items()]
        await self._database.ask(sql.WRITE_OP_OUTPUTS, outputs=rows)

    async def read_op_output(self, place: OutputPlace) -> Any:
        """Raises QuelError when nothing was written there."""
        rows = await self._database.ask(sql.READ_OP_OUTPUT, **place._asdict())
        if not rows:
            missing = f"no stored output {place.output!r} of {place.step_key}"
            raise QuelError(f"Run {place.run_id} has {missing}; run the whole job again.")
        return rows[0][0]


def _stop(job_id: UUID, answer: records.Stopped, price: int) -> QuelError:
    """Return the error for an answer after which the job makes no more pictures."""
    match answer:
        case records.Cancelled():
            return cancelled(job_id, answer.by)
        case records.NotPaid(outcome="insufficient", payer=payer):
            return InsufficientCreditsError(
                f"The {payer.name} has {payer.balance or 0} credits, a picture costs {price}; "
                "add credits and run the job again."
            )
        case records.NotPaid(payer=payer):
            return PayerError(f"{payer.refusal}. Correct that and run the job again.")
        case records.NotProcessing(status="cancelled"):
            return JobCancelledError(f"Job {job_id}: its row was set to cancelled while it was at work.")
        case records.NotProcessing():
            return LeaseLostError(f"Job {job_id} is {answer.status} by now; nothing more is written.")
        case records.LeaseLost():
            return LeaseLostError(f"Job {job_id}: this run no longer holds its lease.")


def cancelled(job_id: UUID, by: CancelledBy) -> JobCancelledError:
    """Return the error that stops a cancelled job."""
    return JobCancelledError(f"Job {job_id} was cancelled by {'the user' if by == 'user' else 'an operator'}.")
