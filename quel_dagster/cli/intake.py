"""`quel pause`, `quel resume`: stop and start the intake of new jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from quel_dagster.adapters.intake import pause_intake, resume_intake
from quel_dagster.cli import connection
from quel_dagster.cli.actor import As, actor_of, record
from quel_dagster.cli.output import AsJson, print_json, print_text, printable
from quel_dagster.errors import QuelError


def pause(
    reason: Annotated[str, typer.Option(help="The reason, shown by doctor, stats, the sensor and the page.")],
    who: As = None,
    as_json: AsJson = False,
) -> None:
    """Pause the intake: running jobs continue, no new job begins until `quel resume`.

    Ids stay in jobs:queue in their order, and users can still submit and cancel. Runs that have begun are not stopped.
    """
    settings = connection.connect()
    actor = actor_of(who)
    with connection.queue(settings) as queue:
        paused = pause_intake(queue.client, reason, by=actor)
    record(settings, actor, "pause", reason=reason, said=str(paused))
    if as_json:
        print_json({"reason": paused.reason, "since": paused.since, "by": paused.by})
        return
    print_text(f"{printable(str(paused))}. To resume: quel resume")


def resume(who: As = None, as_json: AsJson = False) -> None:
    """Begin new jobs again, after `quel pause`.

    A pause because of an overloaded Gemini stays: it ends by itself when a probe succeeds.
    """
    settings = connection.connect()
    with connection.queue(settings) as queue:
        ended = resume_intake(queue.client)
    if ended is not None:
        record(settings, actor_of(who), "resume", said=f"was paused by {ended.by}: {ended.reason}")
    if as_json:
        print_json({"was_paused": ended is not None, "reason": ended.reason if ended else None})
        return
    if ended is None:
        raise QuelError("The intake was not paused by an operator; `quel stats` shows its state.")
    print_text(f"The intake is open again; it was paused by {printable(f'{ended.by}: {ended.reason}')}")
