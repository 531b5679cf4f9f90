"""Every secret setting holds a canary; after jobs that succeed and jobs that fail in many ways, none of them sings.

Looked at: every log file, everything in Dagster's tables and in ours, everything in Redis, the command line of every
process, what the UI's API answers, what commands print, the metrics, the gallery.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
import redis
from prometheus_client.exposition import generate_latest
from typer.testing import CliRunner

from quel_dagster.cli.main import app
from quel_dagster.redaction import _written
from quel_dagster.sandbox.gemini_state import Behaviour, Rule
from quel_dagster.services.endpoints import settings_environment
from tests.faults.desk import Desk, eventually, print_line
from tests.faults.installation import GEMINI_KEY, SECRETS, Installation

WRONG = "wrong-password-canary-0c51"
#: where secrets are at home: made by the servers themselves, or for `quel env`
KEPT = {"credentials.json", "endpoints.json", "redis.conf", "pg_hba.conf"}
SERVERS_DATA = {"postgres", "redis", "objects"}


def _secrets(site: Installation) -> dict[str, str]:
    passwords = {
        name: urlsplit(url).password or ""
        for name, url in (("PostgreSQL", site.database_url), ("Redis", site.redis_url))
    }
    return {**SECRETS, **passwords, "a wrong password": WRONG}


def _assert_silent(site: Installation, texts: Mapping[str, str]) -> None:
    sought = {name: re.compile("|".join(map(re.escape, _written(value)))) for name, value in _secrets(site).items()}
    for place, text in texts.items():
        for name, pattern in sought.items():
            if found := pattern.search(text):
                around = text[max(0, found.start() - 200) : found.end() + 50].replace(found[0], "<HERE>")
                pytest.fail(f"{name} is printed in {place}: …{around}…")


# --- where to look -----------------------------------------------------------------------------------


def _files(site: Installation) -> Iterator[tuple[str, str]]:
    """Logs, compute logs, configuration: every file but those of the servers and the ones that hold secrets."""
    for path in site.home.rglob("*"):
        parts = set(path.relative_to(site.home).parts)
        if path.is_file() and path.name not in KEPT and not parts & SERVERS_DATA:
            yield str(path.relative_to(site.home)), path.read_text(errors="replace")
    yield "PostgreSQL's log", (site.home / "backing/logs/postgres.log").read_text(errors="replace")


def _tables(site: Installation) -> Iterator[tuple[str, str]]:
    """Every row of every table: runs, tags, events, ticks, errors; jobs, outputs."""
    dagsters = site.backing.endpoints.dagster_postgres_url.replace("+psycopg2", "")
    for url in (dagsters, site.database_url):
        with psycopg.connect(url, autocommit=True) as connection:
            tables = connection.execute(
                "select quote_ident(table_schema) || '.' || quote_ident(table_name) from information_schema.tables"
                " where table_schema not in ('pg_catalog', 'information_schema')"
            ).fetchall()
            assert tables
            for (table,) in tables:
                rows = connection.execute(f"select t::text from {table} t".encode())  # noqa: S608 - from the catalogue
                yield table, "\n".join(row for (row,) in rows)


def _redis(site: Installation) -> Iterator[tuple[str, str]]:
    """Every key with its value: the queue's lists, Celery's messages, the workers' records."""
    with redis.Redis.from_url(site.redis_url) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            values = {
                b"string": lambda key: [client.get(key)],
                b"list": lambda key: client.lrange(key, 0, -1),
                b"hash": lambda key: list(client.hgetall(key).items()),
                b"set": lambda key: list(client.smembers(key)),
                b"zset": lambda key: client.zrange(key, 0, -1),
            }[kind](key)
            yield f"Redis {key!r}", repr(values)


def _command_lines() -> Iterator[tuple[str, str]]:
    for process in psutil.process_iter(["cmdline", "name"]):
        yield f"the command line of {process.info['name']}", " ".join(process.info["cmdline"] or ())


async def _pages(desk: Desk) -> list[tuple[str, str]]:
    """Query what the UI queries: runs with config, tags and events; ticks; the installation's configuration."""
    queries = {
        "runs": "{runsOrError(limit:50){... on Runs{results{runId runConfigYaml tags{key value} "
        "eventConnection{events{__typename ... on MessageEvent{message} ... on ErrorEvent{error{message stack}}"
        " ... on ExecutionStepFailureEvent{error{message stack causes{message stack}}}}}}}}}",
        "instance": "{instance{info daemonHealth{allDaemonStatuses{lastHeartbeatErrors{message stack}}}}}",
        "ticks": "{repositoriesOrError{... on RepositoryConnection{nodes{sensors{name sensorState{ticks(limit:100)"
        "{status skipReason error{message stack} cursor}}}}}}}",
    }
    return [(f"page {name}", str(await _answer(desk, query))) for name, query in queries.items()]


async def _answer(desk: Desk, query: str) -> object:
    """The UI's connection may still be one that a restart of PostgreSQL broke in an earlier test: it asks again."""
    async with httpx.AsyncClient(timeout=60) as client:
        for _ in range(5):
            answer = await client.post(f"{desk.site.endpoints.webserver_url}/graphql", json={"query": query})
            if "errors" not in answer.json():
                break
        else:
            raise AssertionError(answer.text)
    return answer.json()


