"""Fork Python services from one process that has loaded their modules, so that they share that memory.

    python -m quel_dagster.services.fork_server SOCKET DEFINITIONS MODULE…

A request on the Unix socket is one JSON object with the command line of a module, and the file descriptor for its
output. The answers on the same connection are `{"pid": …}`, and `{"status": …}` once that process has ended. A forked
process executes the module as `python -m` does, with the environment and the working directory of this one.

It has one thread and opens no connection but the socket's: only then a fork is safe, and only memory crosses it. A
page stays shared until a process writes to it, so what was loaded is hidden from the garbage collector.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import setproctitle
from pydantic import BaseModel

from quel_dagster.platform import preload
from quel_dagster.services.tether import PR_SET_PDEATHSIG

#: bytes of the longest request, and seconds that its sender has
REQUEST_BYTES, REQUEST_SECONDS = 65_536, 5.0

_log = logging.getLogger(__name__)


class Request(BaseModel):
    """Asks for a process: the arguments of its `python -m`, and the signal for it when the server ends."""

    command: list[str]
    death_signal: int


def load(definitions: str, modules: Sequence[str]) -> None:
    """Load what the services share; a process that needs definitions which do not load says why."""
    try:
        preload.load(definitions)
    except Exception:  # noqa: BLE001  their code may raise anything
        _log.exception("%s is not shared: it does not load", definitions)
    for name in modules:
        import_module(name)
    preload.freeze()


class ForkServer:
    """Answers requests on a Unix socket.

    Args:
        path: of the socket; an earlier one there is removed. Its folder must be private (`private_sockets`).
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._woken, wakes = socket.socketpair()
        self._sockets = [self._listener, self._woken, wakes]
        for each in (self._woken, wakes):
            each.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        #: who asked for a process, by its id
        self._children: dict[int, socket.socket] = {}

    def serve(self) -> list[str]:
        """Answer requests; return only in a forked process, with the arguments of its `python -m`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        self._woken.recv(REQUEST_BYTES)
                        self._report_ends()
                    elif command := self._answer():
                        return command

    def _answer(self) -> list[str] | None:
        """Fork for the next request; return its command line in the forked process."""
        asker = self._listener.accept()[0]
        asker.settimeout(REQUEST_SECONDS)
        descriptors: list[int] = []
        try:
            text, descriptors, _, _ = socket.recv_fds(asker, REQUEST_BYTES, 1)
            request = Request.model_validate_json(text)
            output = descriptors[0]
        except (OSError, ValueError, IndexError):  # also a probe whether the server listens
            for each in descriptors:
                os.close(each)
            asker.close()
            return None
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(parent, output, request.death_signal)
            asker.close()
            return request.command
        os.close(output)
        self._children[pid] = asker
        _tell(asker, pid=pid)
        return None

    def _become(self, parent: int, output: int, death_signal: int) -> None:
        """Turn this forked process into an own session that ends with the server and writes to `output`."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (*self._sockets, *self._children.values()):
            each.close()
        os.setsid()
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it ended before the signal was requested
            os._exit(1)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)

    def _report_ends(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            asker = self._children.pop(pid)
            _tell(asker, status=os.waitstatus_to_exitcode(status))
            asker.close()


def _tell(asker: socket.socket, **fact: int) -> None:
    with suppress(OSError):  # it has gone, and with it its interest
        asker.sendall(json.dumps(fact).encode() + b"\n")


def main() -> None:
    path, definitions, *modules = sys.argv[1:]
    load(definitions, modules)
    command = ForkServer(Path(path)).serve()
    module, *_ = sys.argv = command
    setproctitle.setproctitle(" ".join([sys.executable, "-m", *command]))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
