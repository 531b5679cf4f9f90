"""End a job, once, in one transaction, and describe how it ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from quel_dagster.adapters.counters import Tally
from quel_dagster.adapters.database.records import Claim
from quel_dagster.adapters.database.work import JobWork
from quel_dagster.engine.credits import Credits
from quel_dagster.engine.outcomes import JobOutcome
from quel_dagster.engine.progress import Progress
from quel_dagster.engine.timeline import Timeline
from quel_dagster.engine.wording import lost_references
from quel_dagster.jobs.model import JobStatus, Plan


class JobEnd:
    """The end of one job. Created when the job is claimed; belongs to one event loop."""

    def __init__(
        self,
        work: JobWork,
        claim: Claim,
        *,
        progress: Progress,
        credits: Credits,  # noqa: A002  the word of domain.md
        timeline: Timeline,
        tally: Tally,
    ) -> None:
        self._work = work
        self._claim = claim
        self._progress = progress
        self._credits = credits
        self._timeline = timeline
        self._tally = tally
        self._claimed_at = datetime.now(UTC)
        #: the transaction that gives the lease back is under way or done
        self.begun = False
        #: how the job ended
        self.outcome: JobOutcome | None = None

    async def end(self, plan: Plan | None, status: JobStatus, error: str | None) -> JobOutcome:
        """End the job and give back its lease. PostgreSQL decides the status by the pictures that exist.

        Args:
            plan: None when the job's input was not planned.

        Raises:
            LeaseLostError, DatabaseRefusedError
        """
        job = self._claim.job
        inputs = {ref.attach_id for unit in plan.units for ref in unit.references} if plan else set()
        self.begun = True
        settled = await self._work.settle(
            job.job_id,
            self._claim.token,
            status=status,
            total=plan.total if plan else max(0, job.total_images),
            error=error,
            note=lost_references(self._progress.lost) if status is JobStatus.COMPLETED else None,
            inputs=len(inputs),
            failed=len(self._progress.failed),
        )
        self._tally.add(f"jobs|{settled.status}")
        self._timeline.note("settle", f"Job {job.job_id} ended {settled.status}")
        self.outcome = self._outcome(
            status=settled.status,
            completed=settled.completed,
            failed=settled.failed,
            attach_ids=settled.attach_ids,
            error=settled.error,
            payer=self._credits.payer_name,
            balance_before=self._credits.opening_balance,
            balance=self._credits.balance,
            first_picture_seconds=self._progress.first_picture_seconds,
        )
        return self.outcome

    def unchanged(self, plan: Plan) -> JobOutcome:
        """Describe a job for which there was nothing to make: its rows are correct and stay unchanged."""
        made = self._claim.made
        return self._outcome(
            status=self._claim.job.job_status,
            completed=len(made),
            failed=max(0, plan.total - len(made)),
            attach_ids=tuple(picture.attach_id for picture in made),
            error=None,
            balance=None,
        )

    def _outcome(self, **values: Any) -> JobOutcome:
        return JobOutcome(
            job_id=self._claim.job.job_id,
            made_now=self._progress.made,
            charged_now=self._progress.made * self._credits.price,
            price=self._credits.price,
            claimed_at=self._claimed_at,
            seconds=self._timeline.seconds,
            timeline=self._timeline.moments(),
            **values,
        )
