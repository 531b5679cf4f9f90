"""A worker process of its own, without Dagster: `python -m tests.integration.quota.worker ARGUMENTS_AS_JSON`.

It makes the jobs that it is told, side by side, as runs of one studio whose quota counts over a shorter window than a
minute. Prints `ready` once the jobs are claimed and planned, and waits for a line of its input; then one line of JSON:
how each job ended, and what its units say that they waited for the quota.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import Any
from uuid import UUID

from quel_dagster.adapters.gemini import GeminiClient
from quel_dagster.adapters.gemini_quota import GeminiQuota
from quel_dagster.settings import Settings
from quel_dagster.studio.outcomes import Planned
from quel_dagster.studio.session import JobSession
from quel_dagster.studio.studio import Studio


def with_quota(studio: Studio, settings: Settings, **limits: Any) -> Studio:
    """The same studio with another quota."""
    url = settings.redis()
    assert url is not None
    quota = GeminiQuota(url, **limits)
    gemini = GeminiClient.from_settings(settings, gate=quota.place)
    studio.parts = replace(studio.parts, quota=quota, gemini=gemini)
    return studio


async def plan(studio: Studio, job_id: UUID) -> tuple[JobSession, Planned]:
    """The beginning of a run, as the ops of the pipeline would do it."""
    session = await studio.session(job_id, run_id=f"run of {job_id}")
    return session, await session.plan(lambda _line: None)


async def make(studio: Studio, session: JobSession, planned: Planned) -> dict[str, Any]:
    """The rest of it."""
    outcomes = await asyncio.gather(*(session.make(unit, lambda _line: None) for unit in planned.units))
    outcome, _ = await session.settle(outcomes, lambda _line: None)
    await studio.close_session(session.run_id)
    return {"status": outcome.status, "made": outcome.made_now, "waited": sum(unit.quota_seconds for unit in outcomes)}


async def main(job_ids: list[str], limits: dict[str, Any]) -> None:
    settings = Settings.read()
    studio = with_quota(Studio.from_settings(settings), settings, **limits)
    runs = await asyncio.gather(*(plan(studio, UUID(job_id)) for job_id in job_ids))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    made = await asyncio.gather(*(make(studio, *run) for run in runs))
    await studio.aclose()
    sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
