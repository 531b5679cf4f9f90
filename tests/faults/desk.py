"""The actions of a test as web app, user and operator, and its view of the jobs."""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
import psutil
import psycopg
import redis
import sqlalchemy.exc
from dagster import DagsterRun, DagsterRunStatus
from PIL import Image
from psycopg.rows import dict_row

from quel_dagster.adapters.database.records import NewJob
from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.pipeline.audit import AuditReport, Sources, audit
from quel_dagster.platform.runs import job_of, runs_of
from tests.faults.installation import PRICE, Installation
from tests.faults.judgement import ROWS, Judgement, Order, judge, slots_asked_for
from tests.integration.storage.supabase_server import StoredObject

T = TypeVar("T")

LIVE = set(DagsterRunStatus) - {
    DagsterRunStatus.SUCCESS,
    DagsterRunStatus.FAILURE,
    DagsterRunStatus.CANCELED,
}
ENDED = {"completed", "failed", "cancelled", "user_cancelled"}
#: seconds; generous, for a machine that others use too
TIMEOUT_SECONDS = 240.0
#: errors while a server or process is unreachable because a test has killed it or cut its connections
UNREACHABLE = (psycopg.OperationalError, sqlalchemy.exc.DBAPIError, redis.RedisError, psutil.NoSuchProcess)


class JobEndedError(AssertionError):
    """The job ended before its process could be killed."""


