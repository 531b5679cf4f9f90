"""PostgreSQL as the model's counterpart: calls of our functions, each of which may meet a lock that another holds."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import TextClause

from tests.integration.model import rows
from tests.integration.model.model import Job

#: What no call may hold while it waits for a lock: the order is job, lease, balance, production.
LATER = {
    "job": ("lease", "balance", "production"),
    "lease": ("balance", "production"),
    "balance": ("production",),
    "production": (),
}


#: no crash of PostgreSQL is tested here: wait for no disk, and plan each statement once
_QUICK = "-c synchronous_commit=off -c plan_cache_mode=force_generic_plan -c jit=off"

#: a statement that finds a row, and its key
Row = tuple[str, UUID]


class World:
    """Connections of two workers, of one who holds locks, and of one who looks."""

    def __init__(self, url: str) -> None:
        self._workers = [self._connect(url), self._connect(url)]
        self._holder = psycopg.connect(url, row_factory=dict_row)
        self._eyes = self._connect(url)
        self.rows("delete from quel_dagster.job_lease where probation")  # of other tests: only one job is on probation
        self._members: list[UUID] = []
        #: taken and compared, over all examples
        self.steps = 0

    @staticmethod
    def _connect(url: str) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(url, autocommit=True, row_factory=dict_row, options=_QUICK)

    def close(self) -> None:
        for connection in (*self._workers, self._holder, self._eyes):
            connection.close()

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        cursor = self._eyes.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *values: Any) -> Any:
        (row,) = self.rows(statement, *values)
        return next(iter(row.values()))

    def everything(self, jobs: list[UUID], productions: list[UUID], payers: list[UUID]) -> dict[str, Any]:
        """Return what the model is compared with."""
        values = {"jobs": jobs, "productions": productions, "payers": payers}
        row = self._eyes.execute(rows.EVERYTHING.encode(), values).fetchone()
        assert row
        return row

    def execute(self, statement: TextClause, **values: Any) -> None:
        """Execute a statement of the program that is no function."""
        self._eyes.execute(re.sub(r":(\w+)", r"%(\1)s", str(statement)).encode(), values)

    # --- calls ---------------------------------------------------------------------------------------

    def call(self, job: Job, statement: str, *values: Any, worker: int = 0, meets: str | None = None) -> Any:
        """Return the answer of a function of this project; `meets` is the lock that it first has to wait for.

        Raises:
            AssertionError: while it waited it held a lock that comes later in the order.
        """
        connection = self._workers[worker]
        if meets is None or (row := self._locked(job, meets)) is None:
            return self._answer(connection, statement, values)
        answers: list[Any] = []
        with self._held(row):
            thread = threading.Thread(target=lambda: answers.append(self._answer(connection, statement, values)))
            thread.start()
            held = self._held_while_it_waits(job, meets, connection.info.backend_pid, thread)
        thread.join(60)
        assert answers, f"{statement} did not end when the lock was free"
        assert not held, f"{statement} holds {held} while it waits for the {meets}: the lock order is broken"
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    @staticmethod
    def _answer(connection: psycopg.Connection[dict[str, Any]], statement: str, values: tuple[Any, ...]) -> Any:
        try:
            row = connection.execute(f"select {statement} as answer".encode(), values).fetchone()
            return row and row["answer"]
        except psycopg.Error as error:
            return error

    def _held_while_it_waits(self, job: Job, meets: str, pid: int, thread: threading.Thread) -> list[str]:
        while thread.is_alive():
            if self.value("select cardinality(pg_blocking_pids(%s))", pid):
                locks = {name: self._locked(job, name) for name in LATER[meets]}
                return [name for name, row in locks.items() if row and not self._is_free(row)]
            time.sleep(0.001)
        return []

    @contextmanager
    def _held(self, row: Row) -> Iterator[None]:
        statement, key = row
        self._holder.execute(f"{statement} for no key update".encode(), (key,))
        try:
            yield
        finally:
            self._holder.rollback()

    def _is_free(self, row: Row) -> bool:
        statement, key = row
        return bool(self.rows(f"{statement} for no key update skip locked", key))

    def _locked(self, job: Job, name: str) -> Row | None:
        """The row of this lock; None when there is none."""
        row: Row = {
            "job": ("select 1 from quel_production_jobs where job_id = %s", job.id),
            "lease": ("select 1 from quel_dagster.job_lease where job_id = %s", job.id),
            "balance": ("select 1 from quel_organization where org_id = %s", job.org.id)
            if job.org
            else ("select 1 from quel_member where quel_member_id = %s", job.member.id),
            "production": ("select 1 from quel_production_photo where production_id = %s", job.production.id),
        }[name]
        return row if self.rows(*row) else None

    def forget(self) -> None:
        """Take away everything that this example made."""
        with self._eyes.transaction():
            for statement in rows.FORGET:
                self._eyes.execute(statement.encode(), {"members": self._members})
        self._members.clear()

    # --- people and jobs -----------------------------------------------------------------------------

    def member(self, credit: int) -> UUID:
        member: UUID = self.value(
            "insert into quel_member (quel_email, provider, provider_sub, quel_member_credit)"
            " values (%s, 'test', %s, %s) returning quel_member_id",
            f"{uuid4().hex}@example.org",
            uuid4().hex,
            credit,
        )
        self._members.append(member)
        return member

    def organization(self, owner: UUID, member: UUID, credit: int) -> UUID:
        org: UUID = self.value(
            "insert into quel_organization (org_name, owner_id, org_credit) values ('Atelier', %s, %s)"
            " returning org_id",
            owner,
            credit,
        )
        self.rows(
            "insert into quel_organization_member (org_id, member_id, role) values (%s, %s, 'member')", org, member
        )
        return org

    def production(self, member: UUID) -> UUID:
        production: UUID = self.value(
            "insert into quel_production_photo (quel_member_id) values (%s) returning production_id", member
        )
        return production

    def job(self, production: UUID, member: UUID, org: UUID | None, total: int) -> UUID:
        job: UUID = self.value(
            "insert into quel_production_jobs (production_id, job_type, batch_index, total_images, job_input_data,"
            " quel_member_id, org_id) values (%s, 'single_batch', 0, %s, '{}', %s, %s) returning job_id",
            production,
            total,
            member,
            org,
        )
        return job
