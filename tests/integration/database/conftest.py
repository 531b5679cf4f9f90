"""A database of one test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.preparation import install_schema


@pytest.fixture
async def fresh_url(endpoints: Endpoints) -> AsyncIterator[str]:
    """A database of this test's own, empty."""
    name = f"fresh_{uuid4().hex}"
    async with await psycopg.AsyncConnection.connect(endpoints.database_url, autocommit=True) as connection:
        await connection.execute(f"create database {name}".encode())
        yield endpoints.database_url.rsplit("/", 1)[0] + f"/{name}"
        await connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
def fresh_database(fresh_url: str) -> str:
    """The same with every table of the web app and of this project."""
    install_schema(fresh_url, web_app_tables=True)
    return fresh_url
