"""Plan a job row: its units, and the pictures and references of each (domain.md §4).

Pure and deterministic: the same row always gives the same slots, so a rerun finds the pictures already made.
"""

from __future__ import annotations

from collections.abc import Sequence

from quel_dagster.errors import JobInputError
from quel_dagster.jobs.categories.registry import style_of
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Category, Job, JobType, Plan, Repair, Unit
from quel_dagster.jobs.quantities import share_out
from quel_dagster.jobs.reading import Field, read_document
from quel_dagster.jobs.requests import UnitRequest, read_requests
from quel_dagster.jobs.texts import shown

# callers need the limits wherever they plan
__all__ = ["Limits", "plan_job"]


def plan_job(job: Job, limits: Limits = Limits()) -> Plan:  # noqa: B008 - a frozen value
    """Plan the pictures of a job (domain.md §4).

    Raises:
        JobInputError: the input has no safe meaning or exceeds `limits`; nothing was spent.
    """
    repairs: list[Repair] = []
    if job.total_images > limits.max_images:
        raise JobInputError("total_images", f"{job.total_images} pictures; at most {limits.max_images} are allowed")
    job_type = _read_job_type(job, repairs)
    category = _read_category(job, repairs)
    document = read_document(job.input_data, repairs)
    _compare_member(job, document.member("userId"))
    requests = read_requests(document, job_type, style_of(category), limits.of_category(category))
    return Plan(
        job_id=job.job_id,
        category=category,
        job_type=job_type,
        units=_plan_units(job.total_images, requests, limits, repairs),
        repairs=tuple(repairs),
    )


def _compare_member(job: Job, claimed: Field) -> None:
    """Log a `userId` that is not the job's member as a repair; the job's member counts (domain.md §8)."""
    user_id = claimed.uuid()
    if user_id is not None and job.member_id is not None and user_id != job.member_id:
        claimed.note(f"names {user_id}; the job's member is {job.member_id}, who counts")


def _read_job_type(job: Job, repairs: list[Repair]) -> JobType:
    try:
        return JobType(job.job_type.strip().lower())
    except ValueError:
        repairs.append(Repair(path="job_type", problem=f"{shown(job.job_type)} is unknown; read as single_batch"))
        return JobType.SINGLE_BATCH


def _read_category(job: Job, repairs: list[Repair]) -> Category:
    if Category.named(job.production_path) is None:
        problem = f"{shown(job.production_path)} is unknown; read as {job.category}"
        repairs.append(Repair(path="quel_production_path", problem=problem))
    return job.category


def _plan_units(total: int, requests: Sequence[UnitRequest], limits: Limits, repairs: list[Repair]) -> tuple[Unit, ...]:
    """Distribute `total` pictures over the units, if it is positive; a unit without a picture is dropped."""
    shares = share_out(total, [request.quantity for request in requests])
    planned = sum(shares)
    if planned == 0:
        raise JobInputError("total_images", f"{total} is not positive and no quantity is given")
    if planned > limits.max_images:
        problem = f"not positive, and the quantities add up to {planned}; at most {limits.max_images} are allowed"
        raise JobInputError("total_images", problem)
    if total <= 0:
        problem = f"{total} is not positive; the given quantities add up to {planned}"
        repairs.append(Repair(path="total_images", problem=problem))
    units: list[Unit] = []
    for request, share in zip(requests, shares, strict=True):
        if share != request.quantity and not request.takes_remainder:
            repairs.append(Repair(path=request.quantity_path, problem=_difference(request.quantity, share, total)))
        if share:
            units.append(request.unit(index=len(units), quantity=share))
    return tuple(units)


def _difference(given: int | None, share: int, total: int) -> str:
    was = "not given" if given is None else f"{given} asked for"
    of = f" of the job's {total}" if total > 0 else ""
    return f"{was}; planned {share}{of}" if share else f"{was}; left out, nothing of the job's total is left for it"