def _commands(site: Installation, job_ids: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Return the output of every command about jobs or the installation, in this installation's environment."""
    environment = {
        **settings_environment(site.settings),
        **site.endpoints.environment(),
        "DATABASE_URL": site.database_url,
        "REDIS_URL": site.redis_url,
        "DAGSTER_POSTGRES_URL": site.backing.endpoints.dagster_postgres_url,
    }
    page = folder / "gallery.html"
    commands = [
        ["doctor"],
        ["doctor", "--json"],
        ["status", *job_ids],
        ["show", job_ids[-1]],
        ["show", job_ids[-1], "--json"],
        ["list", "--json"],
        ["dead", "list"],
        ["gallery", *job_ids, "--output", str(page)],
    ]
    wrong = {
        "DATABASE_URL": re.sub(r":[^:@/]+@", f":{WRONG}@", site.database_url),
        "REDIS_URL": re.sub(r":[^:@/]+@", f":{WRONG}@", site.redis_url),
        "DAGSTER_POSTGRES_URL": re.sub(r":[^:@/]+@", f":{WRONG}@", site.backing.endpoints.dagster_postgres_url),
    }
    for what, more in (("", {}), (" with wrong passwords", wrong)):
        for command in commands if not more else [["doctor"], ["status", job_ids[0]], ["list"]]:
            before = dict(os.environ)
            os.environ.update({**environment, **more})
            try:
                done = CliRunner().invoke(app, command)
            finally:
                os.environ.clear()
                os.environ.update(before)
            said = done.output + (done.stderr or "")
            assert said, command
            yield f"quel {command[0]}{what}", f"{said}\n{done.exception!r}"
    yield "the gallery", page.read_text()


# --- what happens ------------------------------------------------------------------------------------


async def _every_way_to_fail(desk: Desk) -> list[str]:
    """Good, refused with the key in the answer, storage full, connections refused; returns the jobs' ids."""
    site = desk.site
    good = await desk.job(1)
    await desk.until_status(good, "completed")
    site.gemini.state.add_rules(
        Rule(behaviour=Behaviour.FORBIDDEN, match="wordkey", message=f"API key not valid: {GEMINI_KEY}")
    )
    bad_key = await desk.job(1, prompt="wordkey")
    desk.excuse("Gemini refuses every request of this installation", bad_key)
    row = await desk.until_ended(bad_key)
    assert row["status"] == "failed"
    assert "***" in row["error_message"], "the answer that holds the key did not get this far"
    site.storage.fail(507, times=20)
    full = await desk.job(1)
    await desk.until_ended(full)
    site.storage.heal()
    site.proxies.gemini.refuse()
    refused = await desk.job(1)
    await eventually(lambda: site.proxies.gemini.refused > 0, "a refused call")
    site.heal()  # the job waits for that
    await desk.until_ended(refused)
    await desk.until_at_rest()
    return [str(job_id) for job_id in (good, full, refused, bad_key)]


async def test_no_secret_is_printed(desk: Desk) -> None:
    site = desk.site
    await _every_way_to_fail(desk)
    looks = [_files(site), _tables(site), _redis(site), _command_lines(), await _pages(desk)]
    texts = {place: text for look in looks for place, text in look}
    print_line(f"looked at {len(texts)} places, {sum(map(len, texts.values())):,} characters")
    _assert_silent(site, texts)


@pytest.mark.fault_all
async def test_no_secret_is_printed_by_commands(desk: Desk, tmp_path: Path) -> None:
    jobs = await _every_way_to_fail(desk)
    texts = await asyncio.to_thread(lambda: dict(_commands(desk.site, jobs, tmp_path)))
    texts["the metrics"] = generate_latest().decode()
    _assert_silent(desk.site, texts)


@pytest.mark.fault_all
async def test_no_secret_is_printed_by_a_worker_that_may_not_in(desk: Desk) -> None:
    """Its passwords are wrong; it reports this and ends."""
    site = desk.site
    wrong_database = re.sub(r":[^:@/]+@", f":{WRONG}@", site.database_url)
    wrong_redis = re.sub(r":[^:@/]+@", f":{WRONG}@", site.redis_url)
    cases = {
        "database": ({"DATABASE_URL": wrong_database}, "user or password refused"),
        # Celery prefers its own variable
        "redis": ({"REDIS_URL": wrong_redis, "CELERY_BROKER_URL": wrong_redis}, "invalid username-password pair"),
    }
    for name, (environment, complaint) in cases.items():
        host = site.add_host(f"wrong-{name}", wait=False, environment=environment)
        await eventually(
            lambda host=host, complaint=complaint: complaint in host.log_bytes().decode(errors="replace"),
            f"the complaint about {name}",
        )
        host.kill()
    _assert_silent(site, dict(_files(site)))


def test_nothing_listens_beyond_this_machine(site: Installation) -> None:
    """The UI has no login. The code server listens on a socket that only its owner can open."""
    listening: dict[str, set[str]] = {}
    for stack in (site.backing, site.platform):
        for name, pid in stack.supervisor.pids().items():
            process = psutil.Process(pid)
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go with their connections
                    for connection in each.net_connections(kind="inet"):
                        if connection.status == psutil.CONN_LISTEN:
                            listening.setdefault(name, set()).add(connection.laddr.ip)
    assert listening.keys() >= {"postgres", "redis", "webserver"}
    assert "code-server" not in listening
    for name, addresses in listening.items():
        for address in addresses:
            assert ip_address(address).is_loopback, (name, address)
