"""Terminate in Dagster's own pages, as rows of the action log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from starlette.requests import Request

from quel_dagster.adapters.database import actions
from quel_dagster.adapters.database.actions import Actor
from quel_dagster.console.page.site import Site
from quel_dagster.errors import QuelError
from quel_dagster.platform.tags import JOB_ID_TAG

#: who acts when no proxy names the operator: Dagster has no login
UNNAMED = "the web UI"
_log = logging.getLogger(__name__)


async def record_terminations(site: Site, request: Request, accepted: Mapping[str, bool]) -> None:
    """Write a row for each run that an operator asked to terminate. The run stops also when the log cannot be written.

    Args:
        accepted: run id → whether Dagster accepted the request.
    """
    actor = Actor(name=site.user_of(request) or UNNAMED, via="dagster")
    for run_id, done in accepted.items():
        try:
            run = await asyncio.to_thread(site.instance.get_run_by_id, run_id)
            job = run.tags.get(JOB_ID_TAG) if run is not None else None
            await actions.record(
                site.connections.database,
                actor,
                "terminate",
                result="done" if done else "refused",
                said=f"Terminate of run {run_id} was {'accepted' if done else 'refused'}",
                job_id=UUID(job) if job else None,
                subject=run_id,
            )
        except (QuelError, DBAPIError) as error:
            _log.warning("Terminate of run %s is not in the action log: %s", run_id, type(error).__name__)
