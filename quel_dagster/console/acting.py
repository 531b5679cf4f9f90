"""Actions on jobs: cancel, retry and refund, one job at a time, each with a result and a row of the action log."""

from __future__ import annotations

import asyncio
import time
from typing import Literal
from uuid import UUID

from redis import RedisError

from quel_dagster.adapters.database import actions
from quel_dagster.adapters.database.actions import Actor
from quel_dagster.adapters.database.ledger import job_of_picture, ledger_of_job
from quel_dagster.adapters.redis_connection import unreachable
from quel_dagster.console.connections import Connections
from quel_dagster.console.inspection import JobInspection, inspect
from quel_dagster.console.words import plural
from quel_dagster.errors import JobNotFoundError, QuelError
from quel_dagster.jobs.model import JobStatus, Value

_POLL_SECONDS = 0.2


class ActionResult(Value):
    """The result of an action on one job."""

    #: None: the picture belongs to no known job
    job_id: UUID | None
    #: done; nothing: it was not needed; refused: it is not possible
    result: Literal["done", "nothing", "refused"]
    said: str


async def cancel(
    connections: Connections, job_id: UUID, actor: Actor, *, wait_seconds: float, dry_run: bool = False
) -> ActionResult:
    """Cancel a job as an operator: it ends `cancelled` (domain.md §3). Wait this long for a live run to end it."""
    result = await _cancel(connections, job_id, actor, wait_seconds=wait_seconds, dry_run=dry_run)
    return result if dry_run else await _recorded(connections, actor, "cancel", result)


async def _cancel(
    connections: Connections, job_id: UUID, actor: Actor, *, wait_seconds: float, dry_run: bool
) -> ActionResult:
    database = connections.database
    try:
        job = await database.jobs.find_job(job_id)
    except JobNotFoundError as error:
        return ActionResult(job_id=job_id, result="refused", said=str(error))
    if job.job_status in {JobStatus.USER_CANCELLED, JobStatus.CANCELLED}:
        return ActionResult(job_id=job_id, result="nothing", said="had been cancelled before")
    if job.job_status.ended:
        return ActionResult(
            job_id=job_id, result="refused", said=f"had ended {job.job_status}; nothing is left to cancel"
        )
    if dry_run:
        return ActionResult(job_id=job_id, result="done", said=f"is {job.job_status}, would be cancelled")
    if (row := (await database.recovery.describe_jobs([job_id])).get(job_id)) and row.foreign_kind:
        await asyncio.to_thread(connections.queue.cancel, job_id)
        said = f"flag set; it is a {row.foreign_kind.reason}, and its row stays as it is"
        return ActionResult(job_id=job_id, result="done", said=said)
    # The project's own table first: after this nothing is committed, even if setting the flag fails.
    await database.work.keep_cancel(job_id, actor=actor.name, reason=actor.reason)
    flag = "flag set"
    try:
        await asyncio.to_thread(connections.queue.cancel_as_operator, job_id)
    except RedisError as error:
        flag = f"but not the flag: {unreachable(error)}"
    # the recorded reason is the operator's name and text, which keep_cancel has
    settled = await database.recovery.end_abandoned(
        job_id, status=JobStatus.CANCELLED, error="Cancelled by an operator."
    )
    if settled is not None:
        return ActionResult(
            job_id=job_id,
            result="done",
            said=f"cancelled ({flag}, kept) and ended at once: no worker had it, "
            f"{plural(settled.completed, 'picture')} stay",
        )
    deadline = time.monotonic() + wait_seconds
    while not job.job_status.ended and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
        job = await database.jobs.find_job(job_id)
    if job.job_status.ended:
        made = plural(len(await database.jobs.pictures(job_id)), "picture")
        return ActionResult(
            job_id=job_id, result="done", said=f"cancelled ({flag}, kept); its run ended it with {made}"
        )
    return ActionResult(
        job_id=job_id, result="done", said=f"cancel requested ({flag}, kept); its run ends it within seconds"
    )


async def retry(
    connections: Connections, job_id: UUID, actor: Actor, *, force: bool, dry_run: bool = False
) -> ActionResult:
    """Push a job again, unless that cannot help; with `dry_run` only report what would be done.

    Raises:
        QuelError: Redis does not answer.
    """
    result = await _retry(connections, job_id, force=force, dry_run=dry_run)
    return result if dry_run else await _recorded(connections, actor, "retry", result)


