"""Check Dagster: its storage, daemons, code location, and workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from quel_dagster.adapters.database import platform_place
from quel_dagster.cli import connection
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.console.words import plural, span
from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.services.home import home_of
from quel_dagster.services.probes import LOCATIONS
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

UI_TIMEOUT_SECONDS = 20.0

_platform, _storage, _daemons, _code, _workers = (
    Part(f"Dagster {name}") for name in ("platform", "storage", "daemons", "code", "workers")
)


def check_dagster(settings: Settings) -> Iterator[Finding]:
    """Yield every finding about Dagster."""
    yield from _platform_findings(settings)
    if "DAGSTER_HOME" not in os.environ:
        yield Part("Dagster").warning(
            f"no `quel up` runs on {home_of(settings)}, so runs, daemons and workers were not checked",
            "start `quel up`; for one of another home or machine set QUEL_HOME, or DAGSTER_HOME",
        )
        return
    try:
        with connection.dagster() as instance:
            runs = instance.get_runs_count()
            yield _storage.ok(f"{plural(runs, 'run')} so far")
            yield from _daemon_findings(instance)
            yield from _code_findings(settings)
            yield from _worker_findings(instance, settings)
    except SettingsError as error:
        yield _storage.failed("cannot be opened", str(error))
    except QuelError as error:
        said, _, remedy = str(error).partition("; ")
        yield _storage.failed(said, remedy or "see `quel env`")


def _platform_findings(settings: Settings) -> Iterator[Finding]:
    """Report which `quel up` runs the platform, and whether this shell uses its Dagster storage."""
    if settings.database_url is None:
        return
    try:
        held = platform_place.look(settings.database_url.get_secret_value())
    except psycopg.Error:  # no such table before the first start; an unreachable server has its own finding
        return
    if held is None:
        return
    if held.alive:
        yield _platform.ok(f"runs at {held.place}")
    else:
        yield _platform.warning(f"none runs; the last one was at {held.place}", "start `quel up`")
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if url is None:
        return
    try:
        own = platform_place.storage_identity(url, create=False)
    except psycopg.Error:
        return  # the storage has its own finding
    if own != held.storage_id:
        yield _platform.failed(
            "its Dagster storage is another one than that of DAGSTER_POSTGRES_URL",
            "set DAGSTER_DATABASE_URL as it is there: a worker on another storage finds no run",
        )


def _daemon_findings(instance: DagsterInstance) -> Iterator[Finding]:
    from quel_dagster.platform.internals import InstigatorStatus  # noqa: PLC0415

    statuses = instance.get_daemon_statuses()
    silent = []
    for name, status in statuses.items():
        if status.required and not status.healthy:
            last = status.last_heartbeat
            since = f"silent for {span(time.time() - last.timestamp)}" if last else "never seen"
            silent.append(f"{name.lower()} {since}")
    if silent:
        yield _daemons.failed(", ".join(silent), "start the daemon: python -m quel_dagster.platform.daemon run …")
    else:
        yield _daemons.ok(f"{sum(bool(status.required) for status in statuses.values())} alive")
    stopped = sorted(
        state.name for state in instance.all_instigator_state() if state.status is InstigatorStatus.STOPPED
    )
    if stopped:
        yield _daemons.warning(
            f"switched off in the UI: {', '.join(stopped)}", "switch them on again on the Automation page"
        )


def _code_findings(settings: Settings) -> Iterator[Finding]:
    page = connection.web_ui(settings)
    if page is None:
        yield _code.warning("the address of the web UI is unknown", "set QUEL_WEBSERVER_URL")
        return
    try:
        answer = httpx.post(f"{page}/graphql", json={"query": LOCATIONS}, timeout=UI_TIMEOUT_SECONDS)
        entries = answer.json()["data"]["workspaceOrError"]["locationEntries"]
    except (httpx.HTTPError, httpx.InvalidURL):
        yield _code.failed(
            f"the web UI does not answer at {page}", "start the webserver, or correct QUEL_WEBSERVER_URL"
        )
        return
    except (json.JSONDecodeError, KeyError, TypeError):
        yield _code.failed(f"the server at {page} is not Dagster's web UI", "correct QUEL_WEBSERVER_URL")
        return
    yield from _location_findings(entries)


def _location_findings(entries: list[dict[str, Any]]) -> Iterator[Finding]:
    if not entries:
        yield _code.failed("no code location is in the workspace", "start the code server; see workspace.yaml")
    for entry in entries:
        problem = (entry["locationOrLoadError"] or {}).get("message")
        if problem:
            first = str(problem).strip().splitlines()[0][:200]
            yield _code.failed(f"location {entry['name']} does not load: {first}", "see the log of the code server")
        elif entry["loadStatus"] != "LOADED":
            yield _code.warning(f"location {entry['name']} is still loading", "check again in a few seconds")
        else:
            yield _code.ok(f"location {entry['name']} is loaded")


def _worker_findings(instance: DagsterInstance, settings: Settings) -> Iterator[Finding]:
    from redis import RedisError  # noqa: PLC0415

    from quel_dagster.platform.launcher import QuelRunLauncher  # noqa: PLC0415  brings Celery

    launcher = instance.run_launcher
    if not isinstance(launcher, QuelRunLauncher):
        yield _workers.failed("runs are not launched by QuelRunLauncher", "use the dagster.yaml of this project")
        return
    try:
        found = launcher.board.read()
    except (RedisError, OSError) as error:
        yield _workers.failed(f"Redis does not answer ({type(error).__name__})", "check REDIS_URL")
        return
    if not found.pids:
        yield _workers.failed("none lives, so runs wait in the queue", "start one: quel worker")
        return
    slots, names = found.capacity, ", ".join(found.pids)
    yield _workers.ok(f"{plural(len(found.pids), 'process')} with {plural(slots, 'slot')}: {names}")
    if settings.max_runs is not None and settings.max_runs < slots:
        idle = plural(slots - settings.max_runs, "slot")
        yield _workers.warning(f"QUEL_MAX_RUNS is {settings.max_runs}, so {idle} stay idle", "raise it, or unset it")
