"""What Prometheus scrapes: the state of the parts, read at every scrape, and what the workers counted.

One exporter looks at PostgreSQL, Redis and Dagster from outside: workers need no port, and nothing is lost when one of
them ends. Names and meanings are in docs/metrics.md.

    serve(Settings.read(), port=9464)          until interrupted
    text(Settings.read(), instance)            one scrape, as text
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from quel_dagster.adapters.counters import BUCKETS, read_counters
from quel_dagster.adapters.database.figures import Backlog, Group, backlog, outcomes
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.errors import QuelError, SettingsError
from quel_dagster.settings import Settings

DEFAULT_PORT = 9464
#: Runs that are not over: counting them is cheap, however many there have been.
LIVE = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)
#: How far back recent jobs are counted.
RECENT = timedelta(hours=1)
_OUTCOMES = ("ok", "refused", "rate_limited", "timeout", "unavailable", "bad_answer", "rejected")


def serve(settings: Settings, *, port: int = DEFAULT_PORT, address: str = "127.0.0.1") -> Callable[[], None]:
    """Answer `GET /metrics` in a thread; returns what stops it.

    Raises:
        SettingsError: DATABASE_URL or REDIS_URL is not set.
        QuelError: the port is taken.
    """
    instance = DagsterInstance.get()
    try:
        server, thread = start_http_server(port, addr=address, registry=registry(settings, instance))
    except OSError as error:
        raise QuelError(f"Port {port} of {address} cannot be used: {error.strerror}; choose another.") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()
        instance.dispose()

    return stop


def text(settings: Settings, instance: DagsterInstance) -> str:
    """One scrape. Raises SettingsError as `serve`."""
    return generate_latest(registry(settings, instance)).decode()


def registry(settings: Settings, instance: DagsterInstance) -> CollectorRegistry:
    """Raises SettingsError when DATABASE_URL or REDIS_URL is not set."""
    redis_url = settings.redis()
    if settings.database_url is None or redis_url is None:
        raise SettingsError('DATABASE_URL and REDIS_URL are needed. Set them, or run eval "$(quel env)".')
    made = CollectorRegistry(auto_describe=False)
    made.register(QuelCollector(settings.database_url.get_secret_value(), redis_url, instance))
    return made


class QuelCollector(Collector):
    """Looks at every part when it is asked. A part that does not answer is `quel_up 0`, and the others still tell."""

    def __init__(self, database_url: str, redis_url: str, instance: DagsterInstance) -> None:
        self._database_url = database_url
        self._redis_url = redis_url
        self._instance = instance

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("quel_up", "Does this part answer?", labels=["part"])
        seconds = GaugeMetricFamily("quel_scrape_seconds", "How long looking at this part took.", labels=["part"])
        for part, look in (("postgres", self._postgres), ("redis", self._redis), ("dagster", self._dagster)):
            started = time.monotonic()
            try:
                yield from list(look())
                up.add_metric([part], 1)
            except (RedisError, SQLAlchemyError, QuelError, OSError):
                up.add_metric([part], 0)
            seconds.add_metric([part], time.monotonic() - started)
        yield up
        yield seconds

    # --- PostgreSQL ----------------------------------------------------------------------------------

    def _postgres(self) -> Iterator[Metric]:
        waiting, recent = asyncio.run(self._ask())
        jobs = GaugeMetricFamily("quel_jobs_open", "Jobs that wait or are worked on.", labels=["status"])
        jobs.add_metric(["pending"], waiting.pending)
        jobs.add_metric(["processing"], waiting.processing)
        yield jobs
        yield GaugeMetricFamily(
            "quel_oldest_waiting_seconds",
            "Age of the pending job that was written first; 0 when none waits.",
            value=waiting.oldest_waiting_seconds or 0.0,
        )
        yield GaugeMetricFamily("quel_leases", "Jobs that a live run holds.", value=waiting.leases)
        ended = GaugeMetricFamily(
            "quel_recent_jobs", "Jobs written within the last hour, as they stand.", labels=["category", "status"]
        )
        pictures = GaugeMetricFamily(
            "quel_recent_pictures", "Pictures of jobs written within the last hour.", labels=["category", "outcome"]
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
        queue = JobQueue(self._redis_url)
        try:
            depths = queue.depths()
        finally:
            queue.close()
        entries = GaugeMetricFamily("quel_queue_entries", "Entries of the lists of job ids.", labels=["list"])
        for name, count in depths.items():
            entries.add_metric([name], count)
        yield entries
        yield from counted(read_counters(self._redis_url))

    # --- Dagster -------------------------------------------------------------------------------------

    def _dagster(self) -> Iterator[Metric]:
        runs = GaugeMetricFamily("quel_runs", "Dagster runs that are not over.", labels=["status"])
        for status in LIVE:
            runs.add_metric([status.value.lower()], self._instance.get_runs_count(RunsFilter(statuses=[status])))
        yield runs
        daemons = GaugeMetricFamily(
            "quel_daemon_heartbeat_age_seconds", "Since this daemon last said that it is alive.", labels=["daemon"]
        )
        for name, daemon in self._instance.get_daemon_statuses().items():
            beat = daemon.last_heartbeat
            if daemon.required and beat is not None:
                daemons.add_metric([name], max(0.0, time.time() - beat.timestamp))
        yield daemons


def counted(counters: Mapping[str, float]) -> Iterator[Metric]:
    """The workers' counters as metrics; one that never moved is 0, so that a first failure is a rise."""
    calls = CounterMetricFamily("quel_gemini_calls", "Calls to Gemini by what came of them.", labels=["outcome"])
    for outcome in dict.fromkeys((*_OUTCOMES, *_labels(counters, "gemini_calls"))):
        calls.add_metric([outcome], counters.get(f"gemini_calls|{outcome}", 0.0))
    yield calls
    yield CounterMetricFamily(
        "quel_gemini_retries", "Calls that were made again.", value=counters.get("gemini_retries", 0.0)
    )
    total, buckets = 0.0, []
    for bound in BUCKETS:
        total += counters.get(f"gemini_seconds|{bound}", 0.0)
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    latency = HistogramMetricFamily("quel_gemini_seconds", "Seconds in calls to Gemini for one picture.")
    latency.add_metric([], buckets=buckets, sum_value=counters.get("gemini_seconds_sum", 0.0))
    yield latency
    yield CounterMetricFamily("quel_pictures", "Pictures made and charged.", value=counters.get("pictures", 0.0))
    yield CounterMetricFamily("quel_credits_charged", "Credits charged.", value=counters.get("credits", 0.0))
    ended = CounterMetricFamily("quel_jobs_ended", "Jobs that a run ended.", labels=["status"])
    for status in dict.fromkeys(("completed", "failed", "cancelled", "user_cancelled", *_labels(counters, "jobs"))):
        ended.add_metric([status], counters.get(f"jobs|{status}", 0.0))
    yield ended


def _labels(counters: Mapping[str, Any], metric: str) -> list[str]:
    return sorted(name.partition("|")[2] for name in counters if name.startswith(f"{metric}|"))
