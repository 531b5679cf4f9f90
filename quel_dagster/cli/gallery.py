"""`quel gallery`: pictures beside their requests, as one HTML file."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quel_dagster.adapters.database.job_list import Filter, matching_jobs
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.cli import connection
from quel_dagster.cli.output import JobWords, print_text
from quel_dagster.cli.since import Since
from quel_dagster.console.lookup import find_jobs
from quel_dagster.console.runs import find_runs
from quel_dagster.console.words import at, plural
from quel_dagster.errors import QuelError
from quel_dagster.jobs.limits import Limits
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from quel_dagster.pipeline.gallery.page import GalleryJob


def gallery(
    jobs: JobWords = None,
    since: Since = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("quel-gallery.html"),
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="With --since: at most this many jobs, newest first.")
    ] = 100,
) -> None:
    """Write the pictures of jobs, or of a day, into one HTML file that needs no network and no other file."""
    if bool(jobs) == (since is not None):
        raise typer.BadParameter("name jobs, or give --since.")
    settings = connection.connect()
    shown = asyncio.run(_gathered(settings, jobs, since=since, limit=limit))
    if not shown:
        raise QuelError("No job was created or ended since then.")
    from quel_dagster.pipeline.gallery.page import write_gallery  # noqa: PLC0415  brings Pillow

    title = f"Quel since {at(since)}" if since else f"Quel: {plural(len(shown), 'job')}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_gallery(output, shown, title=title)
    except OSError as error:
        raise QuelError(f"{output}: {error.strerror or error}.") from None
    print_text(f"{output}: {plural(len(shown), 'job')}, {plural(sum(job.made for job in shown), 'picture')}")


async def _gathered(
    settings: Settings, words: list[str] | None, *, since: datetime | None, limit: int
) -> list[GalleryJob]:
    from quel_dagster.pipeline.gallery.reader import GalleryReader  # noqa: PLC0415

    async with AsyncExitStack() as opened:
        connections = await opened.enter_async_context(connection.open_connections(settings))
        if words:
            wanted = await find_jobs(connections, words)
        else:
            wanted = [row.job_id for row in await matching_jobs(connections.database, Filter(since=since), most=limit)]
        runs = await asyncio.to_thread(find_runs, connections, wanted)
        links = {job_id: run.url for job_id in wanted for run in runs.of(job_id)[:1]}
        store = open_store(settings)
        opened.push_async_callback(store.aclose)
        reader = GalleryReader(connections.database, store, limits=Limits.of(settings))
        return [await reader.job(job_id, run_url=links.get(job_id)) for job_id in wanted]
