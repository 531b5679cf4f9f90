"""What a person should do next about a job: one sentence per thing, most pressing first."""

from __future__ import annotations

from collections.abc import Iterator

from quel_dagster.cli.inspection import JobInspection
from quel_dagster.cli.output import plural
from quel_dagster.jobs.model import JobStatus


def advice(job: JobInspection) -> tuple[str, ...]:
    """At least one sentence."""
    return (*_advice(job),)


def _advice(job: JobInspection) -> Iterator[str]:
    if job.status.ended:
        yield from _about_an_ended_job(job)
    elif job.cancel_asked:
        yield "It is being cancelled: the run sees it within 2 s, a job that waits is ended within half a minute."
    elif job.status is JobStatus.PENDING:
        yield from _about_a_waiting_job(job)
    else:
        yield from _about_a_job_at_work(job)
    if job.redis is not None:
        for letter in job.redis.letters:
            yield f"It has a dead letter ({letter.reason}): quel dead show {letter.name}"


def _about_an_ended_job(job: JobInspection) -> Iterator[str]:
    if job.status is JobStatus.USER_CANCELLED:
        yield "Nothing: the user cancelled it, which is final. Pictures that were made stay."
    elif job.plan_error is not None:
        yield (
            f"Its input cannot be used ({job.plan_error}), and no retry will change that: "
            "the web app has to send a corrected job."
        )
    elif not job.missing:
        yield f"Nothing: {'its picture is' if len(job.pictures) == 1 else 'all its pictures are'} made."
    else:
        yield from _about_credits(job)
        if job.unusable_references:
            ids = ", ".join(map(str, job.unusable_references))
            yield f"References that cannot be had ({ids}): the user has to upload them again."
        yield f"To make only the {plural(len(job.missing), 'missing picture')}: quel retry {job.job_id}"


def _about_credits(job: JobInspection) -> Iterator[str]:
    if job.payer is None:
        yield "Nobody can pay: the job names neither an active organization nor an existing member."
    elif job.payer.credit < job.still_owed:
        yield (
            f"The {job.payer.kind} {job.payer.name or job.payer.id} has {job.payer.credit:,} credits, "
            f"and what is missing costs {job.still_owed:,}: add credits first."
        )


def _about_a_waiting_job(job: JobInspection) -> Iterator[str]:
    run = job.live_run
    if job.redis is not None and job.redis.position is not None:
        ahead = job.redis.position - 1
        yield (
            f"Wait: it is number {job.redis.position} of {job.redis.waiting:,} in jobs:queue"
            f"{'' if ahead else ', the next one'}. Should the queue not move: quel doctor"
        )
    elif run is not None:
        yield f"Wait: its run is {run.status}. Should it stay so: quel doctor (are workers there, and slots free?)"
    elif job.redis is not None and job.redis.processing:
        yield "Wait: the queue sensor has taken it and is about to launch its run. Should it stay so: quel doctor"
    elif job.redis is None or job.runs_unknown:
        yield "Whether it waits somewhere is not known while a part does not answer: quel doctor"
    else:
        yield (
            "It is in no queue and has no run. The sweep pushes such jobs again after a minute or two; "
            f"at once: quel retry {job.job_id}"
        )
    yield from _about_credits(job)


def _about_a_job_at_work(job: JobInspection) -> Iterator[str]:
    if job.lease is not None and job.lease_is_live:
        yield f"Wait: run {job.lease['run_id']} works on it on {job.lease['worker']}. quel status --watch {job.job_id}"
    elif job.lease is not None:
        yield (
            f"Its worker ({job.lease['worker']}) is gone for {-job.lease['seconds_left']:.0f} s. Another one goes on "
            f"within a minute; if not: quel doctor, then quel retry {job.job_id}"
        )
    elif job.live_run is not None:
        yield f"Wait: run {job.live_run.run_id} is {job.live_run.status}, and is about to claim it."
    else:
        yield (
            "Nobody here works on it: an older worker on the same list has it, or it is abandoned. "
            f"quel audit {job.job_id} tells after a while; to take it over: quel retry --force {job.job_id}"
        )
    yield from _about_credits(job)
