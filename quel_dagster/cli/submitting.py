"""`quel submit`, `quel enqueue`: submit jobs as the web app does."""

from __future__ import annotations

import asyncio
import mimetypes
import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from quel_dagster.adapters.database.records import NewJob
from quel_dagster.adapters.database.store import Database
from quel_dagster.cli import connection
from quel_dagster.cli.actor import As, Why, actor_of, record
from quel_dagster.cli.job_files import JobPath, LocalPicture, References, read_job, read_references
from quel_dagster.cli.output import AsJson, SomeJobs, print_json, print_text
from quel_dagster.console.lookup import find_jobs
from quel_dagster.console.words import plural
from quel_dagster.errors import QuelError
from quel_dagster.jobs.job_file import JobFile, with_references
from quel_dagster.settings import Settings


def submit(file: JobPath, references: References = None, as_json: AsJson = False) -> None:
    """Insert a production and its job as the web app does, push the job's id, and print it.

    The file holds columns of quel_production_jobs (docs/schema/job.json). Without quel_member_id the sandbox's member
    pays, if the database is the embedded one. --reference uploads a picture first, as the web app does.
    """
    job, data = read_job(file)
    pictures = read_references(references)
    settings = connection.connect()
    job_id, production_id = asyncio.run(_insert(settings, job, data, pictures))
    with connection.queue(settings) as queue:
        queue.push(job_id)
    if as_json:
        print_json({"job_id": job_id, "production_id": production_id})
    else:
        print_text(str(job_id))


async def _insert(
    settings: Settings, job: JobFile, data: dict[str, Any], pictures: Sequence[LocalPicture]
) -> tuple[UUID, UUID]:
    async with connection.database(settings) as database:
        member_id = job.quel_member_id
        if member_id is None:
            running = connection.endpoints_if_running(settings)
            if running is None or running.postgres_port is None:
                raise QuelError("quel_member_id: missing. Name the member who pays.")
            from quel_dagster.sandbox.web_app import sandbox_member  # noqa: PLC0415

            member_id = await sandbox_member(database)
        uploaded = await _upload(settings, database, pictures)
        new = NewJob(
            job_type=job.job_type.value,
            total_images=job.total_images,
            input_data=with_references(data, job.job_type, uploaded),
            path=job.quel_production_path.value,
            member_id=member_id,
            org_id=job.org_id,
            name=job.production_name,
            stage_count=job.stage_count,
        )
        return await database.web_app.insert_job(new, price=settings.image_per_price)


async def _upload(settings: Settings, database: Database, pictures: Sequence[LocalPicture]) -> list[tuple[str, int]]:
    """Store reference pictures as the web app does (domain.md §5); return the type and attach id of each."""
    if not pictures:
        return []
    from quel_dagster.adapters.storage.store import open_store  # noqa: PLC0415

    store = open_store(settings)
    try:
        uploaded = []
        for picture in pictures:
            path = f"upload-{secrets.token_hex(8)}-{picture.name}"
            kind = mimetypes.guess_type(picture.path.name)[0] or "application/octet-stream"
            await store.put(f"uploads/{path}", picture.data, content_type=kind)
            attach_id = await database.web_app.insert_attach(
                name=picture.path.name, path=path, size=len(picture.data), mime_type=kind, storage=store.backend
            )
            uploaded.append((picture.type, attach_id))
        return uploaded
    finally:
        await store.aclose()


def enqueue(
    job_ids: SomeJobs,
    who: As = None,
    why: Why = None,
    as_json: AsJson = False,
) -> None:
    """Push job ids unchecked onto jobs:again. `quel retry` checks first whether that helps.

    A complete job makes and charges nothing. An older worker does not read jobs:again. A complete UUID is
    pushed even without a row.
    """
    settings = connection.connect()
    pushed = asyncio.run(_found(settings, job_ids))
    with connection.queue(settings) as queue:
        queue.push_again(*pushed)
    for job_id in pushed:
        record(settings, actor_of(who), "enqueue", reason=why, said="pushed onto jobs:again", job_id=job_id)
    if as_json:
        print_json({"pushed": pushed})
    else:
        print_text(f"Pushed {plural(len(pushed), 'job id')} onto jobs:again.")


async def _found(settings: Settings, words: Sequence[str]) -> list[UUID]:
    async with connection.open_connections(settings) as connections:
        return await find_jobs(connections, words)
