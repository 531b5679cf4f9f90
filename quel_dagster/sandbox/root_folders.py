"""Choose the folders of data and programs for an embedded PostgreSQL that root starts.

PostgreSQL refuses to run as root, so it runs as another user, who needs access to the folders above both. This project
does not change permissions for that: if a folder is closed, the data or a copy of the programs are in ROOT_FOLDER.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

from quel_dagster.errors import ServiceError

ROOT_FOLDER = Path("/var/lib/quel_dagster")


def closed_folder(path: Path) -> Path | None:
    """Return the uppermost folder above `path` that other users cannot pass; None when they reach it."""
    for folder in reversed(path.absolute().parents):
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def data_folder(home: Path) -> Path:
    """Return the data folder of this home: in the home, unless another user cannot reach it there.

    Raises:
        ServiceError: there are data in the home, and a folder above them is closed.
    """
    inside = home / "postgres"
    closed = closed_folder(inside)
    if closed is None:
        return inside
    if inside.exists():
        raise ServiceError(
            f"{closed} is closed to the user that PostgreSQL runs as, and {inside} lies in it: "
            f"chmod o+x {closed}, or move the home, or run as another user than root."
        )
    return ROOT_FOLDER / hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:16] / "postgres"


def reachable_programs(programs: Path, version: str) -> Path:
    """Return these programs' folder, or that of a copy where it is closed to other users.

    Args:
        programs: `<package>/<installation>/bin`, with libraries in the installation and in `<package>.libs`.
        version: of the package; another one is another copy.
    """
    if closed_folder(programs / "postgres") is None:
        return programs
    installation, package = programs.parent, programs.parent.parent
    copy = ROOT_FOLDER / "programs" / version
    if not copy.exists():
        make_folder(copy.parent)
        draft = copy.with_name(f".{version}.{os.getpid()}")
        for part in (installation, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, draft / part.relative_to(package.parent), symlinks=True)
        try:
            draft.rename(copy)
        except OSError:  # another start was faster
            shutil.rmtree(draft)
    return copy / programs.relative_to(package.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, which other users can pass but not list."""
    for each in reversed((folder, *folder.parents)):
        if not each.exists():
            each.mkdir(exist_ok=True)
            each.chmod(0o711)
