"""The `quel` command: parses arguments, calls the library, prints the result.

A command's module is imported only when the command runs (`lazy`).

Exit codes: 0 success; 1 something is wrong or missing; 2 the command line or a setting is invalid.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import typer

from quel_dagster import redaction
from quel_dagster.cli.lazy import Command, LazyGroup, is_raised_by
from quel_dagster.errors import QuelError, SettingsError

_SERVICES, _JOBS, _INSTALLATION, _CARE = "Services", "Jobs", "Installation", "When something is wrong"
_A_JOB = "4d9169aa-0b8c-49b2-aa15-b7d2fd06a92b"

_CLI = "quel_dagster.cli"
COMMANDS = {
    "up": Command(
        f"{_CLI}.services:up",
        "Run every service in the foreground; Ctrl-C stops them, the data stay in QUEL_HOME.",
        _SERVICES,
        ("quel up", "QUEL_HOME=/var/lib/quel quel up --port 8080"),
    ),
    "worker": Command(
        f"{_CLI}.services:worker",
        "Make pictures for a `quel up` on another machine, until Ctrl-C or SIGTERM.",
        _SERVICES,
        ("quel worker", "QUEL_WORKER_PROCESSES=4 quel worker"),
    ),
    "demo": Command(
        f"{_CLI}.services:demo",
        "Make sample jobs of every kind on embedded services, from nothing, and check every row they leave.",
        _SERVICES,
        ("quel demo", "quel demo --output /tmp/pictures"),
    ),
    "env": Command(
        f"{_CLI}.services:env",
        'Print the environment of the installation, passwords included, for eval "$(quel env)".',
        _SERVICES,
        ('eval "$(quel env)"',),
    ),
    "metrics": Command(
        f"{_CLI}.services:metrics",
        "Serve metrics for Prometheus in the foreground until Ctrl-C or SIGTERM; see docs/metrics.md.",
        _SERVICES,
        ("quel metrics --port 9464",),
    ),
    "submit": Command(
        f"{_CLI}.submitting:submit",
        "Insert a production and its job as the web app does, push the job's id, and print it.",
        _JOBS,
        (
            "quel submit job.json",
            "quel submit docs/examples/fashion.json --reference model=photo.jpg --reference top=shirt.png",
            "quel submit - <<'END'",
            '{"job_type": "simple_general", "total_images": 2, "quel_production_path": "fashion",',
            ' "job_input_data": {"prompt": "A red coat in the rain"}}',
            "END",
        ),
    ),
    "plan": Command(
        f"{_CLI}.planning:plan",
        "Show what a job file would make: units, requests to Gemini, and credits.",
        _JOBS,
        ("quel plan job.json", "quel plan docs/examples/fashion.json --reference model=photo.jpg"),
    ),
    "enqueue": Command(
        f"{_CLI}.submitting:enqueue",
        "Push job ids unchecked onto jobs:again.",
        _JOBS,
        (f"quel enqueue {_A_JOB}", "quel enqueue 4d9169aa --why 'the queue was lost'"),
    ),
    "status": Command(
        f"{_CLI}.status:status",
        "Show the progress of jobs: state, pictures, credits and runs.",
        _JOBS,
        (
            f"quel status {_A_JOB}",
            "quel status 4d9169aa",
            "quel status --watch $(quel submit job.json)",
            f"quel status --json {_A_JOB}",
        ),
    ),
    "list": Command(
        f"{_CLI}.listing:list_jobs",
        "List jobs, newest first.",
        _JOBS,
        (
            "quel list --open",
            "quel list --since 24h --status failed --status cancelled",
            "quel list --category beauty --limit 100 --json | jq -r '.[].job_id'",
        ),
    ),
    "show": Command(
        f"{_CLI}.show:show",
        "Show everything about one job, and what to do next.",
        _JOBS,
        (f"quel show {_A_JOB}", f"quel show {_A_JOB} --json"),
    ),
    "member": Command(
        f"{_CLI}.member:member",
        "Show a member's balance, organizations, jobs, pictures, and ledger.",
        _JOBS,
        ("quel member mina@example.com", "quel member mina --since 30d --json"),
    ),
    "gallery": Command(
        f"{_CLI}.gallery:gallery",
        "Write the pictures of jobs, or of a day, into one HTML file that needs no network and no other file.",
        _JOBS,
        (f"quel gallery {_A_JOB}", "quel gallery --since 24h --output today.html"),
    ),
    "stats": Command(
        f"{_CLI}.stats:stats",
        "Show the state of the installation: queue, work, pace, failures by reason, waiting times, cost.",
        _INSTALLATION,
        ("quel stats", "quel stats --since 1h --json"),
    ),
    "pause": Command(
        f"{_CLI}.intake:pause",
        "Pause the intake: running jobs continue, no new job begins until `quel resume`.",
        _INSTALLATION,
        ("quel pause --reason 'object store is being moved'",),
    ),
    "resume": Command(
        f"{_CLI}.intake:resume",
        "Begin new jobs again, after `quel pause`.",
        _INSTALLATION,
        ("quel resume",),
    ),
    "doctor": Command(
        f"{_CLI}.doctor.command:doctor",
        "Check every outside part, one line each, with what to do about it.",
        _CARE,
        ("quel doctor", "quel doctor --json", "quel doctor --moving older.env"),
    ),
    "migrate": Command(
        f"{_CLI}.migrate:migrate",
        "Apply the missing migrations of schema quel_dagster, as the user of DATABASE_URL.",
        _INSTALLATION,
        ("quel migrate --check", "DATABASE_URL=postgresql://owner@db/app quel migrate --grant-to quel_worker"),
    ),
    "cancel": Command(
        f"{_CLI}.acting:cancel",
        "Cancel jobs as an operator: they end cancelled, with your name and --why as their error message.",
        _CARE,
        (f"quel cancel {_A_JOB}", "quel cancel --status pending --member mina@example.com --dry-run"),
    ),
    "retry": Command(
        f"{_CLI}.acting:retry",
        "Push ended or stranded jobs again.",
        _CARE,
        (
            f"quel retry {_A_JOB}",
            "quel retry --status failed --status partial --since 1h --dry-run",
            "quel retry --status failed --reason overloaded --since 24h",
        ),
    ),
    "refund": Command(
        f"{_CLI}.acting:refund",
        "Refund credits: of one picture, or of every charged picture of a job.",
        _CARE,
        (
            "quel refund 39100 --reason 'two thumbs on one hand'",
            f"quel refund {_A_JOB} --reason 'wrong dress' --as mina",
        ),
    ),
    "dead": Command(
        f"{_CLI}.dead:app",
        "Handle dead letters: entries of jobs:queue that could not become a run, or jobs that were given up.",
        _CARE,
    ),
    "audit": Command(
        f"{_CLI}.audit:audit",
        "Check the invariants I1 to I14 over PostgreSQL, Redis, the object store and Dagster.",
        _CARE,
        ("quel audit", "quel audit --since 24h --sample 500", f"quel audit {_A_JOB}", "quel audit --json"),
    ),
}

_is_redis_error = is_raised_by("redis", "RedisError")


class QuelCommands(LazyGroup):
    """Prints an error of this project as one line on stderr."""

    table: ClassVar[Mapping[str, Command]] = COMMANDS

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except QuelError as error:
            _fail(error)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            if not _is_redis_error(error):
                raise
            from quel_dagster.adapters.redis_connection import unreachable  # noqa: PLC0415  redis is imported by now

            _fail(unreachable(error))  # type: ignore[arg-type]


def _fail(error: QuelError) -> None:
    from quel_dagster.cli.output import fail  # noqa: PLC0415  brings pydantic

    fail(error, 2 if isinstance(error, SettingsError) else 1)


app = typer.Typer(
    name="quel",
    cls=QuelCommands,
    help="Turns the image jobs of the Quel web app into pictures, as Dagster runs.",
    epilog="Systems are found by the environment, or by the `quel up` that runs on QUEL_HOME.\n\n"
    "Exit codes: 0 success; 1 something is wrong or missing; 2 the command line or a setting is invalid. "
    "For Tab completion: quel --install-completion",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        sys.stdout.write(f"quel {version('quel_dagster')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options of `quel` itself."""


def main() -> None:
    """Run the command line."""
    redaction.install()
    app()


if __name__ == "__main__":
    main()
