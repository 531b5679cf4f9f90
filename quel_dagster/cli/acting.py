"""`quel cancel`, `quel retry`: acting on jobs, and saying what was done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Literal
from uuid import UUID

import typer
from redis import RedisError

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue, unreachable
from quel_dagster.cli import connection
from quel_dagster.cli.inspection import JobInspection, inspect
from quel_dagster.cli.output import AsJson, JobIds, plural, print_json, say
from quel_dagster.errors import JobNotFoundError, QuelError
from quel_dagster.jobs.model import JobStatus, Value

_POLL_SECONDS = 0.2


class Deed(Value):
    """What was done about one job."""

    job_id: UUID
    #: done: it was; nothing: there was no need; refused: it cannot be
    result: Literal["done", "nothing", "refused"]
    said: str


def cancel(
    job_ids: JobIds,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a run at work to end.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs, as if their users had.

    Keeps the cancel in our own table and sets the flag in Redis. A job that still waits is ended at once; a run at
    work sees it within 2 s, even during a call to Gemini. Pictures that were made stay, and stay charged.
    """
    settings = connection.connect()

    async def act(queue: JobQueue) -> list[Deed]:
        async with connection.database(settings) as database:
            return [await _cancel(database, queue, job_id, wait) for job_id in dict.fromkeys(job_ids)]

    with connection.queue(settings) as queue:
        _report(asyncio.run(act(queue)), as_json=as_json)


async def _cancel(database: Database, queue: JobQueue, job_id: UUID, wait: float) -> Deed:
    try:
        job = await database.find_job(job_id)
    except JobNotFoundError as error:
        return Deed(job_id=job_id, result="refused", said=str(error))
    if job.job_status is JobStatus.USER_CANCELLED:
        return Deed(job_id=job_id, result="nothing", said="had been cancelled before")
    if job.job_status.ended:
        return Deed(job_id=job_id, result="refused", said=f"had ended {job.job_status}; nothing is left to cancel")
    # Our own table first: nothing is committed after this, whatever becomes of the flag.
    await database.keep_cancel(job_id)
    flag = "flag set"
    try:
        await asyncio.to_thread(queue.cancel, job_id)
    except RedisError as error:
        flag = f"but not the flag: {unreachable(error)}"
    settled = await database.end_abandoned(job_id, status=JobStatus.CANCELLED, error="Cancelled by the user.")
    if settled is not None:
        return Deed(
            job_id=job_id,
            result="done",
            said=f"cancelled ({flag}, kept) and ended at once: nobody was at work on it, "
            f"{plural(settled.completed, 'picture')} stay",
        )
    deadline = time.monotonic() + wait
    while not job.job_status.ended and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
        job = await database.find_job(job_id)
    if job.job_status.ended:
        made = plural(len(await database.pictures(job_id)), "picture")
        return Deed(job_id=job_id, result="done", said=f"cancelled ({flag}, kept); its run ended it with {made}")
    return Deed(job_id=job_id, result="done", said=f"cancel asked ({flag}, kept); its run ends it within seconds")


def retry(
    job_ids: JobIds,
    force: Annotated[bool, typer.Option(help="Push a job even if somebody seems to be at work on it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Push ended or forgotten jobs again.

    A run makes and charges only the pictures that are missing: what is made is neither made again nor paid again.
    A job that waits or is worked on is left alone, and one that its user cancelled stays so.
    """
    settings = connection.connect()
    deeds = []
    for job_id in dict.fromkeys(job_ids):
        try:
            job = inspect(settings, job_id)
        except JobNotFoundError as error:
            deeds.append(Deed(job_id=job_id, result="refused", said=str(error)))
            continue
        if job.redis is None:
            raise QuelError(job.redis_unknown)
        reason = _why_not(job, force=force)
        if reason is not None:
            deeds.append(reason)
            continue
        with connection.queue(settings) as queue:
            queue.push(job_id)
        deeds.append(Deed(job_id=job_id, result="done", said=_what_a_retry_makes(job)))
    _report(deeds, as_json=as_json)


def _why_not(job: JobInspection, *, force: bool) -> Deed | None:
    """What speaks against pushing a job again."""

    def deed(result: Literal["nothing", "refused"], said: str) -> Deed:
        return Deed(job_id=UUID(job.job_id), result=result, said=said)

    if job.status is JobStatus.USER_CANCELLED or job.cancel_asked:
        return deed("refused", "its user cancelled it, which is final; the web app has to send a new job")
    if force:
        return None
    if job.status.ended:
        if job.plan_error is not None:
            return deed("refused", f"it would fail the same way: {job.plan_error}")
        if not job.missing:
            return deed("nothing", f"is {job.status} with all its pictures; nothing is missing")
        return _waits(job, deed("nothing", "waits for its turn already"))
    if job.lease is not None and job.lease_is_live:
        return deed("nothing", f"run {job.lease['run_id']} is at work on it on {job.lease['worker']}")
    if job.status is JobStatus.PROCESSING and job.lease is None and job.live_run is None:
        return deed(
            "refused",
            "is in processing without a lease of ours: another worker on the same list may have it; "
            "--force takes it over",
        )
    return _waits(job, deed("nothing", "waits for its turn already"))


def _waits(job: JobInspection, deed: Deed) -> Deed | None:
    """`deed` when a queue or a run has the job."""
    underway = job.redis is not None and (job.redis.position is not None or job.redis.processing)
    return deed if underway or job.live_run is not None else None


def _what_a_retry_makes(job: JobInspection) -> str:
    made = f"; the {plural(len(job.pictures), 'picture')} it has {'is' if len(job.pictures) == 1 else 'are'} kept"
    pictures = plural(len(job.missing), "missing picture")
    return (
        f"was {job.status}, pushed again: only the {pictures} will be made and charged "
        f"(at most {job.still_owed:,} credits){made if job.pictures else ''}"
    )


def _report(deeds: Sequence[Deed], *, as_json: bool) -> None:
    if as_json:
        print_json(list(deeds))
    else:
        for deed in deeds:
            say(f"{deed.job_id}: {deed.said}")
    if any(deed.result == "refused" for deed in deeds):
        raise typer.Exit(1)
