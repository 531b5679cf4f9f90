"""The cost of Gemini calls: stored with the commit of a picture, or alone for calls without one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.rows import read, read_one
from quel_dagster.adapters.database.store import Database
from quel_dagster.jobs.model import Slot, Value
from quel_dagster.jobs.models import Usage

_NOTE = text("select quel_dagster.note_usage_v1(:job_id, :unit, :number, cast(null as bigint), cast(:usage as jsonb))")
_OF_JOB = text(
    """
    select coalesce(string_agg(distinct model, ', '), '') as models, coalesce(sum(calls), 0)::bigint as calls,
           coalesce(sum(usd), 0)::float8 as usd, count(*) filter (where usd is null) as unpriced,
           coalesce(sum(usd) filter (where attach_id is null), 0)::float8 as usd_without_picture
    from quel_dagster.picture_usage where job_id = :job_id
    """
)
_NOTES_OF_JOB = text(
    """
    select unit, number, note from quel_dagster.picture_usage, unnest(notes) as note
    where job_id = :job_id order by unit, number, id
    """
)
_OF_SPAN = text(
    """
    select model, count(*) filter (where attach_id is not null) as pictures, coalesce(sum(calls), 0)::bigint as calls,
           coalesce(sum(usd), 0)::float8 as usd, count(*) filter (where usd is null) as unpriced
    from quel_dagster.picture_usage
    where noted_at >= cast(:begin as timestamptz) and noted_at < cast(:end as timestamptz)
    group by model order by model
    """
)


class JobUsage(Value):
    """The cost of one job's pictures at Gemini."""

    models: str = ""
    calls: int = 0
    #: USD, of calls with a known price
    usd: float = 0.0
    #: of those, for calls that gave no picture
    usd_without_picture: float = 0.0
    #: pictures of models without known prices
    unpriced: int = 0
    #: slot and remark: another model than chosen, another shape than ordered
    notes: tuple[tuple[str, str], ...] = ()


class ModelUsage(Value):
    """The cost of one model in a span of time."""

    model: str
    pictures: int
    calls: int
    usd: float
    unpriced: int


class SpanUsage(Value):
    """What all models cost in a span of time, in USD of the calls with a known price."""

    models: tuple[ModelUsage, ...]

    @property
    def usd(self) -> float:
        return round(sum(model.usd for model in self.models), 4)

    @property
    def unpriced(self) -> int:
        """Notes of models without known prices: the sum is then too small."""
        return sum(model.unpriced for model in self.models)

    @property
    def calls(self) -> int:
        return sum(model.calls for model in self.models)


async def note_usage(database: Database, job_id: UUID, slot: Slot, usage: str | None) -> None:
    """Store the usage of calls that gave no picture; `usage` is JSON of `PictureUsage`."""
    if usage is not None:
        await database.ask(_NOTE, job_id=job_id, unit=slot.unit, number=slot.number, usage=usage)


async def usage_of_job(database: Database, job_id: UUID) -> JobUsage:
    """Return the cost of a job's pictures."""
    usage = await read_one(database, JobUsage, _OF_JOB, job_id=job_id)
    notes = await database.ask(_NOTES_OF_JOB, job_id=job_id)
    slots = ((str(Slot(unit=row.unit, number=row.number)), row.note) for row in notes)
    return usage.model_copy(update={"notes": tuple(slots)})


async def usage_of_span(database: Database, begin: datetime, end: datetime) -> tuple[ModelUsage, ...]:
    """Return the cost per model from `begin` until before `end`."""
    return tuple(await read(database, ModelUsage, _OF_SPAN, begin=begin, end=end))


def encoded(usage: Usage, *, model: str, calls: int, usd: float | None, notes: Sequence[str] = ()) -> str:
    """Return the JSON that `note_usage_v1` and `commit_picture_v3` read."""
    return json.dumps(
        {
            "model": model,
            "calls": calls,
            **asdict(usage),  # input, image, text
            "usd": None if usd is None else round(usd, 6),
            "notes": list(notes),
        }
    )
