"""The runs of a job, with links to their pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from pydantic import Field

from quel_dagster.console.connections import Connections
from quel_dagster.errors import QuelError
from quel_dagster.jobs.model import Value
from quel_dagster.platform.tags import JOB_ID_TAG, LAUNCH_TAG, OUTCOME_TAG


class JobRun(Value):
    """A run in Dagster."""

    run_id: str
    #: Dagster's: QUEUED, STARTED, SUCCESS, …
    status: str
    #: `quel/outcome`: completed, partial, failed, cancelled, user_cancelled, refused, handed_over
    outcome: str | None = None
    live: bool
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    #: the run that this one re-executes
    retry_of: str | None = None
    #: `quel/launch`: how the run was launched
    launch: str | None = None
    url: str | None = None

    @property
    def link(self) -> str:
        return self.url or self.run_id


class RunsFound(Value):
    """The runs of some jobs, newest first; or why they are unknown."""

    by_job: dict[UUID, tuple[JobRun, ...]] = Field(default_factory=dict)
    unknown: str | None = None

    def of(self, job_id: UUID) -> tuple[JobRun, ...]:
        return self.by_job.get(job_id, ())


def find_runs(connections: Connections, job_ids: Sequence[UUID]) -> RunsFound:
    """Return the runs of these jobs; when Dagster's storage does not answer, the reason."""
    try:
        return RunsFound(by_job=_found(connections, job_ids))
    except QuelError as error:
        return RunsFound(unknown=str(error))


def _found(connections: Connections, job_ids: Sequence[UUID]) -> dict[UUID, tuple[JobRun, ...]]:
    with connections.dagster() as instance:
        from dagster import RunsFilter  # noqa: PLC0415  takes a second to import

        records = instance.get_run_records(RunsFilter(tags={JOB_ID_TAG: [str(job_id) for job_id in job_ids]}))
    found: dict[UUID, list[JobRun]] = {}
    for record in records:
        run = record.dagster_run
        found.setdefault(UUID(run.tags[JOB_ID_TAG]), []).append(
            JobRun(
                run_id=run.run_id,
                status=run.status.value,
                outcome=run.tags.get(OUTCOME_TAG),
                live=not run.is_finished,
                created_at=record.create_timestamp.astimezone(UTC),
                started_at=_moment(record.start_time),
                ended_at=_moment(record.end_time),
                retry_of=run.parent_run_id,
                launch=run.tags.get(LAUNCH_TAG),
                url=connections.run_url(run.run_id),
            )
        )
    return {job_id: tuple(runs) for job_id, runs in found.items()}


def _moment(stamp: float | None) -> datetime | None:
    return None if stamp is None else datetime.fromtimestamp(stamp, UTC)
