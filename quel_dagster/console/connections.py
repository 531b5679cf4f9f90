"""Connections to the systems of an installation, for queries and actions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quel_dagster.adapters.database.store import Database
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance


@dataclass(frozen=True)
class Connections:
    """Connections to PostgreSQL, Redis and Dagster's storage."""

    settings: Settings
    database: Database
    queue: JobQueue
    #: raises QuelError when Dagster's storage does not answer
    dagster: Callable[[], AbstractContextManager[DagsterInstance]]
    #: public URL of the web UI, without a trailing slash; None when unknown
    web_ui: str | None

    def run_url(self, run_id: str) -> str | None:
        """Return the URL of a run's page."""
        return None if self.web_ui is None else f"{self.web_ui}/runs/{run_id}"

    def job_url(self, job_id: object) -> str | None:
        """Return the URL of a job's page at /quel."""
        return None if self.web_ui is None else f"{self.web_ui}/quel/jobs/{job_id}"
