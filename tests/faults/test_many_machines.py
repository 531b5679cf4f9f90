"""Worker hosts with addresses of their own, and the cable of one pulled in the middle of its runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.faults import many_machines
from tests.faults.installation import ROOT

NO_MACHINES = many_machines.missing()


@pytest.mark.fault_all
@pytest.mark.skipif(NO_MACHINES is not None, reason=str(NO_MACHINES))
def test_a_host_without_a_cable_loses_its_jobs_to_the_other_and_nothing_is_made_twice() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", many_machines.__name__],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout[-4000:] + shown.stderr[-4000:]
    seen = json.loads(shown.stdout.splitlines()[-1])
    assert seen["runs by host"].keys() == {"a", "b"}
    assert set(seen["pictures of the cut jobs"]) == {8}
    assert seen["a takes jobs again"]
    assert seen["audit"] == "clean"
