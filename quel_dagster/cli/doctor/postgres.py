"""PostgreSQL: reachable, writable, with the tables of domain.md §2, and clocks that agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import DBAPIError

from quel_dagster.adapters.database.store import Database
from quel_dagster.cli import connection
from quel_dagster.cli.doctor.contract import NEEDED_PRIVILEGES, differences, expected_enums, expected_tables
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.errors import SettingsError
from quel_dagster.settings import Settings

#: `gen_random_uuid()` is built in, and `alter type … add value` may run in a transaction
OLDEST_VERSION = 13
#: Leases run on the database's clock alone; Dagster's monitoring and people's logs do not.
CLOCK_TOLERANCE = timedelta(seconds=5)
#: connections that should be free: a worker process keeps up to five
FREE_CONNECTIONS = 10
#: listed in one line
_LISTED = 6

_part = Part("PostgreSQL")


def check_postgres(settings: Settings) -> Iterator[Finding]:
    """Every finding about the database."""
    if settings.database_url is None:
        yield _part.failed("DATABASE_URL is not set", "set it, or start `quel up`")
        return
    yield from asyncio.run(_collected(settings.database_url.get_secret_value()))


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
    facts = await database.server_facts()
    asked += (datetime.now(UTC) - asked) / 2
    version = f"version {facts['version']}, user {facts['role']}"
    if facts["version_num"] < OLDEST_VERSION * 10_000:
        yield _part.failed(version, f"upgrade to PostgreSQL {OLDEST_VERSION} or newer")
    else:
        yield _part.ok(version)
    if facts["read_only"]:
        yield _part.failed(
            "read-only: a replica, or default_transaction_read_only", "point DATABASE_URL at the primary"
        )
    free = facts["max_connections"] - facts["connections"]
    if free < FREE_CONNECTIONS:
        yield _part.warning(
            f"{free} of {facts['max_connections']} connections are free", "raise max_connections, or pool connections"
        )
    drift = asked - facts["clock"]
    if abs(drift) > CLOCK_TOLERANCE:
        yield _part.warning(
            f"this clock is {abs(drift.total_seconds()):.0f} s {'ahead' if drift > timedelta() else 'behind'}",
            "let NTP set the clocks: run monitoring and logs go by them (leases do not)",
        )
    else:
        yield _part.ok(f"clocks agree within {abs(drift.total_seconds()):.1f} s")
    yield await _tables(database)
    yield await _enums(database)
    yield await _privileges(database)
    yield await _own_schema(database, has_schema=facts["has_own_schema"], may_create=facts["may_create_schema"])


async def _tables(database: Database) -> Finding:
    wrong = [*differences(await database.columns(expected_tables()))]
    if wrong:
        return _part.failed(
            f"the web app's tables: {_listed(wrong)}",
            "point DATABASE_URL at the web app's database; its owner has to bring the tables up to domain.md §2",
        )
    columns = sum(map(len, expected_tables().values()))
    return _part.ok(f"the web app's tables are as expected ({len(expected_tables())} tables, {columns} columns)")


async def _enums(database: Database) -> Finding:
    found = await database.enums()
    missing = [
        f"{name} lacks {label}"
        for name, labels in expected_enums().items()
        for label in labels
        if label not in found.get(name, ())
    ]
    if missing:
        return _part.failed(
            f"status values: {_listed(missing)}", "the owner of the tables has to add them: alter type … add value …"
        )
    return _part.ok("status values are as expected")


async def _privileges(database: Database) -> Finding:
    granted = await database.privileges(NEEDED_PRIVILEGES)
    hidden = sorted(table for table, (_, filtered) in granted.items() if filtered)
    if hidden:
        return _part.failed(
            f"row security hides rows of {_listed(hidden)}",
            "connect as the owner of the tables, or as a role with BYPASSRLS",
        )
    lacking = [
        f"{' and '.join(sorted(missing))} on {table}"
        for table, needed in NEEDED_PRIVILEGES.items()
        if table in granted and (missing := needed - granted[table][0])
    ]
    if lacking:
        return _part.failed(f"not granted: {_listed(lacking)}", "grant them to the user of DATABASE_URL")
    return _part.ok("permissions suffice")


async def _own_schema(database: Database, *, has_schema: bool, may_create: bool) -> Finding:
    if not has_schema and not may_create:
        return _part.failed(
            "schema quel_dagster is missing and may not be made",
            "as the owner: create schema quel_dagster authorization <the user of DATABASE_URL>",
        )
    if not has_schema:
        return _part.warning("schema quel_dagster is not there yet", "the first worker makes it when it starts")
    if not await database.own_schema_is_current():
        return _part.warning("schema quel_dagster is not of this version", "the next worker that starts upgrades it")
    return _part.ok("schema quel_dagster is of this version")


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
