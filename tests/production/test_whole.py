"""The main job on a shared database with a role of little power, directly, and through PgBouncer in both modes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from quel_dagster.services.endpoints import Endpoints
from tests.production.servers import SharedDatabase, pgbouncer
from tests.production.site import Client, Site, check_whole, findings, site, site_settings, surroundings

ALL = bool(os.environ.get("SKIP_NO_TESTS"))
DIRECTLY = pytest.param(
    "direct",
    marks=pytest.mark.skipif(
        not ALL and shutil.which("redis-server") is not None, reason="tests/production/test_redis_rules.py sees it"
    ),
)
#: what fails through a pool of sessions fails through a pool of transactions
IN_SESSIONS = pytest.param("session", marks=pytest.mark.skipif(not ALL, reason="minutes; `make production` runs it"))


def test_doctor_before_the_first_start_fails_nothing(
    shared: SharedDatabase, outside: Endpoints, tmp_path: Path
) -> None:
    """The servers are prepared as docs/operations.md says, and no process has run."""
    with surroundings(tmp_path) as around:
        settings = site_settings(tmp_path, around, url=shared.url, redis_url=outside.redis_url)
        (tmp_path / "quel").mkdir()
        doctor = Client(shared, settings).quel("doctor", "--json")
    assert (doctor.returncode, findings(doctor).get("failed", [])) == (0, []), doctor.stdout
    assert len(findings(doctor)["warning"]) == 2, "no schema yet, and no `quel up`"


@pytest.fixture(params=[DIRECTLY, IN_SESSIONS, "transaction"])
def shape(request: pytest.FixtureRequest, shared: SharedDatabase, outside: Endpoints, tmp_path: Path) -> Iterator[Site]:
    with redis.Redis.from_url(outside.redis_url) as client:
        client.flushall()
    with ExitStack() as exits:
        url = shared.url
        if request.param != "direct":
            shared.prepare("alter role")
            url = exits.enter_context(pgbouncer(shared, mode=request.param, drops_options=False))
        yield exits.enter_context(site(tmp_path, shared, url=url, redis_url=outside.redis_url))


async def test_jobs_are_made_charged_and_seen_by_every_tool(shape: Site) -> None:
    await check_whole(shape)
