"""Worker hosts on machines of their own, with nothing but the package, the URLs and their own disk.

    python -m tests.faults.many_machines

Three machines as network namespaces on a switch of their own, none of which sees the loopback of another:

    10.77.0.1   PostgreSQL, Redis, object store, Gemini, Dagster's code server, daemon and web server
    10.77.0.11  `quel worker`, host `a`
    10.77.0.12  `quel worker`, host `b`

Jobs are made on both. Then the cable of `a` is pulled in the middle of its runs, and `b` finishes them; plugged in
again, `a` writes nothing of what it was at, and takes jobs as before. Prints what was seen as JSON; exit code 1 when
something is not as it should be. Needs root and `ip` (iproute2).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

from quel_dagster.settings import Settings
from tests.faults.desk import Desk, eventually, print_line
from tests.faults.installation import ROOT, Installation, installation

NETWORK = "10.77.0"
DATA, A, B = (f"{NETWORK}.{number}" for number in (1, 11, 12))
#: seconds that a call of Gemini takes, so that a cable can be pulled in the middle of one
CALL_SECONDS = 3.0
INSIDE = "QUEL_MANY_MACHINES_PREFIX"


def missing() -> str | None:
    """Why no namespaces can be made here; None when they can."""
    if shutil.which("ip") is None:
        return "`ip` is not installed (package iproute2)"
    probe = f"qprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    _ip("netns", "del", probe)
    return None


def _ip(*arguments: str, within: str | None = None) -> None:
    command = ["ip", *(("-n", within) if within else ()), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def machines(prefix: str) -> Iterator[None]:
    """Namespaces `{prefix}-data`, `-a`, `-b`, each with a cable `eth` to the switch in `{prefix}-switch`."""
    switch = f"{prefix}-switch"
    addresses = {"data": DATA, "a": A, "b": B}
    with ExitStack() as exits:
        for name in (switch, *(f"{prefix}-{machine}" for machine in addresses)):
            _ip("netns", "add", name)
            exits.callback(_ip, "netns", "del", name)
            _ip("link", "set", "lo", "up", within=name)
        _ip("link", "add", "bridge", "type", "bridge", within=switch)
        _ip("link", "set", "bridge", "up", within=switch)
        for machine, address in addresses.items():
            name, port = f"{prefix}-{machine}", f"port-{machine}"
            _ip("link", "add", port, "type", "veth", "peer", "name", "eth", "netns", name, within=switch)
            _ip("link", "set", port, "master", "bridge", "up", within=switch)
            _ip("addr", "add", f"{address}/24", "dev", "eth", within=name)
            _ip("link", "set", "eth", "up", within=name)
        yield


class Show:
    """The actions on the machines."""

    def __init__(self, site: Installation, desk: Desk, prefix: str) -> None:
        self.site, self.desk, self.prefix = site, desk, prefix

    async def run(self) -> dict[str, object]:
        first = await self._jobs(6, pictures=2)
        made_by = Counter(self._maker(job_id) for job_id in first)
        seen: dict[str, object] = {"runs by host": dict(made_by)}
        assert set(made_by) == {"a", "b"}, f"not both hosts made pictures: {made_by}"

        cut = [await self.desk.job(8, credit=1000) for _ in range(6)]
        leases = [await self.desk.until_leased(job_id) for job_id in cut]
        on_a = [
            (job_id, lease["run_id"]) for job_id, lease in zip(cut, leases, strict=True) if self._maker(job_id) == "a"
        ]
        assert on_a, "no run was on a"
        for job_id, _ in on_a:
            await self.desk.until_made(job_id, 2)
        calls = self.site.gemini.state.report()["total"]
        _ip("link", "set", "eth", "down", within=f"{self.prefix}-a")
        pulled = time.monotonic()
        for job_id, run_id in on_a:
            await eventually(lambda run_id=run_id: self._failed(run_id), f"run {run_id} is given up")
            seen["noticed after seconds"] = round(time.monotonic() - pulled, 1)
            await self.desk.until_leased(job_id, other_than=run_id)
            seen["back at work after seconds"] = round(time.monotonic() - pulled, 1)
        for job_id in cut:
            row = await self.desk.until_ended(job_id)
            assert (row["status"], row["completed_images"]) == ("completed", 8), self.desk.describe(job_id)
        seen["finished after seconds"] = round(time.monotonic() - pulled, 1)
        assert all(self._maker(job_id) == "b" for job_id, _ in on_a), "a finished a job without a cable"
        seen["pictures of the cut jobs"] = [self.desk.row(job_id)["completed_images"] for job_id in cut]
        seen["Gemini calls after the cut"] = self.site.gemini.state.report()["total"] - calls

        _ip("link", "set", "eth", "up", within=f"{self.prefix}-a")
        while not any(self._maker(job_id) == "a" for job_id in await self._jobs(4, pictures=1)):
            print_line("a has not taken a job yet")
        await self.desk.check()
        seen["a takes jobs again"] = True
        seen["audit"] = "clean"
        return seen

    async def _jobs(self, count: int, *, pictures: int) -> list[UUID]:
        jobs = [await self.desk.job(pictures) for _ in range(count)]
        for job_id in jobs:
            row = await self.desk.until_ended(job_id)
            assert row["status"] == "completed", self.desk.describe(job_id)
        return jobs

    def _maker(self, job_id: UUID) -> str:
        """The host that took the job's newest run."""
        return str(self.desk.host_of(self.desk.runs(job_id)[0]))

    def _failed(self, run_id: str) -> bool:
        run = self.site.instance.get_run_by_id(run_id)
        return run is not None and run.status.value == "FAILURE"


async def _inside(site: Installation, prefix: str) -> dict[str, object]:
    site.gemini.state.latency = CALL_SECONDS
    desk = Desk.at(site)
    try:
        return await Show(site, desk, prefix).run()
    finally:
        await desk.aclose()


def _forget_settings() -> None:
    """An installation of the shell's, or of the tests around, is none of these machines."""
    names = {field.alias for field in Settings.model_fields.values()}
    for name in [name for name in os.environ if name in names or name.startswith(("DAGSTER_", "CELERY_"))]:
        del os.environ[name]


def main() -> int:
    _forget_settings()
    prefix = os.environ.get(INSIDE)
    if prefix is None:
        if reason := missing():
            print_line(reason)
            return 1
        prefix = f"quel{os.getpid()}"
        with machines(prefix):
            command = ["ip", "netns", "exec", f"{prefix}-data", sys.executable, "-m", "tests.faults.many_machines"]
            return subprocess.run(command, env={**os.environ, INSIDE: prefix}, cwd=ROOT, check=False).returncode
    with (
        tempfile.TemporaryDirectory(prefix="quel-machines-", ignore_cleanup_errors=True) as folder,
        installation(Path(folder), children=0, slots=None, address=DATA) as site,
    ):
        for name in ("a", "b"):
            disk = Path(folder) / f"disk-{name}"
            (disk / "logs").mkdir(parents=True)
            site.add_host(
                name,
                environment={"QUEL_HOME": str(disk), "QUEL_WORKER_PROCESSES": "2", "QUEL_RUNS_PER_PROCESS": "10"},
                command=[
                    "ip",
                    "netns",
                    "exec",
                    f"{prefix}-{name}",
                    sys.executable,
                    "-m",
                    "quel_dagster.cli.main",
                    "worker",
                ],
                log=disk / "logs" / "worker.log",
            )
        seen = asyncio.run(_inside(site, prefix))
    print_line(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
