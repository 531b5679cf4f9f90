"""The acting operator: `--as`, else QUEL_OPERATOR, else the user of the shell."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from typing import Annotated
from uuid import UUID

import typer

from quel_dagster.adapters.database import actions
from quel_dagster.adapters.database.actions import Actor
from quel_dagster.cli import connection
from quel_dagster.errors import QuelError
from quel_dagster.settings import Settings

As = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Your name, for the action log; default: QUEL_OPERATOR, then $USER."),
]

Why = Annotated[str | None, typer.Option("--why", metavar="TEXT", help="The reason, for the action log.")]


def actor_of(given: str | None) -> str:
    """Return the operator's name, one line of at most 100 characters."""
    name = given or os.environ.get("QUEL_OPERATOR") or _shell_user()
    return " ".join(name.split())[:100] or "unknown"


def _shell_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container user without a name
        return f"uid {os.getuid()}"


def record(
    settings: Settings,
    name: str,
    action: str,
    *,
    reason: str | None = None,
    said: str = "",
    job_id: UUID | None = None,
    subject: str | None = None,
) -> None:
    """Write the action log. Changes in Redis stay also while PostgreSQL is unreachable; stderr reports it."""

    async def write() -> None:
        actor = Actor(name=name, via="cli", reason=reason)
        async with connection.database(settings) as database:
            await actions.record(database, actor, action, said=said, job_id=job_id, subject=subject)

    try:
        asyncio.run(write())
    except QuelError as error:
        sys.stderr.write(f"quel: done, but not written into the action log: {error}\n")
