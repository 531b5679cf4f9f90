"""Dagster: its storage, its daemons, its code location, and the workers that run the runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx

from quel_dagster.cli import connection
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.cli.output import plural, span
from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

INSPECT_SECONDS = 2.0
UI_TIMEOUT_SECONDS = 20.0
#: What `quel up` asks the webserver as well: has it loaded the definitions?
_LOCATIONS = (
    "{workspaceOrError {... on Workspace {locationEntries {name loadStatus locationOrLoadError"
    " {__typename ... on PythonError {message}}}}}}"
)

_storage, _daemons, _code, _workers = (Part(f"Dagster {name}") for name in ("storage", "daemons", "code", "workers"))


def check_dagster(settings: Settings) -> Iterator[Finding]:
    """Every finding about Dagster's parts."""
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


def _daemon_findings(instance: DagsterInstance) -> Iterator[Finding]:
    from dagster._core.scheduler.instigation import InstigatorStatus  # noqa: PLC0415

    statuses = instance.get_daemon_statuses()
    silent = []
    for name, status in statuses.items():
        if status.required and not status.healthy:
            last = status.last_heartbeat
            since = f"silent for {span(time.time() - last.timestamp)}" if last else "never seen"
            silent.append(f"{name.lower()} {since}")
    if silent:
        yield _daemons.failed(", ".join(silent), "start the daemon: python -m quel_dagster.pipeline.daemon run …")
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
        yield _code.warning("where the web UI is, is not known", "set QUEL_WEBSERVER_URL")
        return
    try:
        answer = httpx.post(f"{page}/graphql", json={"query": _LOCATIONS}, timeout=UI_TIMEOUT_SECONDS)
        entries = answer.json()["data"]["workspaceOrError"]["locationEntries"]
    except (httpx.HTTPError, httpx.InvalidURL):
        yield _code.failed(
            f"the web UI does not answer at {page}", "start the webserver, or correct QUEL_WEBSERVER_URL"
        )
        return
    except (json.JSONDecodeError, KeyError, TypeError):
        yield _code.failed(f"what answers at {page} is not Dagster's web UI", "correct QUEL_WEBSERVER_URL")
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
            yield _code.warning(f"location {entry['name']} is still loading", "look again in a few seconds")
        else:
            yield _code.ok(f"location {entry['name']} is loaded")


def _worker_findings(instance: DagsterInstance, settings: Settings) -> Iterator[Finding]:
    from kombu.exceptions import KombuError  # noqa: PLC0415
    from redis import RedisError  # noqa: PLC0415

    try:
        inspect = instance.run_launcher.celery.control.inspect(timeout=INSPECT_SECONDS)  # type: ignore[attr-defined]
        stats: dict[str, Any] = inspect.stats() or {}
    except AttributeError:
        yield _workers.failed("runs are not launched through Celery", "use the dagster.yaml of this project")
        return
    except (KombuError, RedisError, OSError) as error:
        yield _workers.failed(
            f"the broker does not answer ({type(error).__name__})", "check CELERY_BROKER_URL and CELERY_RESULT_BACKEND"
        )
        return
    if not stats:
        yield _workers.failed(
            "none answers, so no run will start", "start one: celery -A quel_dagster.pipeline.celery_app worker"
        )
        return
    slots = sum(int(worker.get("pool", {}).get("max-concurrency", 0)) for worker in stats.values())
    yield _workers.ok(f"{plural(len(stats), 'worker')} with {plural(slots, 'slot')}: {', '.join(sorted(stats))}")
    yield from _slot_findings(instance, slots, settings)


def _slot_findings(instance: DagsterInstance, slots: int, settings: Settings) -> Iterator[Finding]:
    config: Any = instance.get_concurrency_config().run_queue_config
    told = settings.workers if "workers" in settings.model_fields_set else slots
    allowed = config.max_concurrent_runs if config is not None else told
    if allowed > slots:
        yield _workers.failed(
            f"{allowed} runs may be launched at a time, and there are {plural(slots, 'slot')}",
            "start more workers, or lower QUEL_WORKERS for the daemon: what no worker takes is failed after 3 min",
        )
    elif allowed < slots:
        yield _workers.warning(
            f"{allowed} runs are launched at a time, so {plural(slots - allowed, 'slot')} stay idle",
            "raise QUEL_WORKERS for the daemon to the slots of all workers",
        )
