"""Check PostgreSQL: reachable, writable, with the tables of domain.md §2 and a matching clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
from sqlalchemy.exc import DBAPIError

from quel_dagster.adapters.database.connections import free_connections
from quel_dagster.adapters.database.reasons import reason_of
from quel_dagster.adapters.database.row_security import open_commands
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.database.url import in_own_schema, with_psycopg2
from quel_dagster.adapters.database.web_app_tables import enums, tables
from quel_dagster.cli import connection
from quel_dagster.cli.doctor.contract import NEEDED_PRIVILEGES, differences
from quel_dagster.cli.doctor.finding import Finding, Part, Result
from quel_dagster.console.words import plural
from quel_dagster.errors import SettingsError
from quel_dagster.platform.storage_location import storage_in_own_schema
from quel_dagster.services.preparation import connections_needed
from quel_dagster.settings import Settings

#: `gen_random_uuid()` is built in, and `alter type … add value` may run in a transaction
OLDEST_VERSION = 13
#: Leases use only the database's clock; Dagster's monitoring and logs do not.
CLOCK_TOLERANCE = timedelta(seconds=5)
#: maximum of items listed in one line
_LISTED = 6

_part = Part("PostgreSQL")


def check_postgres(settings: Settings) -> Iterator[Finding]:
    """Yield every finding about the database."""
    if settings.database_url is None:
        yield _part.failed("DATABASE_URL is not set", "set it, or start `quel up`")
        return
    url = settings.database_url.get_secret_value()
    findings = asyncio.run(_collected(url))
    yield from findings
    if any(finding.result is Result.OK for finding in findings):  # it answers
        yield _connections(url, settings)
        if settings.dagster_database_url is None:
            yield _dagsters_place(url)


def _connections(url: str, settings: Settings) -> Finding:
    """Check that there are enough connections for `quel up` with these settings."""
    needed = 0 if connection.endpoints_if_running(settings) else connections_needed(settings)
    try:
        found = free_connections(url, wanted=max(needed, 1))
    except psycopg.Error as error:
        reason = reason_of(error)
        return _part.failed(reason.said, reason.remedy)
    through = "through a pooler" if found.pooled else "directly"
    if found.free < needed:
        return _part.failed(
            f"{plural(found.free, 'connection')} free {through}, and this installation needs up to {needed}",
            "raise max_connections of the server or the pool size of the pooler, or lower QUEL_WORKER_PROCESSES",
        )
    return _part.ok(f"connected {through}, with connections to spare")


def _dagsters_place(url: str) -> Finding:
    """Check where Dagster's tables would be created."""
    try:
        storage_in_own_schema(in_own_schema(with_psycopg2(url)))
    except SettingsError as error:
        said, _, remedy = str(error).removeprefix("DATABASE_URL: ").partition(". ")
        return _part.failed(said, remedy)
    except psycopg.Error as error:
        reason = reason_of(error)
        return _part.failed(reason.said, reason.remedy)
    return _part.ok("Dagster's tables have schema quel_dagster")


async def _collected(url: str) -> list[Finding]:
    findings: list[Finding] = []
    try:
        database = Database(url, pool_size=1, retry_seconds=0)
    except SettingsError as error:
        return [_part.failed("DATABASE_URL cannot be used", str(error))]
    try:
        async with asyncio.timeout(20):
            async for finding in _look(database):
                findings.append(finding)
    except DBAPIError as error:
        said, _, remedy = connection.why_database(error).partition("; ")
        findings.append(_part.failed(said, remedy))
    except TimeoutError:
        findings.append(_part.failed("no answer within 20 s", "check DATABASE_URL, and the network between"))
    finally:
        await database.aclose()
    return findings


async def _look(database: Database) -> AsyncIterator[Finding]:
    asked = datetime.now(UTC)
    facts = await database.installation.server_facts()
    asked += (datetime.now(UTC) - asked) / 2
    version = f"version {facts.version}, user {facts.role}"
    if facts.version_num < OLDEST_VERSION * 10_000:
        yield _part.failed(version, f"upgrade to PostgreSQL {OLDEST_VERSION} or newer")
    else:
        yield _part.ok(version)
    if facts.read_only:
        yield _part.failed(
            "read-only: a replica, or default_transaction_read_only", "point DATABASE_URL at the primary"
        )
    drift = asked - facts.clock
    if abs(drift) > CLOCK_TOLERANCE:
        yield _part.warning(
            f"this clock is {abs(drift.total_seconds()):.0f} s {'ahead' if drift > timedelta() else 'behind'}",
            "let NTP set the clocks: run monitoring and logs use them (leases do not)",
        )
    else:
        yield _part.ok(f"clocks agree within {abs(drift.total_seconds()):.1f} s")
    yield await _tables(database)
    yield await _enums(database)
    yield await _privileges(database)
    yield await _own_schema(database, facts.role, has_schema=facts.has_own_schema, may_create=facts.may_create_schema)


async def _tables(database: Database) -> Finding:
    wrong = [*differences(await database.installation.columns(tables()))]
    if wrong:
        return _part.failed(
            f"the web app's tables: {_listed(wrong)}",
            "point DATABASE_URL at the web app's database; its owner has to update the tables to domain.md §2",
        )
    columns = sum(map(len, tables().values()))
    return _part.ok(f"the web app's tables are as expected ({len(tables())} tables, {columns} columns)")


async def _enums(database: Database) -> Finding:
    found = await database.installation.enums()
    missing = [
        f"{name} lacks {label}"
        for name, labels in enums().items()
        for label in labels
        if label not in found.get(name, ())
    ]
    if missing:
        return _part.failed(
            f"status values: {_listed(missing)}", "the owner of the tables has to add them: alter type … add value …"
        )
    return _part.ok("status values are as expected")


async def _privileges(database: Database) -> Finding:
    granted = await database.installation.privileges(NEEDED_PRIVILEGES)
    filtered = [table for table, (_, filtered) in granted.items() if filtered]
    allowed = await open_commands(database, filtered)
    hidden = sorted(table for table in filtered if NEEDED_PRIVILEGES[table] - allowed.get(table, frozenset()))
    if hidden:
        return _part.failed(
            f"row security hides rows of {_listed(hidden)}",
            "connect as a role with BYPASSRLS, or give this one a policy: "
            "create policy quel on <table> to <role> using (true) with check (true)",
        )
    lacking = [
        f"{' and '.join(sorted(missing))} on {table}"
        for table, needed in NEEDED_PRIVILEGES.items()
        if table in granted and (missing := needed - granted[table][0])
    ]
    if lacking:
        return _part.failed(f"not granted: {_listed(lacking)}", "grant them to the user of DATABASE_URL")
    return _part.ok("permissions suffice")


async def _own_schema(database: Database, role: str, *, has_schema: bool, may_create: bool) -> Finding:
    if not has_schema and not may_create:
        return _part.failed(
            "schema quel_dagster is missing and cannot be created",
            f"as the owner of the database: create schema quel_dagster authorization {role}",
        )
    if not has_schema:
        return _part.warning("schema quel_dagster does not exist yet", "`quel up` or `quel migrate` installs it")
    state = await database.installation.schema_state()
    if state.problem:
        return _part.failed(state.problem, "see the upgrade section of docs/operations.md")
    if state.missing:
        return _part.warning(
            "schema quel_dagster lacks migrations of this version", "`quel up` or `quel migrate` installs them"
        )
    return _part.ok("schema quel_dagster is of this version")


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
