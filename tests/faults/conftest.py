"""One installation for all fault tests of a process, whole again before each of them."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from tests.faults.desk import Desk, print_line
from tests.faults.installation import Hosts, Installation, installation


@pytest.fixture(scope="package")  # its environment must not reach the tests of others
def _site() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="quel-faults-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)  # as root, PostgreSQL is another user, and opens no folder by itself
        with installation(Path(home), slots=None, echo=print_line) as site:
            yield site


@pytest.fixture
def site(request: pytest.FixtureRequest, _site: Installation) -> Installation:
    """The installation, unharmed; without a worker host for a test that is marked `own_hosts`.

    An earlier test may have left a pause of the intake, which lasts for two minutes.
    """
    _site.heal(hosts=Hosts.NONE if request.node.get_closest_marker("own_hosts") else Hosts.FIRST)
    with redis.Redis.from_url(_site.redis_url) as client:
        for pattern in ("quel:intake:*", "quel:gemini:*"):
            for key in client.scan_iter(pattern):
                client.delete(key)
    return _site


@pytest.fixture
async def desk(site: Installation) -> AsyncIterator[Desk]:
    """A desk; the test ends with a clean audit of what was ordered at it."""
    desk = Desk.at(site)
    try:
        yield desk
        site.heal(hosts=Hosts.ANY)
        await desk.check()
    finally:
        await desk.aclose()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Chance, replayable: `FAULT_SEED=… pytest …` repeats it. The seed is printed with a failing test."""
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))
    print_line(f"FAULT_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")  # noqa: S311


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault_all: too slow for every day; `make soak` runs it")
    config.addinivalue_line("markers", "own_hosts: the test starts every worker host that it needs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow part is left out unless asked for, by `-m fault_all` or any other -m."""
    if config.getoption("markexpr"):
        return
    slow = [item for item in items if item.get_closest_marker("fault_all")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
