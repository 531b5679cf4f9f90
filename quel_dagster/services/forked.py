"""Ask the fork server for a process, and watch that process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from quel_dagster.errors import ServiceError

_ANSWER_SECONDS = 10.0


class ForkedProcess:
    """A child of the fork server, with what `subprocess.Popen` offers for an own child.

    Args:
        server: the Unix socket of the fork server.
        command: the arguments of `python -m`.
        output: file descriptor of its output; stays open here.
        death_signal: sent by the kernel when the fork server has ended.

    Raises:
        ServiceError: the fork server does not answer.
    """

    def __init__(self, server: Path, command: Sequence[str], *, output: int, death_signal: signal.Signals) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._answers = self._connection.makefile("r")
        try:
            self._connection.settimeout(_ANSWER_SECONDS)
            self._connection.connect(str(server))
            request = json.dumps({"command": command, "death_signal": death_signal})
            socket.send_fds(self._connection, [request.encode()], [output])
            self.pid: int = json.loads(self._answers.readline())["pid"]
        except (OSError, ValueError) as error:
            self._answers.close()
            self._connection.close()
            raise ServiceError(f"The fork server at {server} does not answer ({type(error).__name__}).") from error
        self._connection.settimeout(None)
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._await_end, name=f"end of {self.pid}", daemon=True).start()

    def poll(self) -> int | None:
        """Return the exit code, or None while the process lives."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended.

        Raises:
            subprocess.TimeoutExpired: it still lives after `timeout` seconds.
        """
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _await_end(self) -> None:
        with self._connection, self._answers:
            line = self._answers.readline()
        # without an answer the fork server has ended, and the kernel has killed what it forked
        self.returncode = json.loads(line)["status"] if line else -signal.SIGKILL
        self._ended.set()
