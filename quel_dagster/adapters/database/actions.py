"""The action log: the actions of operators, with name, time and reason."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import text

from quel_dagster.adapters.database.rows import read
from quel_dagster.adapters.database.store import Database
from quel_dagster.jobs.model import Value
from quel_dagster.redaction import redact

_RECORD = text(
    "insert into quel_dagster.action (actor, via, action, job_id, subject, reason, result, said) "
    "values (:actor, :via, :action, :job_id, :subject, :reason, :result, :said)"
)
_COLUMNS = "at, actor, via, action, job_id, subject, reason, result, said"
_OF_JOB = text(f"select {_COLUMNS} from quel_dagster.action where job_id = :job_id order by at")  # noqa: S608
_NEWEST = text(f"select {_COLUMNS} from quel_dagster.action order by action_id desc limit :most")  # noqa: S608

Result = Literal["done", "nothing", "refused"]


class Actor(Value):
    """The operator of an action, the interface used, and the reason."""

    name: str
    via: Literal["cli", "page", "dagster"]
    reason: str | None = None


class Action(Value):
    """A row of the log."""

    at: datetime
    actor: str
    via: str
    action: str
    job_id: UUID | None
    subject: str | None
    reason: str | None
    result: str
    said: str


async def record(
    database: Database,
    actor: Actor,
    action: str,
    *,
    result: Result = "done",
    said: str = "",
    job_id: UUID | None = None,
    subject: str | None = None,
) -> None:
    """Write a row of the log; no secret, and at most 1,000 characters of the message."""
    await database.execute(
        _RECORD,
        actor=actor.name,
        via=actor.via,
        action=action,
        job_id=job_id,
        subject=subject,
        reason=redact(actor.reason)[:400] if actor.reason else None,
        result=result,
        said=redact(said)[:1000],
    )


async def of_job(database: Database, job_id: UUID) -> list[Action]:
    """Return the actions of operators on a job, oldest first."""
    return await read(database, Action, _OF_JOB, job_id=job_id)


async def newest(database: Database, *, most: int = 100) -> list[Action]:
    """Return the last actions of operators, newest first."""
    return await read(database, Action, _NEWEST, most=most)
