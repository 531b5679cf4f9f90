"""The `quel` command: parses words, calls the library, prints what comes back."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic import ValidationError
from redis import RedisError
from rich.console import Console
from rich.markup import escape

from quel_dagster.adapters.database.store import NewJob
from quel_dagster.adapters.queue import unreachable
from quel_dagster.cli import connection
from quel_dagster.errors import JobNotFoundError, QuelError, SettingsError
from quel_dagster.settings import Settings

app = typer.Typer(
    name="quel",
    help="Turns the image jobs of the Quel web app into pictures, as Dagster runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_console = Console(highlight=False)


def main() -> None:
    """Run the command line; an error of ours is one line on stderr."""
    try:
        app()
    except SettingsError as error:
        _fail(error, 2)
    except QuelError as error:
        _fail(error, 1)
    except RedisError as error:
        _fail(unreachable(error), 1)


def _fail(error: QuelError, code: int) -> None:
    sys.stderr.write(f"quel: {error}\n")
    sys.exit(code)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the web UI on 127.0.0.1; 0 takes a free one.")] = 3000,
) -> None:
    """Run every service in the foreground; Ctrl-C stops them, the data stay in QUEL_HOME.

    A part whose URL is in the environment (DATABASE_URL, REDIS_URL, GEMINI_BASE_URL, …) is used, not started.
    """
    from quel_dagster.sandbox.services import run_up  # noqa: PLC0415  brings the servers of the sandbox extra

    def echo(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    raise typer.Exit(run_up(Settings.read(), port=port, echo=echo))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the gallery and the contact sheet.")] = Path("output"),
) -> None:
    """Make sample jobs of every kind on embedded services, from nothing, and check every row they leave."""
    from quel_dagster.sandbox.demo import forget_demo, run_demo  # noqa: PLC0415  brings the sandbox extra

    settings = Settings.read()
    forget_demo(settings)
    raise typer.Exit(run_demo(settings, output=output, console=_console))


@app.command()
def env(as_json: AsJson = False) -> None:
    """Print the environment of the running `quel up`, for eval "$(quel env)"."""
    from quel_dagster.sandbox.endpoints import running_endpoints  # noqa: PLC0415

    endpoints = running_endpoints(Settings.read())
    if as_json:
        _print_json(endpoints.environment())
    else:
        sys.stdout.write(endpoints.shell_exports() + "\n")


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="JSON with job_type, total_images and job_input_data; - reads stdin.")],
    as_json: AsJson = False,
) -> None:
    """Insert a production and its job as the web app does, push the job's id, and print it.

    \b
    The file holds columns of quel_production_jobs:
      {"job_type": "simple_general", "total_images": 2, "quel_production_path": "fashion",
       "quel_member_id": "…", "org_id": null, "job_input_data": {"prompt": "A red coat in the rain"}}
    Without quel_member_id the sandbox's member pays, if the database is the embedded one.
    """
    job = _read_job(file)

    async def insert(settings: Settings) -> tuple[UUID, UUID]:
        async with connection.database(settings) as database:
            payer = job
            if job.member_id is None:
                running = connection.endpoints_if_running(settings)
                if running is None or running.postgres_port is None:
                    raise QuelError("quel_member_id: missing. Name the member who pays.")
                from quel_dagster.sandbox.web_app import sandbox_member  # noqa: PLC0415

                payer = job.model_copy(update={"member_id": await sandbox_member(database)})
            return await database.insert_job(payer, price=settings.image_per_price)

    settings = connection.connect()
    job_id, production_id = asyncio.run(insert(settings))
    connection.queue(settings).push(job_id)
    if as_json:
        _print_json({"job_id": job_id, "production_id": production_id})
    else:
        sys.stdout.write(f"{job_id}\n")


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


@app.command()
def enqueue(
    job_ids: Annotated[list[UUID], typer.Argument(help="Ids of rows in quel_production_jobs.")], as_json: AsJson = False
) -> None:
    """Push job ids onto jobs:queue. A job that is whole already makes and charges nothing."""
    settings = connection.connect()
    connection.queue(settings).push(*job_ids)
    if as_json:
        _print_json({"pushed": job_ids})
    else:
        sys.stdout.write(f"Pushed {len(job_ids)} job id{'s' * (len(job_ids) != 1)} onto jobs:queue.\n")


@app.command()
def status(job_id: Annotated[UUID, typer.Argument(help="A job_id.")], as_json: AsJson = False) -> None:
    """Show a job: its state, pictures, credits and runs."""
    settings = connection.connect()

    async def look() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        async with connection.database(settings) as database:
            reports = await database.report([job_id])
            if job_id not in reports:
                raise JobNotFoundError(f"Job {job_id} is not in quel_production_jobs.")
            return reports[job_id], await database.pictures(job_id)

    report, pictures = asyncio.run(look())
    runs = _runs(job_id)
    running = connection.endpoints_if_running(settings)
    for run in runs:
        if running is not None:
            run["url"] = running.run_url(run["run_id"])
    if as_json:
        _print_json({**report, "pictures": pictures, "runs": runs})
        return
    for name, value in (
        ("job", report["job_id"]),
        ("type", f"{report['job_type']}, {report['production_path'] or 'fashion'}"),
        ("status", report["status"]),
        ("pictures", f"{report['completed_images']} of {report['total_images']}, {report['failed_images']} failed"),
        ("attach ids", ", ".join(str(picture["attach_id"]) for picture in pictures) or "none"),
        ("credits", f"{report['credits']}, paid by {_payer(report)}"),
        ("reason", report["error_message"]),
        ("production", f"{report['production_id']} ({report['production_status']})"),
        ("created", report["created_at"]),
        ("started", report["started_at"]),
        ("completed", report["completed_at"]),
        *(("run", f"{run['status']:<9} {run.get('url', run['run_id'])}") for run in runs),
    ):
        if value is not None:
            _console.print(f"[bold]{name:<12}[/bold]{escape(str(value))}", soft_wrap=True)


def _payer(report: dict[str, Any]) -> str:
    return f"organization {report['org_id']}" if report["org_id"] else f"member {report['member_id']}"


def _runs(job_id: UUID) -> list[dict[str, Any]]:
    """The job's runs, newest first."""
    from dagster import DagsterInstance  # noqa: PLC0415  takes a second to import

    from quel_dagster.pipeline.runs import runs_of  # noqa: PLC0415

    with DagsterInstance.get() as instance:
        found = runs_of(instance, [job_id]).get(job_id, [])
        return [{"run_id": run.run_id, "status": run.status.value} for run in found]


if __name__ == "__main__":
    main()
