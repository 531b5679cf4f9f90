"""What a worker's parent does before it forks: everything that costs memory is there, nothing that a fork breaks is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import quel_dagster.pipeline
from quel_dagster.sandbox.endpoints import Endpoints
from tests.integration.conftest import Office
from tests.integration.studio.conftest import combinations

DAGSTER_YAML = Path(quel_dagster.pipeline.__file__).with_name("dagster.yaml")


@pytest.fixture
def forked(environment: Mapping[str, str], endpoints: Endpoints, tmp_path: Path) -> dict[str, str]:
    """The environment of a worker, with a Dagster home like that of `quel up`."""
    home = tmp_path / "dagster-home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes(DAGSTER_YAML.read_bytes())
    return {**os.environ, **endpoints.environment(), **environment, "DAGSTER_HOME": str(home)}


def work(job_id: object, environment: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.pipeline.forked_worker", str(job_id)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


async def test_a_fork_finds_one_thread_no_socket_and_all_that_a_run_imports(
    office: Office, forked: Mapping[str, str]
) -> None:
    job = await office.job(2, job_type="single_batch", input_data=combinations(1, 1))
    seen = work(job.job_id, forked)
    assert seen["threads"] == ["MainThread"]
    assert seen["kernel_threads"] == 1
    assert seen["sockets"] == []
    assert seen["child"] == {"success": True, "late": []}
