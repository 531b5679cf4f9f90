"""One PostgreSQL for this folder, and a shared database of its own for each test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.services.endpoints import Endpoints
from quel_dagster.services.stack import Stack
from quel_dagster.settings import Settings
from tests.integration.conftest import without_fsync
from tests.production.servers import SharedDatabase, shared_database


@pytest.fixture(scope="session")
def outside() -> Iterator[Endpoints]:
    """A PostgreSQL and a Redis that stand for servers elsewhere."""
    with tempfile.TemporaryDirectory(prefix="quel-production-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)  # as root, PostgreSQL is another user, and opens no folder by itself
        settings = Settings.read(home=Path(home), workers=1, _env_file=None)
        with Stack(settings, embedded=EmbeddedServers(), only=("postgres", "redis")) as stack:
            without_fsync(stack.endpoints.database_url)
            yield stack.endpoints


@pytest.fixture
def shared(outside: Endpoints) -> Iterator[SharedDatabase]:
    """A database of the web app, with a role that owns only schema quel_dagster."""
    with shared_database(outside.database_url, f"web_{uuid4().hex[:12]}") as database:
        yield database


@pytest.fixture
def bare(outside: Endpoints) -> Iterator[SharedDatabase]:
    """A database of the web app, with a role for which nothing was prepared."""
    with shared_database(outside.database_url, f"web_{uuid4().hex[:12]}", with_schema=False) as database:
        yield database
