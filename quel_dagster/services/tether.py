"""Exec a command that must not outlive the thread that started it.

Run as a script before the real command, so that no code of this package runs between fork and exec of a process
with many threads, and so that dropping root and requesting the death signal happen in the one order the
kernel keeps (a change of user clears the signal). Only the standard library: this adds about 20 ms.

    python -I -S tether.py SIGNAL PARENT_PID USER COMMAND [ARGUMENT…]      USER may be empty
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Drop to USER, request SIGNAL at the end of the starter, and become COMMAND."""
    death_signal, parent, user, *command = arguments
    # A shell without job control starts `quel demo &` with SIGINT ignored, which children inherit: Dagster's code
    # server handles SIGTERM as SIGINT, and would ignore both.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # loaded first: another user may not be able to read this interpreter's library
    libc = ctypes.CDLL(None)
    if user:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ["HOME"] = entry.pw_dir
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != int(parent):  # it ended before the signal was requested
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
