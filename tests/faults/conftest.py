"""One installation for all fault tests of a process, whole again before each of them."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from quel_dagster.adapters.database.store import Database
from tests.faults.desk import Desk, say
from tests.faults.installation import Installation, installation


@pytest.fixture(scope="package")  # its environment must not reach the tests of others
def _site() -> Iterator[Installation]:
    with (
        tempfile.TemporaryDirectory(prefix="quel-faults-", ignore_cleanup_errors=True) as home,
        installation(Path(home), echo=say) as site,
    ):
        asyncio.run(_create_tables(site.database_url))
        yield site


async def _create_tables(url: str) -> None:
    database = Database(url)
    await database.create_web_app_tables()
    await database.ensure_schema()
    await database.aclose()


@pytest.fixture
def site(_site: Installation) -> Iterator[Installation]:
    """The installation, unharmed."""
    _site.heal()
    yield _site


@pytest.fixture
async def desk(site: Installation) -> AsyncIterator[Desk]:
    """A desk; the test ends with a clean audit of what was ordered at it."""
    desk = Desk.at(site)
    try:
        yield desk
        site.heal()
        await desk.check()
    finally:
        await desk.aclose()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Chance, replayable: `FAULT_SEED=… pytest …` repeats it. The seed is printed with a failing test."""
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))
    say(f"FAULT_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")  # noqa: S311


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault_all: too slow for every day; `make soak` runs it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow part is left out unless asked for, by `-m fault_all` or any other -m."""
    if config.getoption("markexpr"):
        return
    slow = [item for item in items if item.get_closest_marker("fault_all")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
