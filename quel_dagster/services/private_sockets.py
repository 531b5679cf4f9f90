"""Unix sockets that only their owner can open.

gRPC has no login and accepts a shutdown request: on a TCP port of the loopback address, every user of the machine
could end the code server. A socket in a folder of mode 0700 is accessible only to its owner.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from quel_dagster.errors import ServiceError

#: bytes of `sun_path` on Linux (108) and macOS (104), with the closing NUL
_LONGEST_PATH = 103
#: gRPC parses a socket's address as a URI, in which other characters have a meaning
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")


def private_socket(home: Path, name: str) -> Path:
    """Return the path of the socket `name` of this home; its folder exists and only this user can enter it.

    The folder is `home`/run, or one below the system's temporary folder if that path is too long for a socket. It is
    the same at every start.

    Raises:
        ServiceError: another user made the folder, or others can enter it.
    """
    folder = home / "run"
    path = str(folder / name)
    if len(os.fsencode(path)) > _LONGEST_PATH or not _PLAIN_PATH.fullmatch(path):
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"quel-{os.geteuid()}-{digest}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ServiceError(f"{folder} is not a folder of this user, so its sockets are not private: remove it.")
    folder.chmod(0o700)
    return folder / name
