"""Find jobs and members by what a person types: ids, prefixes of ids, run ids, names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from quel_dagster.adapters.database.job_list import (
    Filter,
    is_beginning_of_uuid,
    jobs_by_id,
    jobs_by_name,
    jobs_by_run,
)
from quel_dagster.adapters.database.members import Member, search_members
from quel_dagster.console.connections import Connections
from quel_dagster.errors import JobNotFoundError, QuelError
from quel_dagster.jobs.model import JobStatus
from quel_dagster.platform.tags import JOB_ID_TAG

#: maximum of candidates that an ambiguous word lists
_CANDIDATES = 5
#: maximum of unfinished runs to search for an id prefix
_MOST_RUNS = 1_000


async def find_jobs(connections: Connections, words: Sequence[str]) -> list[UUID]:
    """Return the job for each word, in this order, without duplicates.

    A word is a job id or its prefix (at least four digits), the same of a production or a run, or the name of a
    production. A complete UUID that matches nothing is returned as it is: the caller reports the missing job.

    Raises:
        JobNotFoundError: a word matches nothing.
        QuelError: a word matches more than one job.
    """
    return list(dict.fromkeys([await find_job(connections, word) for word in words]))


async def find_job(connections: Connections, word: str) -> UUID:
    """Return the job for a word; see `find_jobs`."""
    word = word.strip()
    found = await _candidates(connections, word)
    if len(found) == 1:
        return found[0]
    if not found:
        if (whole := _whole(word)) is not None:
            return whole
        raise JobNotFoundError(
            f"No job, production or run matches {word!r:.80}. Give a job id or its beginning; `quel list` shows them."
        )
    some = ", ".join(map(str, found[:_CANDIDATES])) + (", …" if len(found) > _CANDIDATES else "")
    raise QuelError(f"{word!r:.80} matches more than one job: {some}. Give more of the id.")


async def _candidates(connections: Connections, word: str) -> list[UUID]:
    database = connections.database
    if is_beginning_of_uuid(word):
        if found := await jobs_by_id(database, word):
            return found
        if found := await jobs_by_run(database, word.lower()):
            return found
        if found := await asyncio.to_thread(_jobs_of_dagsters_runs, connections, word.lower()):
            return found
    return await jobs_by_name(database, word) if word else []


def _jobs_of_dagsters_runs(connections: Connections, beginning: str) -> list[UUID]:
    """Search Dagster's unfinished runs, which PostgreSQL may not know yet. Empty while its storage does not answer."""
    from dagster import DagsterRunStatus, RunsFilter  # noqa: PLC0415  takes a second to import

    waiting = [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING]
    with connections.dagster() as instance:
        if _whole(beginning) is not None:
            run = instance.get_run_by_id(beginning)
            runs = [run] if run is not None else []
        else:
            found = instance.get_runs(RunsFilter(statuses=waiting), limit=_MOST_RUNS)
            runs = [run for run in found if run.run_id.startswith(beginning)]
    jobs = [_whole(run.tags.get(JOB_ID_TAG, "")) for run in runs]
    return list(dict.fromkeys(job for job in jobs if job is not None))


def _whole(word: str) -> UUID | None:
    try:
        return UUID(word)
    except ValueError:
        return None


async def find_member(connections: Connections, word: str) -> Member:
    """Return the member with this id or id prefix, name or e-mail address, or part of a name or address.

    Raises:
        QuelError: no member, or more than one.
    """
    found = await search_members(connections.database, word.strip(), most=_CANDIDATES + 1)
    exact = [
        member for member in found if word.strip().lower() in {str(member.email).lower(), str(member.name).lower()}
    ]
    if len(exact) == 1:
        return exact[0]
    if len(found) == 1:
        return found[0]
    if not found:
        raise QuelError(f"No member matches {word!r:.80}. Give an e-mail address, a name or a member id.")
    some = ", ".join(member.email for member in found[:_CANDIDATES]) + (", …" if len(found) > _CANDIDATES else "")
    raise QuelError(f"{word!r:.80} matches more than one member: {some}. Give the complete address.")


async def filter_of(
    connections: Connections, *, status: Iterable[str] = (), member: str | None = None, **fields: Any
) -> Filter:
    """Return the filter of jobs that a person describes.

    Args:
        status: of JobStatus, or `partial`: completed with pictures missing.
        member: as `find_member`; a complete id is not looked up, because a job may belong to a deleted member.
        fields: other fields of `Filter`.

    Raises:
        QuelError: no member matches, or more than one.
        ValueError: a status that does not exist.
    """
    words = set(status)
    member_id = (_whole(member) or (await find_member(connections, member)).member_id) if member else None
    statuses = tuple(JobStatus(word) for word in words - {"partial"})
    return Filter(statuses=statuses, or_partial="partial" in words, member_id=member_id, **fields)
