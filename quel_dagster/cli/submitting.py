"""`quel submit`, `quel enqueue`: what the web app does, by hand."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError

from quel_dagster.adapters.database.records import NewJob
from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, JobIds, plural, print_json, say
from quel_dagster.errors import QuelError
from quel_dagster.settings import Settings


def submit(
    file: Annotated[Path, typer.Argument(help="JSON with job_type, total_images and job_input_data; - reads stdin.")],
    as_json: AsJson = False,
) -> None:
    """Insert a production and its job as the web app does, push the job's id, and print it.

    The file holds columns of quel_production_jobs. Without quel_member_id the sandbox's member pays, if the database
    is the embedded one.
    """
    job = _read_job(file)
    settings = connection.connect()
    job_id, production_id = asyncio.run(_insert(settings, job))
    with connection.queue(settings) as queue:
        queue.push(job_id)
    if as_json:
        print_json({"job_id": job_id, "production_id": production_id})
    else:
        say(str(job_id))


async def _insert(settings: Settings, job: NewJob) -> tuple[UUID, UUID]:
    async with connection.database(settings) as database:
        if job.member_id is None:
            running = connection.endpoints_if_running(settings)
            if running is None or running.postgres_port is None:
                raise QuelError("quel_member_id: missing. Name the member who pays.")
            from quel_dagster.sandbox.web_app import sandbox_member  # noqa: PLC0415

            job = job.model_copy(update={"member_id": await sandbox_member(database)})
        return await database.insert_job(job, price=settings.image_per_price)


def _read_job(file: Path) -> NewJob:
    try:
        given = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuelError(f"{file}: {error.strerror or error}.") from None
    except ValueError as error:
        raise QuelError(f"{file} is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise QuelError(f"{file} holds no object; see `quel submit --help`.")
    columns = {
        "job_input_data": "input_data",
        "quel_production_path": "path",
        "quel_member_id": "member_id",
        "production_name": "name",
    }
    try:
        return NewJob.model_validate({columns.get(name, name): value for name, value in given.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        named = {value: name for name, value in columns.items()}.get(field, field)
        raise QuelError(f"{file}: {named}: {first['msg']}.") from None


def enqueue(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Push job ids onto jobs:queue as they are. `quel retry` looks first whether that helps.

    A job that is whole already makes and charges nothing.
    """
    with connection.queue(connection.connect()) as queue:
        queue.push(*job_ids)
    if as_json:
        print_json({"pushed": job_ids})
    else:
        say(f"Pushed {plural(len(job_ids), 'job id')} onto jobs:queue.")
