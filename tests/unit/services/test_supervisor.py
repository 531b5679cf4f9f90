"""Processes that start in order, are watched, and end with their supervisor, each shown with small real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quel_dagster.errors import ServiceError
from quel_dagster.services.supervisor import MARK, Service, Supervisor, end_leftovers

HANG = 30.0

#: says ready, and ends at once on SIGTERM
_GOOD = "import time; print('ready', flush=True); time.sleep(600)"
#: does not end on SIGTERM, and has a child that does not either
_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=lambda: None)
print("child", child.pid, flush=True)
print("ready", flush=True)
time.sleep(600)
"""


def _service(name: str, program: str = _GOOD, **more: Any) -> Service:
    more.setdefault("ready", lambda log: "ready" in log.text())
    return Service(name=name, command=[sys.executable, "-u", "-c", program], **more)


def _gone(*pids: int) -> bool:
    return not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.02)


class _Set:
    """Makes supervisors that are stopped when the test is over."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lines: list[str] = []
        self._made: list[Supervisor] = []

    def __call__(self, *services: Service, restart: bool = False) -> Supervisor:
        supervisor = Supervisor(
            services, home=self.home, logs=self.home / "logs", echo=self.lines.append, restart=restart
        )
        self._made.append(supervisor)
        return supervisor

    def stop(self) -> None:
        for supervisor in self._made:
            supervisor.hurry()
        self.stop_in_order()

    def stop_in_order(self) -> None:
        for supervisor in self._made:
            supervisor.stop()


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[_Set]:
    made = _Set(tmp_path)
    yield made
    made.stop()


def test_services_start_after_what_they_need_and_stop_before_it(supervise: _Set, tmp_path: Path) -> None:
    note = f"""
import os, signal, sys, time
def say(what):
    with open({str(tmp_path / "order")!r}, "a") as file: file.write(f"{{sys.argv[1]}} {{what}}\\n")
def end(*_):
    time.sleep(0.3 if sys.argv[1] == "top" else 0); say("ends"); sys.exit(0)
signal.signal(signal.SIGTERM, end)
say("starts"); time.sleep(0.2); print("ready", flush=True)
while True: time.sleep(600)
"""
    base = _service("base", note)
    top = _service("top", note, needs=("base",))
    named = [Service(**{**vars(service), "command": [*service.command, service.name]}) for service in (top, base)]
    supervisor = supervise(*named)
    supervisor.start()
    supervisor.stop()
    assert (tmp_path / "order").read_text().splitlines() == ["base starts", "top starts", "top ends", "base ends"]


def test_every_ready_service_is_one_line(supervise: _Set) -> None:
    supervise(_service("a", where="somewhere"), _service("b")).start()
    assert sorted(line.split(":")[0] for line in supervise.lines) == ["a", "b"]
    assert any(line.endswith("s  somewhere") for line in supervise.lines)


def test_one_that_hangs_is_killed_with_its_children(supervise: _Set) -> None:
    supervisor = supervise(_service("stubborn", _STUBBORN, grace=0.3))
    supervisor.start()
    pid = supervisor.pids()["stubborn"]
    child = int(supervisor.log_path("stubborn").read_text().split()[1])
    assert _alive(pid)
    assert _alive(child)
    supervisor.stop()
    assert _gone(pid)
    _until(lambda: _gone(child))
    assert supervise.lines[-1] == "stubborn: did not stop in time; killed"


@pytest.fixture
def shell_without_job_control() -> Iterator[None]:
    """What it starts in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("shell_without_job_control")
def test_a_service_that_handles_sigterm_as_sigint_ends_below_a_background_job(supervise: _Set) -> None:
    """As Dagster's code server does."""
    as_sigint = "import signal; signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))\n"
    supervise(_service("code-server", as_sigint + _GOOD)).start()
    supervise.stop_in_order()
    assert [line for line in supervise.lines if "killed" in line] == []


def test_hurry_ends_the_wait_for_one_that_hangs(supervise: _Set) -> None:
    supervisor = supervise(_service("stubborn", _STUBBORN, grace=2 * HANG))
    supervisor.start()
    pid = supervisor.pids()["stubborn"]
    stopping = threading.Thread(target=supervisor.stop)
    stopping.start()
    supervisor.hurry()
    stopping.join(HANG)
    assert not stopping.is_alive()
    assert _gone(pid)


