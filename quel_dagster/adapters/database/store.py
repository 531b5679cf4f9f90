"""One pool of connections to PostgreSQL, and one class for each audience."""

from __future__ import annotations

from quel_dagster.adapters.database.connection import Connection
from quel_dagster.adapters.database.installation import Installation
from quel_dagster.adapters.database.jobs import Jobs
from quel_dagster.adapters.database.recovery import Recovery
from quel_dagster.adapters.database.web_app import WebAppRows
from quel_dagster.adapters.database.work import JobWork
from quel_dagster.adapters.retry_policy import RUN_SECONDS


class Database(Connection):
    """The tables of domain.md §2 and the schema of this project.

    Modules of queries (`job_list`, `members`, `ledger`, `throughput`, `figures`, `usage`, `actions`) take it.
    """

    def __init__(self, url: str, *, pool_size: int = 2, retry_seconds: float = RUN_SECONDS) -> None:
        super().__init__(url, pool_size=pool_size, retry_seconds=retry_seconds)
        #: what a run does
        self.work = JobWork(self)
        #: what the sensors and the sweep do
        self.recovery = Recovery(self)
        #: what operators look at
        self.jobs = Jobs(self)
        #: what the installer and doctor look at
        self.installation = Installation(self)
        #: what the web app writes
        self.web_app = WebAppRows(self)
