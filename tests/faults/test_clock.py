"""A worker host with a clock that is an hour off: only the database's clock counts."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pytest

from tests.faults.desk import Desk, eventually, print_line
from tests.faults.installation import PRICE

HOUR = 3600


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that shifts the wall clock of a process it is preloaded into."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc)")
    library = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    source = Path(__file__).with_name("shifted_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def _environment(library: Path, seconds: int) -> Mapping[str, str]:
    return {"LD_PRELOAD": str(library), "FAULTS_CLOCK_SHIFT": str(seconds)}


@pytest.mark.own_hosts
@pytest.mark.parametrize("seconds", [HOUR, pytest.param(-HOUR, marks=pytest.mark.fault_all)])
async def test_a_host_an_hour_off(desk: Desk, shifted: Path, seconds: int) -> None:
    """Nothing recovers falsely, though the job takes longer than a lease lasts; after a kill it does recover."""
    site = desk.site
    host = site.add_host("off", children=2, environment=_environment(shifted, seconds))
    logged = await eventually(
        lambda: re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", host.log_bytes().decode(errors="replace")),
        "a log line with the host's time",
    )
    off = datetime.fromisoformat(logged[1]).timestamp() - time.time()
    assert abs(off - seconds) < HOUR / 2, "the clock of this host is not off"

    site.gemini.state.latency = 3.5  # eight pictures, two at a time: longer than the 10 s of a lease
    steady = await desk.job(8)
    killed = await desk.job(4)
    await desk.until_made(killed, 1)
    old_run = (await desk.until_running(killed)).run_id
    at = await desk.kill_child_of(killed)
    await desk.until_leased(killed, other_than=old_run)
    print_line(f"back at work after {time.monotonic() - at:.1f} s")
    for job_id, total in ((steady, 8), (killed, 4)):
        row = await desk.until_ended(job_id)
        assert (row["status"], row["completed_images"]) == ("completed", total), desk.describe(job_id)
        assert desk.charged(job_id) == total * PRICE
    assert len(desk.runs(steady)) == 1, f"recovered falsely: {desk.describe(steady)}"
    assert len(desk.runs(killed)) == 2, desk.describe(killed)
