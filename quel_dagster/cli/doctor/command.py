"""`quel doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from quel_dagster.cli import connection
from quel_dagster.cli.doctor.finding import Finding, Part, Result
from quel_dagster.cli.output import AsJson, print_json, print_text
from quel_dagster.console.words import plural
from quel_dagster.errors import NotRunningError
from quel_dagster.settings import Settings


def doctor(
    picture: Annotated[
        bool, typer.Option("--picture", help="Make one real picture with Gemini, and print its cost.")
    ] = False,
    moving: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also compare with the older worker's env file: docs/migration.md."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every outside part, one line each, with what to do about it.

    Without --picture this costs nothing and leaves nothing behind: one picture, quel-doctor/probe.webp, is stored
    and deleted. Exit code 1 when a check failed (✗); a warning (!) works, but needs attention.
    """
    found = []
    for finding in findings(picture=picture, moving=moving):
        found.append(finding)
        if not as_json:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            print_text(f"{finding.result.mark} {finding.part}: {finding.said}{remedy}")
    failed = sum(finding.result is Result.FAILED for finding in found)
    warned = sum(finding.result is Result.WARNING for finding in found)
    if as_json:
        print_json({"ok": not failed, "findings": found})
    else:
        warnings = f", {plural(warned, 'warning')}" if warned else ""
        print_text(f"\n{plural(failed, 'check')} failed{warnings}." if failed else f"\nAll checks passed{warnings}.")
    if failed:
        raise typer.Exit(1)


def findings(*, picture: bool = False, moving: Path | None = None) -> Iterator[Finding]:
    """Check every system, one after the other; with `picture` make one with Gemini, with `moving` also
    compare with the older worker."""
    from quel_dagster.cli.doctor.dagster_parts import check_dagster  # noqa: PLC0415  each imports what it checks
    from quel_dagster.cli.doctor.gemini import check_gemini, try_a_picture  # noqa: PLC0415
    from quel_dagster.cli.doctor.moving import check_moving, read_env_file  # noqa: PLC0415
    from quel_dagster.cli.doctor.names import check_names  # noqa: PLC0415
    from quel_dagster.cli.doctor.object_store import check_object_store  # noqa: PLC0415
    from quel_dagster.cli.doctor.postgres import check_postgres  # noqa: PLC0415
    from quel_dagster.cli.doctor.redis_server import check_redis  # noqa: PLC0415

    settings, finding = _settings()
    yield finding
    yield from check_names()
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        check_postgres,
        check_redis,
        check_object_store,
        check_gemini,
        check_dagster,
    )
    for check in checks:
        yield from check(settings)
    if picture:
        yield try_a_picture(settings)
    if moving is not None:
        yield from check_moving(settings, read_env_file(moving))


def _settings() -> tuple[Settings, Finding]:
    part = Part("Settings")
    try:
        settings = connection.connect()
    except NotRunningError as error:
        settings = Settings.read()
        return settings, part.failed(f"{connection.missing_urls(settings)}: not set", str(error))
    running = connection.endpoints_if_running(settings)
    where = f"the `quel up` on {running.home}" if running else "the environment"
    return settings, part.ok(f"taken from {where}")
