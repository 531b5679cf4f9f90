"""The next steps for a job: one sentence each, most urgent first."""

from __future__ import annotations

from collections.abc import Iterator

from quel_dagster.console.inspection import JobInspection
from quel_dagster.console.words import plural
from quel_dagster.jobs.model import JobStatus


def advice(job: JobInspection) -> tuple[str, ...]:
    """Return at least one sentence."""
    return (*_advice(job),)


def _advice(job: JobInspection) -> Iterator[str]:
    if job.foreign_kind is not None:
        yield f"Nothing to do here: it is a {job.foreign_kind.reason}."
    elif job.status.ended:
        yield from _about_an_ended_job(job)
    elif job.cancel_asked:
        yield "It is being cancelled: a run stops within 2 s, a waiting job is ended within half a minute."
    elif job.status is JobStatus.PENDING:
        yield from _about_a_waiting_job(job)
    else:
        yield from _about_a_job_at_work(job)
    if job.redis is not None:
        for letter in job.redis.letters:
            yield f"It has a dead letter ({letter.reason}): quel dead show {letter.name}"


def _about_an_ended_job(job: JobInspection) -> Iterator[str]:
    if job.status is JobStatus.USER_CANCELLED:
        yield "Nothing to do: the user cancelled it, which is final. Pictures that were made stay."
    elif job.plan_error is not None:
        yield (
            f"Its input cannot be used ({job.plan_error}), and a retry cannot change that: "
            "the web app has to send a corrected job."
        )
    elif not job.missing:
        yield f"Nothing to do: {'its picture is' if len(job.pictures) == 1 else 'all its pictures are'} made."
    else:
        yield from _about_credits(job)
        if job.unusable_references:
            ids = ", ".join(map(str, job.unusable_references))
            yield f"References that cannot be fetched ({ids}): the user has to upload them again."
        yield f"To make only the {plural(len(job.missing), 'missing picture')}: quel retry {job.job_id}"


def _about_credits(job: JobInspection) -> Iterator[str]:
    if job.payer.refusal:
        yield f"{job.payer.refusal}: correct that, then run the job again."
    elif job.payer.credit < job.still_owed:
        yield (
            f"The {job.payer.kind} {job.payer.name or job.payer.id} has {job.payer.credit:,} credits, "
            f"and the missing pictures cost {job.still_owed:,}: add credits first."
        )


def _about_a_waiting_job(job: JobInspection) -> Iterator[str]:
    run = job.live_run
    if job.redis is not None and job.redis.position is not None:
        ahead = job.redis.position - 1
        yield (
            f"Wait: it is number {job.redis.position} of {job.redis.waiting:,} in jobs:queue"
            f"{'' if ahead else ', the next one'}. If the queue does not move: quel doctor"
        )
    elif run is not None:
        yield f"Wait: its run is {run.status}. If it stays so: quel doctor (are there workers with free slots?)"
    elif job.redis is not None and job.redis.processing:
        yield "Wait: the queue sensor has claimed it and is about to launch its run. If it stays so: quel doctor"
    elif job.redis is None or job.runs_unknown:
        yield "Its queue position is unknown because a system does not answer: quel doctor"
    else:
        yield (
            "It is in no queue and has no run. The sweep pushes such jobs again after a minute or two; "
            f"at once: quel retry {job.job_id}"
        )
    yield from _about_credits(job)


def _about_a_job_at_work(job: JobInspection) -> Iterator[str]:
    if job.lease is not None and job.lease_is_live:
        yield f"Wait: run {job.lease.run_id} works on it on {job.lease.worker}. quel status --watch {job.job_id}"
    elif job.lease is not None:
        yield (
            f"The lease of its worker ({job.lease.worker}) expired {-job.lease.seconds_left:.0f} s ago. "
            f"Another worker takes over within a minute; if not: quel doctor, then quel retry {job.job_id}"
        )
    elif job.live_run is not None:
        yield f"Wait: run {job.live_run.run_id} is {job.live_run.status}, and is about to claim it."
    else:
        yield (
            "No worker of this project has it: an older worker on the same list has it, or it is abandoned. "
            f"quel audit {job.job_id} tells which after a while; to take it over: quel retry --force {job.job_id}"
        )
    yield from _about_credits(job)
