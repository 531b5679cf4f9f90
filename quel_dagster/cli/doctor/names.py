"""Find environment variables that are not read but resemble one that is."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator

from dotenv import dotenv_values

from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.settings import Settings

#: read elsewhere than in the settings
ALSO_READ = frozenset(
    {
        "DAGSTER_HOME",
        "DAGSTER_POSTGRES_URL",
        "CELERY_BROKER_URL",
        "CELERY_RESULT_BACKEND",
        "QUEL_CODE_SERVER_SOCKET",
        "QUEL_SUPERVISED_HOME",
        "QUEL_OPERATOR",
    }
)
#: similarity from which two names are compared; QUEL_WORKER and QUEL_WORKERS have 0.96
ALIKE = 0.85
#: prefixes that only this project uses
OURS = "QUEL_"

_part = Part("Settings")


def check_names() -> Iterator[Finding]:
    """Yield a warning for each unread variable that was probably meant for this project."""
    given = {*os.environ, *dotenv_values(".env")}
    for name in sorted(given):
        if (meant := meant_by(name, given)) is not None:
            remedy = f"did you mean {meant}?" if meant else "see the table of README.md"
            yield _part.warning(f"{name} is set, but is not read", remedy)


def meant_by(name: str, given: Iterable[str] = ()) -> str | None:
    """Return the name that was probably meant; empty for a name of this project that resembles none; else None."""
    known = {str(field.alias) for field in Settings.model_fields.values() if field.alias} | ALSO_READ
    if name in known:
        return None
    # a name that is set too was not meant
    near = difflib.get_close_matches(name.upper(), known - set(given), n=1, cutoff=ALIKE)
    if near:
        return near[0]
    return "" if name.startswith(OURS) else None
