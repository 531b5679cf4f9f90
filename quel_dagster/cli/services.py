"""`quel up`, `quel worker`, `quel demo`, `quel env`, `quel metrics`: the services of a home."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quel_dagster.cli import connection
from quel_dagster.cli.output import PIPED_WIDTH, AsJson, console, print_json, say
from quel_dagster.settings import Settings

AsJsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def up(
    port: Annotated[int, typer.Option(help="Port of the web UI; 0 takes a free one.")] = 3000,
    address: Annotated[
        str, typer.Option(help="Address of the web UI. It has no login: see Security in docs/operations.md.")
    ] = "127.0.0.1",
    workers: Annotated[
        bool,
        typer.Option("--workers/--no-workers", help="Make pictures here, or leave that to `quel worker` elsewhere."),
    ] = True,
    as_json: AsJsonLines = False,
) -> None:
    """Run every service in the foreground; Ctrl-C stops them, the data stay in QUEL_HOME.

    A part whose URL is in the environment (DATABASE_URL, REDIS_URL, GEMINI_BASE_URL, …) is used, not started.
    """
    from quel_dagster.sandbox.services import run_up  # noqa: PLC0415  brings the servers of the sandbox extra

    raise typer.Exit(run_up(Settings.read(), port=port, address=address, workers=workers, echo=_echo(as_json)))


def worker(as_json: AsJsonLines = False) -> None:
    """Make pictures for a `quel up` on another machine, QUEL_WORKERS runs at a time, until Ctrl-C or SIGTERM.

    Needs this package and the URLs of that installation, nothing else of it: docs/scaling.md.
    """
    from quel_dagster.sandbox.services import run_worker  # noqa: PLC0415  brings Dagster, which takes a second

    raise typer.Exit(run_worker(Settings.read(), echo=_echo(as_json)))


def _echo(as_json: bool) -> Callable[[str], None]:
    return (lambda line: say(json.dumps({"event": line}, ensure_ascii=False))) if as_json else say


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the gallery and the contact sheet.")] = Path("output"),
    as_json: AsJson = False,
) -> None:
    """Make sample jobs of every kind on embedded services, from nothing, and check every row they leave."""
    from quel_dagster.sandbox.demo import forget_demo, run_demo  # noqa: PLC0415  brings the sandbox extra

    settings = Settings.read()
    forget_demo(settings)
    # in a file or a pipe, a table is as wide as its links
    shown = console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
    if as_json:  # what happens is told on stderr, what came of it on stdout
        shown = Console(stderr=True, highlight=False)
    result = run_demo(settings, output=output, console=shown)
    if as_json:
        print_json({"jobs": result.jobs, "problems": result.problems, "output": str(output)})
    raise typer.Exit(1 if result.problems else 0)


def metrics(
    port: Annotated[int, typer.Option(help="Port to answer GET /metrics on.")] = 9464,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Answer Prometheus' scrapes in the foreground until Ctrl-C or SIGTERM; docs/metrics.md says what is told."""
    from quel_dagster.pipeline.metrics import serve  # noqa: PLC0415  brings Dagster, which takes a second

    settings = connection.connect()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before the server's thread, which inherits it
    stop = serve(settings, port=port, address=address)
    say(f"Metrics at http://{address}:{port}/metrics  (Ctrl-C stops it)")
    signal.sigwait(ends)
    stop()


def env(as_json: AsJson = False) -> None:
    """Print the environment of the running `quel up`, passwords included, for eval "$(quel env)"."""
    from quel_dagster.sandbox.endpoints import running_endpoints  # noqa: PLC0415

    endpoints = running_endpoints(Settings.read())
    if as_json:
        print_json(endpoints.environment(), secrets=True)
    else:
        say(endpoints.shell_exports(), secrets=True)
