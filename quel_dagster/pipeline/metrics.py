"""Metrics for Prometheus: the state of the systems, read at each scrape, and the workers' counters.

One exporter reads PostgreSQL, Redis and Dagster: workers need no port, and no count is lost when one ends. Names and
meanings are in docs/metrics.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from quel_dagster.adapters.counters import BUCKETS, read_counters
from quel_dagster.adapters.database.figures import Backlog, Group, backlog, outcomes
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.errors import QuelError
from quel_dagster.settings import Settings

DEFAULT_PORT = 9464
#: Statuses of runs that have not ended: cheap to count, however many runs there have been.
LIVE = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)
#: The period for counting recent jobs.
RECENT = timedelta(hours=1)
_OUTCOMES = ("ok", "refused", "rate_limited", "timeout", "unavailable", "bad_answer", "rejected")


@contextmanager
def serving(
    settings: Settings, instance: DagsterInstance, *, port: int = DEFAULT_PORT, address: str = "127.0.0.1"
) -> Iterator[None]:
    """Answer `GET /metrics` in a thread while the block runs.

    Raises:
        SettingsError: DATABASE_URL or REDIS_URL is not set.
        QuelError: the port is in use.
    """
    try:
        server, thread = start_http_server(port, addr=address, registry=registry(settings, instance))
    except OSError as error:
        raise QuelError(f"Port {port} of {address} cannot be used: {error.strerror}; choose another.") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def registry(settings: Settings, instance: DagsterInstance) -> CollectorRegistry:
    """Raises SettingsError when DATABASE_URL or REDIS_URL is not set."""
    made = CollectorRegistry(auto_describe=False)
    made.register(QuelCollector(settings.required_database_url(), settings.required_redis_url(), instance))
    return made


class QuelCollector(Collector):
    """Reads every system on each scrape. One that does not answer is `quel_up 0`; the others are still reported."""

    def __init__(self, database_url: str, redis_url: str, instance: DagsterInstance) -> None:
        self._database_url = database_url
        self._redis_url = redis_url
        self._instance = instance

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("quel_up", "Whether this system answers.", labels=["part"])
        seconds = GaugeMetricFamily("quel_scrape_seconds", "Duration of reading this system.", labels=["part"])
        for part, read in (("postgres", self._postgres), ("redis", self._redis), ("dagster", self._dagster)):
            started = time.monotonic()
            try:
                yield from list(read())
                up.add_metric([part], 1)
            except (RedisError, SQLAlchemyError, QuelError, OSError):
                up.add_metric([part], 0)
            seconds.add_metric([part], time.monotonic() - started)
        yield up
        yield seconds

    # --- PostgreSQL ----------------------------------------------------------------------------------

    def _postgres(self) -> Iterator[Metric]:
        waiting, recent = asyncio.run(self._ask())
        jobs = GaugeMetricFamily("quel_jobs_open", "Jobs that are pending or processing.", labels=["status"])
        jobs.add_metric(["pending"], waiting.pending)
        jobs.add_metric(["processing"], waiting.processing)
        yield jobs
        yield GaugeMetricFamily(
            "quel_oldest_waiting_seconds",
            "Age of the oldest pending job; 0 when there is none.",
            value=waiting.oldest_waiting_seconds or 0.0,
        )
        yield GaugeMetricFamily("quel_leases", "Jobs that a live run holds.", value=waiting.leases)
        ended = GaugeMetricFamily(
            "quel_recent_jobs",
            "Jobs created within the last hour, by their current status.",
            labels=["category", "status"],
        )
        pictures = GaugeMetricFamily(
            "quel_recent_pictures", "Pictures of jobs created within the last hour.", labels=["category", "outcome"]
        )
        by_category: dict[str, list[int]] = {}
        for group in recent:
            ended.add_metric([group.category, group.status], group.jobs)
            made = by_category.setdefault(group.category, [0, 0])
            made[0] += group.pictures
            made[1] += group.failed
        for category, (good, missing) in sorted(by_category.items()):
            pictures.add_metric([category, "made"], good)
            pictures.add_metric([category, "missing"], missing)
        yield ended
        yield pictures

    async def _ask(self) -> tuple[Backlog, tuple[Group, ...]]:
        database = Database(self._database_url, pool_size=1, retry_seconds=0.1)
        try:
            now = datetime.now(UTC)
            return await backlog(database), await outcomes(database, now - RECENT, now)
        finally:
            await database.aclose()

    # --- Redis ---------------------------------------------------------------------------------------

    def _redis(self) -> Iterator[Metric]:
        with closing(JobQueue(self._redis_url)) as queue:
            depths = queue.depths()
        entries = GaugeMetricFamily("quel_queue_entries", "Entries of the lists of job ids.", labels=["list"])
        for name, count in depths.items():
            entries.add_metric([name], count)
        yield entries
        yield from counted(read_counters(self._redis_url))

    # --- Dagster -------------------------------------------------------------------------------------

    def _dagster(self) -> Iterator[Metric]:
        runs = GaugeMetricFamily("quel_runs", "Dagster runs that have not ended.", labels=["status"])
        for status in LIVE:
            runs.add_metric([status.value.lower()], self._instance.get_runs_count(RunsFilter(statuses=[status])))
        yield runs
        daemons = GaugeMetricFamily(
            "quel_daemon_heartbeat_age_seconds", "Time since the last heartbeat of this daemon.", labels=["daemon"]
        )
        for name, daemon in self._instance.get_daemon_statuses().items():
            beat = daemon.last_heartbeat
            if daemon.required and beat is not None:
                daemons.add_metric([name], max(0.0, time.time() - beat.timestamp))
        yield daemons


def counted(counters: Mapping[str, float]) -> Iterator[Metric]:
    """Return the workers' counters as metrics. One never counted is 0, so that a first failure is an increase."""
    calls = CounterMetricFamily("quel_gemini_calls", "Calls to Gemini by outcome.", labels=["outcome"])
    for outcome in dict.fromkeys((*_OUTCOMES, *_labels(counters, "gemini_calls"))):
        calls.add_metric([outcome], counters.get(f"gemini_calls|{outcome}", 0.0))
    yield calls
    yield CounterMetricFamily("quel_gemini_retries", "Repeated calls.", value=counters.get("gemini_retries", 0.0))
    total, buckets = 0.0, []
    for bound in BUCKETS:
        total += counters.get(f"gemini_seconds|{bound}", 0.0)
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    latency = HistogramMetricFamily("quel_gemini_seconds", "Seconds in calls to Gemini for one picture.")
    latency.add_metric([], buckets=buckets, sum_value=counters.get("gemini_seconds_sum", 0.0))
    yield latency
    yield CounterMetricFamily("quel_pictures", "Pictures made and charged.", value=counters.get("pictures", 0.0))
    yield CounterMetricFamily("quel_credits_charged", "Credits charged.", value=counters.get("credits", 0.0))
    yield CounterMetricFamily(
        "quel_gemini_usd", "Cost of Gemini in USD by the price table.", value=counters.get("gemini_usd", 0.0)
    )
    tokens = CounterMetricFamily("quel_gemini_tokens", "Tokens that Google bills.", labels=["kind"])
    for kind in ("input", "image", "text"):
        tokens.add_metric([kind], counters.get(f"gemini_tokens|{kind}", 0.0))
    yield tokens
    ended = CounterMetricFamily("quel_jobs_ended", "Jobs that a run ended.", labels=["status"])
    for status in dict.fromkeys(("completed", "failed", "cancelled", "user_cancelled", *_labels(counters, "jobs"))):
        ended.add_metric([status], counters.get(f"jobs|{status}", 0.0))
    yield ended


def _labels(counters: Mapping[str, Any], metric: str) -> list[str]:
    return sorted(name.partition("|")[2] for name in counters if name.startswith(f"{metric}|"))
