"""Make the missing pictures of one unit: prepare its request once, then make its pictures in parallel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from quel_dagster.engine.credits import Credits
from quel_dagster.engine.outcomes import PictureFailed, PictureMade, UnitOutcome
from quel_dagster.engine.picture import ENDS_THE_JOB, NO_FAILURE, PictureMaker, UnitWork
from quel_dagster.engine.preparation import Prepared, prepare
from quel_dagster.engine.progress import Progress
from quel_dagster.engine.reference_cache import ReferenceCache
from quel_dagster.engine.stopping import Stop
from quel_dagster.engine.timeline import LogLine
from quel_dagster.errors import QuelError, RunTerminatedError
from quel_dagster.jobs.limits import Limits
from quel_dagster.jobs.model import Plan, Slot, Unit


@dataclass
class _Request:
    """What became of the request of a unit, as far as it came."""

    prepared: Prepared | None = None
    seconds: float = 0.0
    about_model: tuple[str, ...] = ()
    #: slot → seconds spent waiting for Gemini's quota
    quota: dict[Slot, float] = field(default_factory=dict)


class UnitMaker:
    """Makes the units of one job. Belongs to one event loop."""

    def __init__(
        self,
        run_id: str,
        limits: Limits,
        *,
        begin: Callable[[], Awaitable[None]],
        progress: Progress,
        credits: Credits,  # noqa: A002  the word of domain.md
        references: ReferenceCache,
        pictures: PictureMaker,
        stop: Stop,
    ) -> None:
        """`begin` enters `processing`, once per job."""
        self._run_id = run_id
        self._limits = limits
        self._begin = begin
        self._progress = progress
        self._credits = credits
        self._references = references
        self._pictures = pictures
        self._stop = stop

    async def make(self, unit: Unit, plan: Plan, log: LogLine) -> UnitOutcome:
        """Make the missing pictures of a unit. Errors of a picture are part of the outcome.

        Raises:
            RunTerminatedError: an operator stopped the run meanwhile.
        """
        started = time.monotonic()
        log(f"🎬 Stage {unit.index}/{len(plan.units)}: Processing {unit.quantity} images")
        made, missing, request = self._progress.existing(unit), self._progress.missing(unit), _Request()
        results: Sequence[PictureMade | PictureFailed] = ()
        if missing:
            try:
                results = await self._make(missing, unit, plan, request, log)
            except QuelError as error:
                stopped = error is self._stop.reason or isinstance(error, NO_FAILURE)
                if isinstance(error, ENDS_THE_JOB):
                    self._stop(error)
                results = [PictureFailed(slot=slot, reason=str(error), stopped=stopped) for slot in missing]
        if isinstance(self._stop.reason, RunTerminatedError):
            raise self._stop.reason
        self._progress.note(results)
        log(f"Stage {unit.index} completed")
        made += [result for result in results if isinstance(result, PictureMade)]
        brief = request.prepared.brief if request.prepared else None
        return UnitOutcome(
            unit=unit,
            run_id=self._run_id,
            made=tuple(sorted(made, key=lambda picture: picture.slot.number)),
            failed=tuple(result for result in results if isinstance(result, PictureFailed)),
            parts=brief.parts if brief else (),
            text=brief.text if brief else "",
            warnings=(*brief.warnings, *request.about_model) if brief else (),
            lost_references=self._progress.lost.get(unit.key, ()),
            seconds=time.monotonic() - started,
            prepare_seconds=request.seconds,
            quota_seconds=round(sum(request.quota.values()), 3),
        )

    async def _make(
        self, missing: Sequence[Slot], unit: Unit, plan: Plan, request: _Request, log: LogLine
    ) -> list[PictureMade | PictureFailed]:
        await self._begin()
        with self._stop.stoppable():
            preparing = time.monotonic()
            prepared = await prepare(unit, plan.category, self._references, member_id=self._credits.member_id, log=log)
            request.seconds = time.monotonic() - preparing
        request.prepared, brief = prepared, prepared.brief
        self._progress.lost[unit.key] = prepared.lost
        models = self._limits.models.chain(plan.category, brief.aspect_ratio, unit=unit.key, parts=len(brief.parts))
        request.about_model = self._limits.models.warnings(models[0], datetime.now(UTC).date())
        for warning in request.about_model:
            log(warning)
        work = UnitWork(
            brief=brief, images=prepared.images, models=models, total=plan.total, log=log, quota=request.quota
        )
        return list(await asyncio.gather(*(self._pictures.make(slot, work) for slot in missing)))
