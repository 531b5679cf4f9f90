"""`quel doctor`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import typer

from quel_dagster.cli import connection
from quel_dagster.cli.doctor.finding import Finding, Part, Result
from quel_dagster.cli.output import AsJson, plural, print_json, say
from quel_dagster.errors import NotRunningError
from quel_dagster.settings import Settings


def doctor(as_json: AsJson = False) -> None:
    """Check every outside part, one line each, with what to do about it.

    Spends nothing and leaves nothing behind: one small object, quel-doctor/probe.txt, is stored and deleted again. Exit
    code 1 when something is ✗; a warning (!) works, but a person should know of it.
    """
    findings = []
    for finding in _findings():
        findings.append(finding)
        if not as_json:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            say(f"{finding.result.mark} {finding.part}: {finding.said}{remedy}")
    failed = sum(finding.result is Result.FAILED for finding in findings)
    warned = sum(finding.result is Result.WARNING for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": findings})
    else:
        warnings = f", {plural(warned, 'warning')}" if warned else ""
        say(f"\n{plural(failed, 'thing')} to mend{warnings}." if failed else f"\nEverything is fit for work{warnings}.")
    if failed:
        raise typer.Exit(1)


def _findings() -> Iterator[Finding]:
    from quel_dagster.cli.doctor.dagster_parts import check_dagster  # noqa: PLC0415  each brings what it looks at
    from quel_dagster.cli.doctor.gemini import check_gemini  # noqa: PLC0415
    from quel_dagster.cli.doctor.object_store import check_object_store  # noqa: PLC0415
    from quel_dagster.cli.doctor.postgres import check_postgres  # noqa: PLC0415
    from quel_dagster.cli.doctor.redis_server import check_redis  # noqa: PLC0415

    settings, finding = _settings()
    yield finding
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        check_postgres,
        check_redis,
        check_object_store,
        check_gemini,
        check_dagster,
    )
    for check in checks:
        yield from check(settings)


def _settings() -> tuple[Settings, Finding]:
    part = Part("Settings")
    try:
        settings = connection.connect()
    except NotRunningError as error:
        return Settings.read(), part.failed("DATABASE_URL or REDIS_URL is not set", str(error))
    running = connection.endpoints_if_running(settings)
    where = f"the `quel up` on {running.home}" if running else "the environment"
    if not running and "DAGSTER_HOME" not in os.environ:
        return settings, part.warning(f"taken from {where}", "set DAGSTER_HOME to see runs")
    return settings, part.ok(f"taken from {where}")
