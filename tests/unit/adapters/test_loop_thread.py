"""A process with a loop thread ends when its main thread does."""

from __future__ import annotations

import subprocess
import sys

import pytest

HANG_SECONDS = 30

_OPEN_LOOP = """
from quel_dagster.adapters.loop_thread import LoopThread
async def say(word):
    print(word, flush=True)
thread = LoopThread("here", before_end=lambda: say("closed"))
thread.run(lambda: say("ran"))
"""
_OPEN_DATABASE = """
from quel_dagster.adapters.database.process import DatabaseProcess
async def work(_database):
    print("ran", flush=True)
DatabaseProcess.current("postgresql://u@127.0.0.1:9/d").run(work)
"""
_FORKS = """
import os
child = os.fork()
if child == 0:
    thread.close()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def _output(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_SECONDS,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (_OPEN_LOOP, ["ran", "closed"]),
        (_OPEN_LOOP + "thread.close(); thread.close()", ["ran", "closed"]),
        (_OPEN_LOOP + "raise SystemExit", ["ran", "closed"]),
        (_OPEN_LOOP + _FORKS, ["ran", "7", "closed"]),
        (_OPEN_DATABASE, ["ran"]),
    ],
    ids=["left open", "closed", "exit", "forked", "database"],
)
def test_process_that_used_a_loop_thread_ends(program: str, printed: list[str]) -> None:
    """The code server left its database open, and did not end at SIGTERM once it had read a job."""
    assert _output(program) == printed
