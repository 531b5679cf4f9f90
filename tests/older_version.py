"""The oldest version that an installation may be upgraded from, out of this repository's history."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.missing_parts import skip_or_fail

#: the last commit without numbered migrations, in full: an abbreviated id may become ambiguous
OLDER = "edc6fd196e11451597fc1cbcede0bdbb608893ac"
OLDER_SCHEMA = "quel_dagster/adapters/database/schema/quel_dagster.sql"
_REPOSITORY = Path(__file__).parents[1]


def unpack_older_version(folder: Path, *paths: str) -> Path:
    """Write these paths of the older version into `folder` and return it; skip where the history has no such commit."""
    archive = subprocess.run(
        ["git", "-C", str(_REPOSITORY), "archive", OLDER, *(paths or ("quel_dagster",))],
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        skip_or_fail(
            f"commit {OLDER} is not in this repository: a shallow clone (git fetch --unshallow), or an archive"
        )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


@dataclass(frozen=True)
class OlderVersion:
    """The whole older version, with the dependencies of its own lock."""

    tree: Path
    python: str

    @property
    def variables(self) -> dict[str, str]:
        """What makes its interpreter run it."""
        return {"PYTHONPATH": str(self.tree)}


def install_older_version() -> OlderVersion:
    """Install the older version into `build`, once; takes a minute or two, and the package registry."""
    home = _REPOSITORY / "build" / f"version-{OLDER[:7]}"
    found = OlderVersion(tree=home / "tree", python=str(home / "venv" / "bin" / "python"))
    done = home / "installed"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        found.tree.mkdir(parents=True)
        unpack_older_version(found.tree, "quel_dagster", "requirements.lock")
        subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
        pip = (found.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        what = ("--no-deps", "--only-binary", ":all:", "--requirement", str(found.tree / "requirements.lock"))
        subprocess.run([*pip, *what], check=True)
        done.touch()
    return found
