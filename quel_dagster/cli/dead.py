"""`quel dead`: the entries of jobs:dead, which could not become a run or were given up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from quel_dagster.adapters.database.records import JobDescription
from quel_dagster.adapters.queue import JobQueue
from quel_dagster.adapters.queue_entries import DeadLetter
from quel_dagster.cli import connection
from quel_dagster.cli.actor import As, actor_of, record
from quel_dagster.cli.lazy import examples
from quel_dagster.cli.output import AsJson, print_facts, print_json, print_table, print_text, printable
from quel_dagster.console.words import ago, at, plural
from quel_dagster.errors import QuelError
from quel_dagster.settings import Settings

#: minimum length of a name's prefix
_SHORTEST_NAME = 4

#: the rows of the jobs of some letters
Rows = Mapping[UUID, JobDescription]

app = typer.Typer(
    no_args_is_help=True,
    help="Handle dead letters: entries of jobs:queue that could not become a run, or jobs that were given up.",
    epilog=examples("quel dead list", "quel dead requeue 3f2a9c81b0", "quel dead drop --all --yes"),
)

Names = Annotated[
    list[str] | None, typer.Argument(metavar="NAME…", help="Names of letters as listed, or the job ids in them.")
]
EveryOne = Annotated[bool, typer.Option("--all", help="Every letter.")]


@app.command(name="list", epilog=examples("quel dead list", "quel dead list --limit 100 --json"))
def list_letters(
    limit: Annotated[int, typer.Option(min=1, help="Maximum of letters.")] = 20, as_json: AsJson = False
) -> None:
    """List dead letters, newest first."""
    with connection.queue(connection.connect()) as queue:
        letters = queue.letters()
    if as_json:
        print_json([_as_data(letter) for letter in letters[:limit]])
        return
    if not letters:
        print_text("jobs:dead is empty.")
        return
    print_table(
        ("NAME", ">AGE", ">BYTES", "ENTRY", "~REASON"),
        (
            (letter.name, ago(_moment(letter)), letter.length, _entry(letter), letter.reason)
            for letter in letters[:limit]
        ),
    )
    if len(letters) > limit:
        print_text(f"\n{plural(len(letters), 'letter')} in all; see --limit.")


@app.command(epilog=examples("quel dead show 3f2a9c81b0"))
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a letter as listed, or the job id in it.")],
    as_json: AsJson = False,
) -> None:
    """Show a dead letter: its entry, why it is dead, and what can be done."""
    settings = connection.connect()
    with connection.queue(settings) as queue:
        letters = _named(queue.letters(), [name])
    existing = asyncio.run(_existing_jobs(settings, letters))
    if as_json:
        print_json([{**_as_data(letter), "can_be_requeued": _why_not(letter, existing) is None} for letter in letters])
        return
    for letter in letters:
        moment = _moment(letter)
        print_facts(
            (
                ("name", letter.name),
                ("reason", letter.reason),
                ("since", f"{at(moment)} ({ago(moment)} ago)" if moment else None),
                ("entry", printable(letter.value) if letter.value is not None else "not kept: it was too long"),
                ("length", plural(letter.length, "byte")),
                ("sha256", letter.sha256),
                ("next", _next(letter, existing)),
            )
        )


@app.command(epilog=examples("quel dead requeue 3f2a9c81b0", "quel dead requeue --all"))
def requeue(names: Names = None, everyone: EveryOne = False, who: As = None, as_json: AsJson = False) -> None:
    """Push letters onto jobs:again: those that kept their entry, with a job id that has a row.

    Others would become dead letters again; exit code 1 when there was one.
    """
    settings = connection.connect()
    with connection.queue(settings) as queue:
        letters = _chosen(queue, names, everyone=everyone)
        existing = asyncio.run(_existing_jobs(settings, letters))
        done: list[dict[str, Any]] = []
        pushed: set[UUID] = set()
        for letter in letters:
            reason = _why_not(letter, existing)
            if reason is None and letter.job_id is not None:
                # two letters of one job: one entry in the queue is enough
                moved = queue.drop(letter) if letter.job_id in pushed else queue.requeue(letter)
                pushed.add(letter.job_id)
                reason = None if moved else "another program has removed it meanwhile"
            done.append({"name": letter.name, "job_id": letter.job_id, "requeued": reason is None, "why_not": reason})
    asyncio.run(_forget_recoveries(settings, pushed))
    for outcome in done:
        if outcome["requeued"]:
            record(settings, actor_of(who), "dead requeue", job_id=outcome["job_id"], subject=outcome["name"])
    if as_json:
        print_json(done)
    else:
        for outcome in done:
            print_text(
                f"{outcome['name']}: {outcome['job_id']} is in jobs:again"
                if outcome["requeued"]
                else f"{outcome['name']}: stays, {outcome['why_not']}"
            )
        if not done:
            print_text("jobs:dead is empty.")
    if not all(outcome["requeued"] for outcome in done):
        raise typer.Exit(1)


@app.command(epilog=examples("quel dead drop 3f2a9c81b0", "quel dead drop --all --yes"))
def drop(
    names: Names = None,
    everyone: EveryOne = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    who: As = None,
    as_json: AsJson = False,
) -> None:
    """Delete letters permanently. The rows of their jobs stay as they are."""
    settings = connection.connect()
    with connection.queue(settings) as queue:
        letters = _chosen(queue, names, everyone=everyone)
        if letters and not yes:
            typer.confirm(f"Delete {plural(len(letters), 'dead letter')} permanently?", abort=True, err=True)
        removed = [letter for letter in letters if queue.drop(letter)]
    for letter in removed:
        record(settings, actor_of(who), "dead drop", job_id=letter.job_id, subject=letter.name, said=letter.reason)
    dropped = [letter.name for letter in removed]
    if as_json:
        print_json({"dropped": dropped})
    else:
        print_text(f"{plural(len(dropped), 'dead letter')} dropped.")


def _chosen(queue: JobQueue, names: Sequence[str] | None, *, everyone: bool) -> list[DeadLetter]:
    """Return the chosen letters. Raises BadParameter unless either names or --all are given."""
    if bool(names) == everyone:
        raise typer.BadParameter("name the letters, or give --all.")
    letters = queue.letters()
    return letters if everyone else _named(letters, names or ())


def _named(letters: Sequence[DeadLetter], names: Sequence[str]) -> list[DeadLetter]:
    """Return the named letters, in the order of the list.

    Raises:
        QuelError: a name matches none, or letters about different things.
    """
    meant: set[str] = set()
    for name in names:
        text = name.strip().lower()
        found = [
            letter
            for letter in letters
            if (len(text) >= _SHORTEST_NAME and letter.name.startswith(text)) or str(letter.job_id) == text
        ]
        if not found:
            raise QuelError(f"No dead letter is named {printable(name)!r}; see `quel dead list`.")
        if len(found) > 1 and not all(str(letter.job_id) == text for letter in found):
            raise QuelError(f"{printable(name)!r} begins the names of {len(found)} dead letters; give more of it.")
        meant.update(letter.name for letter in found)
    return [letter for letter in letters if letter.name in meant]


async def _existing_jobs(settings: Settings, letters: Sequence[DeadLetter]) -> Rows:
    wanted = [letter.job_id for letter in letters if letter.job_id is not None]
    if not wanted:
        return {}
    async with connection.database(settings) as database:
        return await database.recovery.describe_jobs(wanted)


async def _forget_recoveries(settings: Settings, job_ids: set[UUID]) -> None:
    """Reset the recovery count of these jobs, so that the sweep treats them as new ones."""
    if job_ids:
        async with connection.database(settings) as database:
            for job_id in job_ids:
                await database.recovery.forget_recoveries(job_id)


def _why_not(letter: DeadLetter, existing: Rows) -> str | None:
    """Return why a letter cannot go back to the queue; None when it can."""
    if letter.value is None:
        return "its entry was too long to keep"
    if letter.job_id is None:
        return "its entry is not a job id"
    if letter.job_id not in existing:
        return f"job {letter.job_id} has no row in quel_production_jobs"
    kind = existing[letter.job_id].foreign_kind
    return f"it is a {kind.reason}" if kind else None


def _next(letter: DeadLetter, existing: Rows) -> str:
    reason = _why_not(letter, existing)
    if reason is not None:
        return f"{reason}. To delete it: quel dead drop {letter.name}"
    return f"quel show {letter.job_id}, then quel dead requeue {letter.name}"


def _entry(letter: DeadLetter) -> str:
    if letter.value is None:
        return "(not kept)"
    shown = printable(letter.value)
    return shown if len(shown) <= 40 else shown[:39] + "…"


def _moment(letter: DeadLetter) -> datetime | None:
    return datetime.fromtimestamp(letter.at, UTC) if letter.at else None


def _as_data(letter: DeadLetter) -> dict[str, Any]:
    return {
        "name": letter.name,
        "reason": letter.reason,
        "at": _moment(letter),
        "length": letter.length,
        "sha256": letter.sha256,
        "value": None if letter.value is None else printable(letter.value),
        "job_id": letter.job_id,
    }
