"""Read rows of PostgreSQL into values with typed fields.

A row fits its value exactly: a column that is missing, unexpected or of another type is an error of one line that
names it, at the place where the row is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import TextClause

from quel_dagster.adapters.database.connection import Connection
from quel_dagster.errors import JobNotFoundError, RowShapeError
from quel_dagster.jobs.model import Value

V = TypeVar("V", bound=Value)
T = TypeVar("T")


async def read(database: Connection, kind: type[V], statement: TextClause, **parameters: Any) -> list[V]:
    """Return the rows of a statement as values.

    Raises:
        RowShapeError: a row does not fit `kind`.
    """
    return [value_of(kind, row._asdict()) for row in await database.ask(statement, **parameters)]


async def read_one(database: Connection, kind: type[V], statement: TextClause, **parameters: Any) -> V:
    """Return the row of a statement that always has exactly one.

    Raises:
        RowShapeError: the row does not fit `kind`.
    """
    (value,) = await read(database, kind, statement, **parameters)
    return value


async def read_of_job(database: Connection, kind: type[V], statement: TextClause, job_id: UUID) -> V:
    """Return the row of a job.

    Raises:
        JobNotFoundError: no such job.
        RowShapeError: the row does not fit `kind`.
    """
    rows = await read(database, kind, statement, job_id=job_id)
    if not rows:
        raise JobNotFoundError.of(job_id)
    return rows[0]


async def answer(database: Connection, kinds: TypeAdapter[T], statement: TextClause, **parameters: Any) -> T:
    """Return the JSON that an SQL function of this project answers with, as one of these values.

    Raises:
        RowShapeError: the answer is none of them.
    """
    found = await database.answer(statement, **parameters)
    try:
        return kinds.validate_python(found)
    except ValidationError as error:
        raise _misfit("An SQL function gave an answer that this version does not know", error) from None


def value_of(kind: type[V], columns: Mapping[str, Any]) -> V:
    """Return a row as a value.

    Raises:
        RowShapeError: it does not fit `kind`; the message names the columns, and shows no value of them.
    """
    try:
        return kind.model_validate(dict(columns))
    except ValidationError as error:
        raise _misfit(f"A row of the database is no {kind.__name__}", error) from None


def _misfit(what: str, error: ValidationError) -> RowShapeError:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return RowShapeError(
        f"{what}: {'; '.join(map(_problem, problems))}. `quel doctor` compares the database with this version."
    )


def _problem(problem: Mapping[str, Any]) -> str:
    column = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case _ if not column:
            return str(problem["msg"])
        case "missing":
            return f"column {column} is missing"
        case "extra_forbidden":
            return f"column {column} is unexpected"
        case _:
            return f"column {column}: {problem['msg']}"
