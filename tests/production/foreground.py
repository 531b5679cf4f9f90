"""A command of this or of another version in the foreground, such as `quel up` or `quel worker`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, Queue

from tests.production.servers import HANG_SECONDS


class Foreground:
    """A command in the foreground, and its lines as they come."""

    def __init__(self, *words: str, environment: Mapping[str, str], python: str = sys.executable) -> None:
        """
        Args:
            words: the command line after `quel`.
            environment: all of it but PATH; QUEL_HOME is also the working directory.
            python: of the version to run.
        """
        self.lines: list[str] = []
        self._new: Queue[str | None] = Queue()
        self.process = subprocess.Popen(
            [python, "-m", "quel_dagster.cli.main", *words],
            env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=environment["QUEL_HOME"],
            start_new_session=True,  # Ctrl-C in the terminal of the tests is not for it
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, words: str) -> str:
        """Wait for a line with these words and return it."""
        with suppress(Empty):
            while (line := self._new.get(timeout=2 * HANG_SECONDS)) is not None:
                if words in line:
                    return line
        raise AssertionError(f"it ended, or printed nothing for a while, before {words!r}:\n" + "\n".join(self.lines))

    def kill(self) -> None:
        """End it without a word to it; the kernel ends its processes."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(2 * HANG_SECONDS)
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip())
                self._new.put(line)
        self._new.put(None)


@contextmanager
def foreground(*words: str, environment: Mapping[str, str], python: str = sys.executable) -> Iterator[Foreground]:
    """Run a command in the foreground; ended with the block."""
    made = Foreground(*words, environment=environment, python=python)
    try:
        yield made
    finally:
        made.stop()