async def _retry(connections: Connections, job_id: UUID, *, force: bool, dry_run: bool) -> ActionResult:
    try:
        job = await inspect(connections, job_id)
    except JobNotFoundError as error:
        return ActionResult(job_id=job_id, result="refused", said=str(error))
    if job.redis is None:
        raise QuelError(job.redis_unknown)
    reason = _why_not(job, force=force)
    if reason is not None:
        return reason
    if not dry_run:
        await connections.database.work.lift_operators_cancel(job_id)
        await asyncio.to_thread(connections.queue.push_again, job_id)
    return ActionResult(job_id=job_id, result="done", said=_what_a_retry_makes(job, dry_run=dry_run))


async def refundable(connections: Connections, job_id: UUID) -> dict[int, int]:
    """Return the credits of a job's pictures that were charged and not refunded, by attach id."""
    ledger = await ledger_of_job(connections.database, job_id)
    refunded = {row.attach_idx for row in ledger if row.transaction_type == "refund"}
    return {
        row.attach_idx: -row.amount
        for row in ledger
        if row.transaction_type == "DEDUCT" and row.attach_idx is not None and row.attach_idx not in refunded
    }


async def refund(connections: Connections, attach_id: int, actor: Actor) -> ActionResult:
    """Refund the credits of one picture to its payer, at most once; the picture stays (domain.md §8)."""
    job_id = await job_of_picture(connections.database, attach_id)
    answer = await connections.database.jobs.refund(attach_id, reason=actor.reason or "")
    match answer.outcome:
        case "refunded":
            balance = "" if answer.balance is None else f"; the payer has {answer.balance:,}"
            result = ActionResult(
                job_id=job_id, result="done", said=f"picture {attach_id}: {answer.amount:,} credits refunded{balance}"
            )
        case "refunded_before":
            result = ActionResult(job_id=job_id, result="nothing", said=f"picture {attach_id} was refunded before")
        case _:
            result = ActionResult(job_id=job_id, result="refused", said=f"picture {attach_id} was never charged")
    return await _recorded(connections, actor, "refund", result, subject=str(attach_id))


async def _recorded(
    connections: Connections, actor: Actor, action: str, result: ActionResult, *, subject: str | None = None
) -> ActionResult:
    await actions.record(
        connections.database,
        actor,
        action,
        result=result.result,
        said=result.said,
        job_id=result.job_id,
        subject=subject,
    )
    return result


def _why_not(job: JobInspection, *, force: bool) -> ActionResult | None:
    """Return why pushing a job again is wrong; None when nothing speaks against it."""

    def answer(result: Literal["nothing", "refused"], said: str) -> ActionResult:
        return ActionResult(job_id=UUID(job.job_id), result=result, said=said)

    if job.foreign_kind is not None:
        return answer("refused", f"it is a {job.foreign_kind.reason}")
    if job.cancelled_by_user:
        return answer("refused", "its user cancelled it, which is final; the web app has to send a new job")
    if force:
        return None
    if job.status.ended:
        if job.plan_error is not None:
            return answer("refused", f"it would fail the same way: {job.plan_error}")
        if not job.missing:
            return answer("nothing", f"is {job.status} with all its pictures; nothing is missing")
        return _waits(job, answer("nothing", "is already queued"))
    if job.lease is not None and job.lease_is_live:
        return answer("nothing", f"run {job.lease.run_id} works on it on {job.lease.worker}")
    if job.status is JobStatus.PROCESSING and job.lease is None and job.live_run is None:
        return answer(
            "refused",
            "is in processing without a lease of this project: another worker on the same list may have it; "
            "--force takes it over",
        )
    return _waits(job, answer("nothing", "is already queued"))


def _waits(job: JobInspection, result: ActionResult) -> ActionResult | None:
    """Return `result` when a queue or a run has the job."""
    underway = job.redis is not None and (job.redis.position is not None or job.redis.processing)
    return result if underway or job.live_run is not None else None


def _what_a_retry_makes(job: JobInspection, *, dry_run: bool) -> str:
    made = f"; the {plural(len(job.pictures), 'picture')} it has {'is' if len(job.pictures) == 1 else 'are'} kept"
    pictures = plural(len(job.missing), "missing picture")
    pushed = "would be pushed" if dry_run else "pushed"
    return (
        f"was {job.status}, {pushed} again: only the {pictures} will be made and charged "
        f"(at most {job.still_owed:,} credits){made if job.pictures else ''}"
    )
