"""`quel gallery`: pictures beside what was asked for, as one HTML file."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from quel_dagster.adapters.storage.store import open_store
from quel_dagster.cli import connection
from quel_dagster.cli.output import at, plural, say
from quel_dagster.cli.runs import find_runs
from quel_dagster.cli.since import Since
from quel_dagster.errors import QuelError
from quel_dagster.jobs.limits import Limits
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from quel_dagster.sandbox.gallery import GalleryJob


def gallery(
    job_ids: Annotated[list[UUID] | None, typer.Argument(metavar="JOB_ID…", help="The jobs to show.")] = None,
    since: Since = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("quel-gallery.html"),
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="With --since: at most so many jobs, newest first.")
    ] = 100,
) -> None:
    """Write the pictures of jobs, or of a day, into one HTML file that needs no network and no other file."""
    if bool(job_ids) == (since is not None):
        raise typer.BadParameter("name jobs, or give --since.")
    settings = connection.connect()
    wanted = list(dict.fromkeys(job_ids or ())) or asyncio.run(_created_since(settings, since, limit))
    if not wanted:
        raise QuelError("No job was created since then.")
    runs = find_runs(settings, wanted)
    links = {job_id: run.url for job_id in wanted for run in runs.of(job_id)[:1]}
    jobs = asyncio.run(_gathered(settings, wanted, links))
    from quel_dagster.sandbox.gallery import write_gallery  # noqa: PLC0415  brings Pillow

    title = f"Quel since {at(since)}" if since else f"Quel: {plural(len(jobs), 'job')}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_gallery(output, jobs, title=title)
    except OSError as error:
        raise QuelError(f"{output}: {error.strerror or error}.") from None
    made = sum(picture.picture is not None for job in jobs for picture in job.pictures)
    say(f"{output}: {plural(len(jobs), 'job')}, {plural(made, 'picture')}")


async def _created_since(settings: Settings, since: datetime | None, limit: int) -> list[UUID]:
    async with connection.database(settings) as database:
        return [job["job_id"] for job in await database.list_jobs(since=since, most=limit)]


async def _gathered(settings: Settings, job_ids: list[UUID], links: dict[UUID, str | None]) -> list[GalleryJob]:
    from quel_dagster.sandbox.gallery_data import GalleryReader  # noqa: PLC0415

    async with AsyncExitStack() as parts:
        database = await parts.enter_async_context(connection.database(settings))
        store = open_store(settings)
        parts.push_async_callback(store.aclose)
        reader = GalleryReader(database, store, limits=Limits.of(settings))
        return [await reader.job(job_id, run_url=links.get(job_id)) for job_id in job_ids]
