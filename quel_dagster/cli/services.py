"""`quel up`, `quel worker`, `quel demo`, `quel env`, `quel metrics`: the services of a home."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quel_dagster.cli import connection
from quel_dagster.cli.output import PIPED_WIDTH, AsJson, console, print_json, print_text
from quel_dagster.settings import Settings

AsJsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def parse_path_prefix(text: str) -> str:
    """`/ops`, or empty; a slash at the end is taken off.

    Raises:
        typer.BadParameter: no path.
    """
    path = text.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise typer.BadParameter(f"{text!r:.60} is no path; write it as /ops.")
    return path


def up(
    port: Annotated[int, typer.Option(help="Port of the web UI; 0 takes a free one.")] = 3000,
    address: Annotated[
        str, typer.Option(help="Address of the web UI. It has no login: see Security in docs/operations.md.")
    ] = "127.0.0.1",
    path_prefix: Annotated[
        str,
        typer.Option(
            metavar="/PATH", parser=parse_path_prefix, help="Serve the web UI below this path, for a proxy in front."
        ),
    ] = "",
    workers: Annotated[
        bool,
        typer.Option("--workers/--no-workers", help="Make pictures here, or leave that to `quel worker` elsewhere."),
    ] = True,
    as_json: AsJsonLines = False,
) -> None:
    """Run every service in the foreground; Ctrl-C stops them, the data stay in QUEL_HOME.

    Systems with a URL in the environment (DATABASE_URL, REDIS_URL, GEMINI_BASE_URL, …) are used, not started.
    """
    from quel_dagster.sandbox.embedded import EmbeddedServers  # noqa: PLC0415  imports the servers of the sandbox extra
    from quel_dagster.services.foreground import run_up  # noqa: PLC0415  brings Dagster, which takes a second

    code = run_up(
        Settings.read(),
        embedded=EmbeddedServers(),
        port=port,
        address=address,
        workers=workers,
        path_prefix=path_prefix,
        echo=_echo(as_json),
    )
    raise typer.Exit(code)


def worker(as_json: AsJsonLines = False) -> None:
    """Make pictures for a `quel up` on another machine, until Ctrl-C or SIGTERM.

    Needs only this package and the URLs of that installation: docs/scaling.md.
    """
    from quel_dagster.services.foreground import run_worker  # noqa: PLC0415  brings Dagster, which takes a second

    raise typer.Exit(run_worker(Settings.read(), echo=_echo(as_json)))


def _echo(as_json: bool) -> Callable[[str], None]:
    return (lambda line: print_text(json.dumps({"event": line}))) if as_json else print_text


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
    if as_json:  # progress goes to stderr, the result to stdout
        shown = Console(stderr=True, highlight=False)
    result = run_demo(settings, output=output, console=shown)
    if as_json:
        print_json({"jobs": result.jobs, "problems": result.problems, "output": str(output)})
    raise typer.Exit(1 if result.problems else 0)


def metrics(
    port: Annotated[int, typer.Option(help="Port to answer GET /metrics on.")] = 9464,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve metrics for Prometheus in the foreground until Ctrl-C or SIGTERM; see docs/metrics.md."""
    from quel_dagster.pipeline.metrics import serving  # noqa: PLC0415  brings Dagster, which takes a second

    settings = connection.connect()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before the server's thread, which inherits it
    with connection.dagster() as instance, serving(settings, instance, port=port, address=address):
        print_text(f"Metrics at http://{address}:{port}/metrics  (Ctrl-C stops it)")
        signal.sigwait(ends)


def env(as_json: AsJson = False) -> None:
    """Print the environment of the installation, passwords included, for eval "$(quel env)".

    While no `quel up` runs it has only the URLs of a PostgreSQL and a Redis elsewhere.
    """
    from quel_dagster.services.endpoints import connecting_environment, shell_exports  # noqa: PLC0415

    values = connecting_environment(Settings.read())
    if as_json:
        print_json(values, secrets=True)
    else:
        print_text(shell_exports(values), secrets=True)