async def eventually(look: Callable[[], T | Awaitable[T]], what: str, *, seconds: float = TIMEOUT_SECONDS) -> T:
    """Return the first true value of `look`; look again after an error of `UNREACHABLE`.

    Raises:
        TimeoutError: there is none; names `what`, and the last error as its cause.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: Exception | None = None
        try:
            seen = look()
            if isinstance(seen, Awaitable):
                seen = await seen
            if seen:
                return seen  # type: ignore[return-value]
        except UNREACHABLE as error:
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}") from last
        await asyncio.sleep(0.05)


@dataclass
class Desk:
    """The jobs of one test."""

    site: Installation
    database: Database
    store: ObjectStore
    queue: JobQueue
    orders: dict[UUID, Order] = field(default_factory=dict)
    _connection: psycopg.Connection[dict[str, Any]] | None = None

    @classmethod
    def at(cls, site: Installation) -> Desk:
        """Past every proxy, so that the eyes of the test stay open in every fault."""
        direct = site.settings.model_copy(
            update={
                "supabase_url": f"http://127.0.0.1:{site.storage.port}",
                "storage_base_url": f"http://127.0.0.1:{site.storage.port}/storage/v1/object/public/attachments/",
            }
        )
        return cls(site, Database(site.database_url), open_store(direct), JobQueue(site.redis_url))

    async def aclose(self) -> None:
        await self.store.aclose()
        await self.database.aclose()
        self.queue.close()
        if self._connection is not None:
            self._connection.close()

    # --- the web app ---------------------------------------------------------------------------------

    async def member(self, credit: int = 1000) -> UUID:
        return await self.database.web_app.insert_member(email=f"{uuid4().hex}@example.org", name="Mina", credit=credit)

    async def organization(self, owner_id: UUID, credit: int) -> UUID:
        return await self.database.web_app.insert_organization(name="Atelier", credit=credit, owner_id=owner_id)

    async def reference(self, data: bytes | None = None, *, path: str | None = None, mime: str = "image/png") -> int:
        """Add an uploaded picture; `data` b"" stores no object, `path` is written into the row unchanged."""
        name = f"upload-{uuid4().hex}.png"
        data = png() if data is None else data
        if data and path is None:
            self.site.storage.objects[f"attachments/uploads/{name}"] = StoredObject(data, mime)
        return await self.database.web_app.insert_attach(
            name=name, path=name if path is None else path, size=len(data), mime_type=mime, storage="supabase"
        )

    async def job(
        self,
        total: int = 2,
        *,
        member: UUID | None = None,
        org: UUID | None = None,
        credit: int = 1000,
        job_type: str = "simple_general",
        path: str | None = "fashion",
        input_data: Any = None,
        push: bool = True,
        references: list[int] | None = None,
        prompt: str = "a red dress",
    ) -> UUID:
        """Insert a pending job; push it by default."""
        member = member or await self.member(credit)
        if input_data is None:
            input_data = {"prompt": prompt, "userId": str(member)}
            if references is not None:
                input_data["uploadedAttachIds"] = [{"attachId": each, "type": "product"} for each in references]
        job_id, _ = await self.database.web_app.insert_job(
            NewJob(
                job_type=job_type,
                total_images=total,
                input_data=input_data,
                path=path,
                member_id=member,
                org_id=org,
                name="Fault test",
            ),
            price=PRICE,
        )
        self.orders[job_id] = Order(job_id, total, slots_asked_for(job_type, total, input_data))
        if push:
            self.queue.push(job_id)
        return job_id

    def cancel(self, job_id: UUID) -> None:
        """As the user does."""
        self.orders[job_id].stopped.add("user_cancelled")
        with redis.Redis.from_url(self.site.redis_url) as client:
            client.set(f"job:{job_id}:cancelled", "true", ex=3600)

    def excuse(self, reason: str, *job_ids: UUID, pictures: int | None = None) -> None:
        """Say that this test makes these jobs miss pictures for a reason with this pattern; nothing else may miss any.

        Args:
            pictures: at most so many of each job; None: all.
        """
        for job_id in job_ids:
            self.orders[job_id].excuse(reason, pictures)

    # --- looking -------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[UUID]:
        """In the order of their orders."""
        return list(self.orders)

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        kept = self._connection is not None
        try:
            return self._query(statement, parameters)
        except psycopg.OperationalError:
            self._connection = None
            if not kept:
                raise
            return self._query(statement, parameters)  # PostgreSQL was restarted since

    def _query(self, statement: str, parameters: tuple[Any, ...]) -> list[dict[str, Any]]:
        if self._connection is None:
            # kept, as waiting means looking many times a second
            self._connection = psycopg.connect(
                self.site.database_url, autocommit=True, row_factory=dict_row, connect_timeout=5
            )
        cursor = self._connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def row(self, job_id: UUID) -> dict[str, Any]:
        (row,) = self.rows("select *, job_status::text as status from quel_production_jobs where job_id = %s", job_id)
        return row

    def status(self, job_id: UUID) -> str:
        return str(self.row(job_id)["status"])

    def lease(self, job_id: UUID) -> dict[str, Any] | None:
        rows = self.rows(
            "select *, expires_at > clock_timestamp() as live from quel_dagster.job_lease where job_id = %s", job_id
        )
        return rows[0] if rows else None

    def runs(self, job_id: UUID) -> list[DagsterRun]:
        """Newest first."""
        return runs_of(self.site.instance, [job_id]).get(job_id, [])

    def charged(self, job_id: UUID) -> int:
        """Credits taken for this job's production."""
        (row,) = self.rows(
            "select coalesce(-sum(c.amount), 0) as credits from quel_credits c join quel_production_jobs j"
            " on j.production_id = c.production_idx where j.job_id = %s and c.transaction_type = 'DEDUCT'",
            job_id,
        )
        return int(row["credits"])

    def host_of(self, run: DagsterRun) -> str | None:
        """The worker host that took this run."""
        hosts = self.site.hosts.values()
        return next((host.name for host in hosts if run.run_id.encode() in host.log_bytes()), None)

    def sensor_waits(self) -> bool:
        """Is a tick of the queue's sensor blocking on an empty `jobs:queue`?"""
        with redis.Redis.from_url(self.site.redis_url) as client:
            return any(each["cmd"] == "blmove" and "b" in each["flags"] for each in client.client_list())

    # --- waiting -------------------------------------------------------------------------------------

    async def until_status(self, job_id: UUID, *statuses: str, seconds: float = TIMEOUT_SECONDS) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            row = self.row(job_id)
            return row if row["status"] in statuses else None

        try:
            return await eventually(look, f"job {job_id} is {' or '.join(statuses)}", seconds=seconds)  # type: ignore[return-value]
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.describe(job_id)}") from None

    async def until_ended(self, job_id: UUID, *, seconds: float = TIMEOUT_SECONDS) -> dict[str, Any]:
        return await self.until_status(job_id, *ENDED, seconds=seconds)

    async def until_made(self, job_id: UUID, count: int) -> None:
        await eventually(lambda: self.row(job_id)["completed_images"] >= count, f"{count} pictures of {job_id}")

    async def until_running(self, job_id: UUID) -> DagsterRun:
        """The run of this job, once Dagster has started it."""

        def look() -> DagsterRun | None:
            return next((run for run in self.runs(job_id) if run.status is DagsterRunStatus.STARTED), None)

        return await eventually(look, f"a started run of {job_id}")  # type: ignore[return-value]

    async def until_leased(self, job_id: UUID, *, other_than: str = "") -> dict[str, Any]:
        """A live lease of this job, of another run than the one named."""

        def look() -> dict[str, Any] | None:
            lease = self.lease(job_id)
            return lease if lease and lease["live"] and lease["run_id"] != other_than else None

        return await eventually(look, f"a lease on {job_id}")  # type: ignore[return-value]

    async def until_calling(self, calls: int = 1, *, since: int = 0) -> None:
        """Gemini has had so many requests after the first `since`."""
        await eventually(
            lambda: self.site.gemini.state.report()["total"] >= since + calls, f"{calls} calls of Gemini after {since}"
        )

    async def until_at_rest(self, *, seconds: float = TIMEOUT_SECONDS) -> None:
        """Every job of this test has ended, and every run of it."""
        for job_id in self.jobs:
            await self.until_ended(job_id, seconds=seconds)

        def runs_over() -> bool:
            found = runs_of(self.site.instance, self.jobs)
            return not any(run.status in LIVE for runs in found.values() for run in runs)

        try:
            await eventually(runs_over, "the end of every run", seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n" + "\n".join(map(self.describe, self.jobs))) from None
        await eventually(lambda: self.queue.depths()["processing"] == 0, "an empty processing list", seconds=seconds)

    def describe(self, job_id: UUID) -> str:
        """Everything about a job in one line, for a failing test."""
        row, lease = self.row(job_id), self.lease(job_id)
        runs = [f"{run.run_id[:8]} {run.status.value}" for run in self.runs(job_id)]
        return (
            f"job {job_id} {row['status']} {row['completed_images']}/{row['total_images']}"
            f" error={row['error_message']!r} lease={lease and (lease['run_id'][:8], lease['worker'], lease['live'])}"
            f" runs={runs} queue={self.queue.depths()}"
        )

    # --- killing -------------------------------------------------------------------------------------

    async def child_of(self, job_id: UUID) -> psutil.Process:
        """The living worker process that has this job's newest run.

        Raises:
            JobEndedError: none has it, and none will.
        """
        return await eventually(lambda: self._child_of(job_id), f"the process of {job_id}")  # type: ignore[return-value]

    async def kill_child_of(self, job_id: UUID) -> float:
        """SIGKILL to the process that has this job's newest run; returns when (monotonic seconds).

        A process that ends between the look and the signal is looked for again.

        Raises:
            JobEndedError: none has it, and none will.
        """

        def kill() -> float | None:
            process = self._child_of(job_id)
            if process is None:
                return None
            process.kill()
            return time.monotonic()

        return await eventually(kill, f"the process of {job_id}")  # type: ignore[return-value]

    def _child_of(self, job_id: UUID) -> psutil.Process | None:
        ended = self.status(job_id) in ENDED
        for run in self.runs(job_id)[:1]:
            if ended and run.is_finished:
                raise JobEndedError(self.describe(job_id))
            holder = self.site.workers.read().holders.get(run.run_id)
            return self.site.living_workers().get(holder) if holder else None
        return None

    # --- an operator ---------------------------------------------------------------------------------

    async def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(
                f"{self.site.endpoints.webserver_url}/graphql", json={"query": query, "variables": variables}
            )
        body = answer.json()
        assert "errors" not in body, body
        return dict(body["data"])

    async def terminate(self, run_id: str) -> None:
        """The Terminate button."""
        run = self.site.instance.get_run_by_id(run_id)
        job_id = job_of(run) if run else None
        if job_id in self.orders:
            self.orders[job_id].stopped.add("cancelled")
        data = await self.graphql("mutation($r:String!){terminateRun(runId:$r){__typename}}", r=run_id)
        assert data["terminateRun"]["__typename"] == "TerminateRunSuccess", data

    async def reexecute(self, run_id: str, *, from_failure: bool = False) -> str:
        """Re-execute, all or from failure; returns the new run's id."""
        data = await self.graphql(
            "mutation($r:String!,$s:ReexecutionStrategy!){launchRunReexecution(reexecutionParams:"
            "{parentRunId:$r,strategy:$s}){__typename ... on LaunchRunSuccess{run{runId}}"
            " ... on PythonError{message}}}",
            r=run_id,
            s="FROM_FAILURE" if from_failure else "ALL_STEPS",
        )
        launched = data["launchRunReexecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    # --- the end of every test -----------------------------------------------------------------------

    async def audit(self, **options: Any) -> AuditReport:
        sources = Sources(database=self.database, queue=self.queue, store=self.store, instance=self.site.instance)
        return await audit(sources, price=PRICE, **{"job_ids": self.jobs, "confirm_seconds": 1.0, **options})

    def judge(self) -> Judgement:
        """Compare what was made with what was asked for."""
        rows = self.rows(f"{ROWS} where job_id = any(%s)", self.jobs)
        return judge(rows, self.orders.values())

    async def check(self) -> None:
        """At rest, every picture made that was asked for, and every invariant holds for the jobs of this test."""
        await self.until_at_rest()
        if not self.jobs:
            return
        lost = "\n".join(map(str, self.judge().lost))
        assert not lost, f"less was made than asked for:\n{lost}\n" + "\n".join(map(self.describe, self.jobs))
        report = await self.audit(grace_seconds=5.0)
        said = "\n".join(f"{breach.code} {breach.line}" for breach in report.breaches)
        assert report.clean, f"the audit found:\n{said}\n" + "\n".join(map(self.describe, self.jobs))
        undone = [f"{finding.code}: {finding.not_done}" for finding in report.findings if finding.not_done]
        assert report.complete, f"the audit could not look at {undone}"


def print_line(line: str) -> None:
    """Print a line for readers of a failing test's output."""
    sys.stdout.write(f"{line}\n")


def png(size: tuple[int, int] = (64, 64), colour: str = "navy") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()
