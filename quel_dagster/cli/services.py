"""`quel up`, `quel demo`, `quel env`: the services of a home."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quel_dagster.cli import connection
from quel_dagster.cli.output import PIPED_WIDTH, AsJson, console, print_json, say
from quel_dagster.settings import Settings


def up(
    port: Annotated[int, typer.Option(help="Port of the web UI on 127.0.0.1; 0 takes a free one.")] = 3000,
) -> None:
    """Run every service in the foreground; Ctrl-C stops them, the data stay in QUEL_HOME.

    A part whose URL is in the environment (DATABASE_URL, REDIS_URL, GEMINI_BASE_URL, …) is used, not started.
    """
    from quel_dagster.sandbox.services import run_up  # noqa: PLC0415  brings the servers of the sandbox extra

    raise typer.Exit(run_up(Settings.read(), port=port, echo=say))


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the gallery and the contact sheet.")] = Path("output"),
) -> None:
    """Make sample jobs of every kind on embedded services, from nothing, and check every row they leave."""
    from quel_dagster.sandbox.demo import forget_demo, run_demo  # noqa: PLC0415  brings the sandbox extra

    settings = Settings.read()
    forget_demo(settings)
    # in a file or a pipe, a table is as wide as its links
    shown = console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
    raise typer.Exit(run_demo(settings, output=output, console=shown))


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
        print_json(endpoints.environment())
    else:
        say(endpoints.shell_exports())
