"""`quel stats`: show the state of the installation."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from quel_dagster.adapters.database.ledger import Money
from quel_dagster.adapters.database.usage import SpanUsage
from quel_dagster.cli import connection
from quel_dagster.cli.output import AsJson, print_facts, print_json, print_table, print_text
from quel_dagster.cli.since import Since
from quel_dagster.console import overview
from quel_dagster.console.overview import Stats
from quel_dagster.console.words import ago, at, plural, span
from quel_dagster.settings import Settings


def stats(since: Since = None, as_json: AsJson = False) -> None:
    """Show the state of the installation: queue, work, pace, failures by reason, waiting times, cost.

    Counts the jobs that ended since --since (default: 24h). Queue and work are current; pictures per minute are those
    of the last ten minutes.
    """
    begin = since or datetime.now(UTC) - timedelta(hours=24)
    found = asyncio.run(_stats(connection.connect(), begin))
    if as_json:
        print_json({**found.model_dump(), "jobs_waiting": found.waiting, "gemini_usd": found.gemini.usd})
        return
    print_facts(_facts(found))
    if found.reasons:
        print_text("")
        print_table((">JOBS", "~REASON"), ((reason.jobs, reason.reason) for reason in found.reasons))
    for sentence in found.unknown:
        print_text(f"\nNot known: {sentence}")


async def _stats(settings: Settings, since: datetime) -> Stats:
    async with connection.open_connections(settings) as connections:
        return await overview.stats(connections, since)


def _facts(found: Stats) -> list[tuple[str, str | None]]:
    ended, redis, runs = found.ended, found.redis, found.runs
    held = sum(len(worker.job_ids) for worker in found.workers)
    oldest = found.oldest_waiting_seconds
    return [
        ("intake", None if redis is None else redis.paused or "open"),
        (
            "waiting",
            plural(found.waiting, "job")
            + (f", the oldest for {span(oldest)} ({found.oldest_waiting_job})" if oldest is not None else ""),
        ),
        ("at work", f"{plural(held, 'job')} on {plural(len(found.workers), 'worker')}"),
        ("runs", None if runs is None else f"{runs.waiting:,} waiting, {runs.at_work:,} running"),
        ("dead", None if redis is None else plural(redis.dead_letters, "dead letter")),
        ("pace", f"{found.pictures_a_minute} pictures per minute"),
        ("since", f"{at(found.since)} ({ago(found.since, now=found.now)})"),
        (
            "jobs ended",
            f"{ended.jobs:,}: {ended.completed:,} completed, {ended.partial:,} partial, {ended.failed:,} failed, "
            f"{ended.cancelled:,} cancelled",
        ),
        ("pictures", f"{ended.pictures:,} made, {ended.missing:,} missing"),
        ("to begin", _percentiles(ended.p50_to_start, ended.p95_to_start)),
        ("to end", _percentiles(ended.p50_to_end, ended.p95_to_end)),
        ("credits", None if found.credits is None else _credits(found.credits)),
        ("gemini", _dollars(found.gemini)),
    ]


def _credits(money: Money) -> str:
    return f"{money.charged:,} charged" + (f", {money.refunded:,} refunded" if money.refunded else "")


def _dollars(usage: SpanUsage) -> str:
    unknown = f", {plural(usage.unpriced, 'picture')} of unknown price" if usage.unpriced else ""
    return f"{usage.usd:,.2f} USD for {plural(usage.calls, 'call')}{unknown}"


def _percentiles(p50: float | None, p95: float | None) -> str | None:
    return None if p50 is None or p95 is None else f"p50 {p50:.1f} s, p95 {p95:.1f} s"
