"""The fork server: its processes are like those of `python -m`, and never outlive it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from quel_dagster.errors import ServiceError
from quel_dagster.services.forked import ForkedProcess
from quel_dagster.services.probes import accepts
from quel_dagster.services.supervisor import LogTail, Service, Supervisor

HANG = 60.0
#: says what it is as JSON, then does what its arguments say
_PROGRAM = """
import json, os, resource, sys, time
import shared_module
facts = {
    "name": __name__, "file": __file__, "arguments": sys.argv[1:], "pid": os.getpid(), "session": os.getsid(0),
    "stdin": os.readlink("/proc/self/fd/0"), "home": os.environ["MARKED"], "loaded_by": shared_module.loaded_by,
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
}
print(json.dumps(facts), flush=True)
if sys.argv[1] == "fail": raise LookupError("no such thing")
if sys.argv[1] == "exit": sys.exit(7)
if sys.argv[1] == "wait": time.sleep(600)
"""
_SHARED = "import os\nloaded_by = os.getpid()\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="quel-fork-") as name:  # short: a socket's path is
        (Path(name) / "program.py").write_text(_PROGRAM)
        (Path(name) / "shared_module.py").write_text(_SHARED)
        (Path(name) / "toys.py").write_text("import dagster\ndefs = dagster.Definitions()\n")
        yield Path(name)


class _Server:
    """A fork server in a folder."""

    def __init__(self, folder: Path, definitions: str = "toys") -> None:
        self.folder = folder
        self.socket = folder / "fork-server.sock"
        self._outputs = 0
        module = "quel_dagster.services.fork_server"
        with (folder / "fork-server.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(self.socket), definitions, "shared_module"],
                env={**os.environ, "PYTHONPATH": str(folder), "MARKED": "here", "SPT_NOENV": "1"},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        _until(lambda: self.process.poll() is not None or accepts(self.socket))

    def start(self, *arguments: str) -> tuple[ForkedProcess, Path]:
        self._outputs += 1
        path = self.folder / f"output-{self._outputs}"
        with path.open("ab") as output:
            command = ["program", *arguments]
            return ForkedProcess(self.socket, command, output=output.fileno(), death_signal=signal.SIGKILL), path

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(folder: Path) -> Iterator[_Server]:
    running = _Server(folder)
    yield running
    running.close()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        threading.Event().wait(0.02)


def _said(path: Path) -> dict[str, object]:
    _until(lambda: "\n" in path.read_text())
    facts: dict[str, object] = json.loads(path.read_text().splitlines()[0])
    return facts


def test_a_forked_process_is_one_of_python_m(server: _Server, folder: Path) -> None:
    process, output = server.start("exit", "a b")
    facts = _said(output)
    assert process.wait(HANG) == process.poll() == 7
    assert facts["name"] == "__main__"
    assert facts["file"] == str(folder / "program.py")
    assert facts["arguments"] == ["exit", "a b"]
    assert facts["home"] == "here"
    assert facts["pid"] == facts["session"] == process.pid
    assert facts["stdin"] == "/dev/null"
    assert facts["loaded_by"] == server.process.pid, "its modules were loaded once, in the server"


def test_it_has_no_socket_of_the_server(server: _Server) -> None:
    """A copy of a neighbour's connection would hide the neighbour's end."""
    first, _ = server.start("wait")
    second, output = server.start("wait")
    descriptors = _said(output)["descriptors"]
    assert isinstance(descriptors, list)
    assert [d for d in descriptors if Path(f"/proc/{second.pid}/fd/{d}").is_symlink()] == [0, 1, 2]
    for process in (first, second):
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(HANG) == -signal.SIGKILL


def test_its_command_line_and_its_environment_are_found_from_outside(server: _Server) -> None:
    process, output = server.start("wait")
    _said(output)
    seen = psutil.Process(process.pid)
    assert " ".join(seen.cmdline()).strip() == f"{sys.executable} -m program wait"
    assert seen.environ()["MARKED"] == "here"
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANG) == -signal.SIGTERM


def test_an_exception_is_in_its_own_output(server: _Server) -> None:
    process, output = server.start("fail")
    assert process.wait(HANG) == 1
    assert "LookupError: no such thing" in output.read_text()


def test_what_it_forked_ends_with_it(server: _Server) -> None:
    process, output = server.start("wait")
    _said(output)
    server.process.kill()
    assert process.wait(HANG) == -signal.SIGKILL
    _until(lambda: not psutil.pid_exists(process.pid) or psutil.Process(process.pid).status() == "zombie")
    with pytest.raises(ServiceError, match="does not answer"):
        server.start("wait")


@pytest.mark.parametrize("text", [b"", b"no JSON", b"{}", b'{"command": ["program", "exit"], "death_signal": 9}'])
def test_a_request_that_is_none_is_refused(text: bytes, server: _Server) -> None:
    """The last one is without a descriptor for its output."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(HANG)
        stranger.connect(str(server.socket))
        stranger.sendall(text)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(100) == b""
    assert server.start("exit")[0].wait(HANG) == 7


def test_the_descriptor_of_a_refused_request_is_closed(server: _Server) -> None:
    def opened() -> int:
        return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))

    before = opened()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(HANG)
        stranger.connect(str(server.socket))
        socket.send_fds(stranger, [b"no JSON"], [1])
        assert stranger.recv(100) == b""
    assert opened() == before


def test_definitions_that_do_not_load_do_not_stop_it(folder: Path) -> None:
    server = _Server(folder, "no_such_module")
    try:
        assert server.start("exit")[0].wait(HANG) == 7
        assert "no_such_module is not shared" in (folder / "fork-server.log").read_text()
    finally:
        server.close()


def test_services_of_a_fork_server_that_died_start_again_with_another(folder: Path) -> None:
    path = folder / "fork-server.sock"
    environment = {"PYTHONPATH": str(folder), "MARKED": "here"}
    module = "quel_dagster.services.fork_server"
    services = [
        _service("server", module, str(path), "toys", ready=lambda _log: accepts(path), environment=environment),
        _service(
            "program", "program", "wait", needs=("server",), fork_server=path, ready=lambda log: "\n" in log.text()
        ),
    ]
    supervisor = Supervisor(services, home=folder, logs=folder / "logs", echo=lambda _line: None, restart=True)
    supervisor.start()
    try:
        before = supervisor.pids()
        assert psutil.Process(before["program"]).ppid() == before["server"]
        os.kill(before["server"], signal.SIGKILL)
        _until(lambda: not set(before.values()) & set(supervisor.pids().values()) and len(supervisor.pids()) == 2)
        _until(lambda: supervisor.state("program") == "ready")
        assert psutil.Process(supervisor.pids()["program"]).ppid() == supervisor.pids()["server"]
    finally:
        supervisor.stop()
    assert supervisor.pids() == {}


def _has_said(log: LogTail) -> bool:
    return "\n" in log.text()


def _service(name: str, module: str, *arguments: str, **more: object) -> Service:
    command: Sequence[str] = [sys.executable, "-m", module, *arguments]
    return Service(name=name, command=command, **more)  # type: ignore[arg-type]
