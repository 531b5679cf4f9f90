"""`quel plan`: show what a job file would make and cost, without any service."""

from __future__ import annotations

from uuid import UUID

from quel_dagster.cli.job_files import JobPath, References, read_job, read_references
from quel_dagster.cli.output import AsJson, print_json, print_table, print_text
from quel_dagster.console.words import plural
from quel_dagster.errors import JobInputError, QuelError
from quel_dagster.jobs.composing import compose
from quel_dagster.jobs.job_file import with_references
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Brief, Job, JobStatus, Plan
from quel_dagster.jobs.planning import plan_job
from quel_dagster.settings import Settings

_NO_ROW = UUID(int=0)


def plan(file: JobPath, references: References = None, as_json: AsJson = False) -> None:
    """Show what a job file would make: units, requests to Gemini, and credits.

    Needs no service and changes nothing. References are assumed to exist.
    """
    settings = Settings.read()
    job, data = read_job(file)
    pictures = read_references(references)
    try:
        data = with_references(data, job.job_type, [(picture.type, n) for n, picture in enumerate(pictures, 1)])
        planned = plan_job(
            Job(
                job_id=_NO_ROW,
                production_id=_NO_ROW,
                job_type=job.job_type.value,
                job_status=JobStatus.PENDING,
                total_images=job.total_images,
                input_data=data,
                member_id=job.quel_member_id,
                org_id=job.org_id,
                production_path=job.quel_production_path.value,
            ),
            Limits.of(settings),
        )
    except JobInputError as error:
        raise QuelError(f"{file}: {error}.") from None
    briefs = {unit.key: compose(unit, planned.category) for unit in planned.units}
    credits_needed = planned.total * settings.image_per_price
    if as_json:
        print_json(
            {
                "category": planned.category,
                "job_type": planned.job_type,
                "pictures": planned.total,
                "credits": credits_needed,
                "repairs": [str(repair) for repair in planned.repairs],
                "units": [{**unit.model_dump(), "brief": briefs[unit.key]} for unit in planned.units],
            }
        )
        return
    _print(planned, briefs, credits_needed, settings.image_per_price)


def _print(planned: Plan, briefs: dict[str, Brief], credits_needed: int, price: int) -> None:
    print_table(
        ("UNIT", ">PICTURES", "CAMERA", "RATIO", "~REFERENCES"),
        (
            (
                unit.key,
                unit.quantity,
                unit.camera,
                unit.aspect_ratio,
                ", ".join(f"{reference.attach_id} {reference.type}" for reference in unit.references),
            )
            for unit in planned.units
        ),
    )
    for unit in planned.units:
        brief = briefs[unit.key]
        print_text(f"\n{unit.key}: request to Gemini, with {plural(len(brief.parts), 'picture')} before the text")
        for line in brief.text.splitlines():
            print_text(f"  {line}" if line else "")
        for warning in brief.warnings:
            print_text(f"  ! {warning}")
    for repair in planned.repairs:
        print_text(f"\nRead leniently: {repair}")
    print_text(f"\n{plural(planned.total, 'picture')} for {credits_needed:,} credits ({price} a picture).")