def test_one_that_never_gets_ready_fails_the_start_and_stops_the_others(supervise: _Set) -> None:
    supervisor = supervise(_service("good"), _service("late", "import time; time.sleep(600)", ready_seconds=0.5))
    with pytest.raises(ServiceError, match="late was not ready after"):
        supervisor.start()
    assert supervisor.pids() == {}


def test_one_that_cannot_start_is_reported_with_the_end_of_its_log(supervise: _Set) -> None:
    supervisor = supervise(_service("broken", "import sys; print('no such setting'); sys.exit(3)"), restart=True)
    with pytest.raises(ServiceError, match=r"^broken ended with exit code 3; its log is .*broken\.log$"):
        supervisor.start()
    assert any("no such setting" in line for line in supervise.lines)


def test_what_needs_a_service_that_cannot_start_is_never_started(supervise: _Set) -> None:
    supervisor = supervise(_service("broken", "raise SystemExit(3)"), _service("top", needs=("broken",)))
    with pytest.raises(ServiceError, match=r"^broken ended"):
        supervisor.start()
    assert not supervisor.log_path("top").exists()


def test_a_death_is_noticed(supervise: _Set) -> None:
    supervisor = supervise(_service("mortal"))
    supervisor.start()
    supervisor.check()
    assert not supervisor.wait(0)
    os.kill(supervisor.pids()["mortal"], signal.SIGKILL)
    assert supervisor.wait(HANG)
    with pytest.raises(ServiceError, match=r"^mortal ended by SIGKILL"):
        supervisor.check()


def test_a_death_is_made_good_where_restarts_are_wanted(supervise: _Set) -> None:
    supervisor = supervise(_service("mortal", _STUBBORN, grace=0.1), restart=True)
    supervisor.start()
    before = supervisor.pids()["mortal"]
    child = int(supervisor.log_path("mortal").read_text().split()[1])
    os.kill(before, signal.SIGKILL)
    _until(lambda: supervisor.pids().get("mortal", before) != before and supervisor.state("mortal") == "ready")
    _until(lambda: _gone(child))  # it would work beside the new one
    supervisor.check()
    assert any("ready again" in line for line in supervise.lines)


def test_a_stop_while_starting_again_is_a_stop(supervise: _Set) -> None:
    once = "import os, sys\nif os.path.exists(sys.argv[1]): sys.exit(1)\nopen(sys.argv[1], 'w').close()\n" + _GOOD
    service = _service("flaky", once)
    marker = str(supervise.home / "been here")
    supervisor = supervise(Service(**{**vars(service), "command": [*service.command, marker]}), restart=True)
    supervisor.start()
    os.kill(supervisor.pids()["flaky"], signal.SIGKILL)
    _until(lambda: any("restarting" in line for line in supervise.lines))
    supervisor.stop()
    assert supervisor.pids() == {}


_SUPERVISE = """
import json, sys, time
from pathlib import Path
from quel_dagster.services.supervisor import Service, Supervisor
home = Path(sys.argv[1])
services = [
    Service(name=name, command=[sys.executable, "-u", "-c", sys.argv[2]], ready=lambda log: "ready" in log.text())
    for name in ("one", "two")
]
supervisor = Supervisor(services, home=home, logs=home / "logs", echo=lambda line: None)
supervisor.start()
print(json.dumps(list(supervisor.pids().values())), flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    ignores = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready'); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", _SUPERVISE, str(tmp_path), ignores], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().strip("[]\n").split(",")]
        assert not _gone(*pids)
        process.kill()
    _until(lambda: _gone(*pids))


def test_what_a_crash_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    def sleeper(home: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)"],
            env={**os.environ, MARK: str(home)},
        )

    with sleeper(tmp_path / "ours") as left, sleeper(tmp_path / "other") as other:
        _until(lambda: psutil.Process(left.pid).environ().get(MARK))
        try:
            assert len(end_leftovers(tmp_path / "ours", grace=0.2)) == 1
            assert _gone(left.pid)
            assert other.poll() is None
        finally:
            left.kill()
            other.kill()


def test_the_log_of_the_run_before_is_kept(supervise: _Set) -> None:
    for run in ("first", "second"):
        supervisor = supervise(_service("a", f"print('ready {run}'); import time; time.sleep(600)"))
        supervisor.start()
        supervisor.stop()
    assert "second" in supervisor.log_path("a").read_text()
    assert "first" in supervisor.log_path("a").with_suffix(".log.1").read_text()
