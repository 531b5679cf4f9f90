"""The `quel` command: parses words, calls the library, prints what comes back.

Exit codes: 0 all is well; 1 something is wrong or not there; 2 the command line or a setting cannot be used.
"""

from __future__ import annotations

from typing import Any

import typer
from redis import RedisError
from typer.core import TyperGroup

from quel_dagster import redaction
from quel_dagster.adapters.queue import unreachable
from quel_dagster.cli import acting, audit, dead, gallery, listing, services, show, status, submitting
from quel_dagster.cli.doctor.command import doctor
from quel_dagster.cli.output import examples, fail
from quel_dagster.errors import QuelError, SettingsError

_SERVICES, _JOBS, _CARE = "Services", "Jobs", "When something is wrong"
_A_JOB = "4d9169aa-0b8c-49b2-aa15-b7d2fd06a92b"


class QuelCommands(TyperGroup):
    """An error of ours is one line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            fail(error, 2)
        except QuelError as error:
            fail(error, 1)
        except RedisError as error:
            fail(unreachable(error), 1)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    name="quel",
    cls=QuelCommands,
    help="Turns the image jobs of the Quel web app into pictures, as Dagster runs.",
    epilog="Every part is found by the environment, or by the `quel up` that runs on QUEL_HOME.\n\n"
    "Exit codes: 0 all is well; 1 something is wrong or not there; 2 the command line or a setting cannot be used. "
    "For Tab completion: quel --install-completion",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command(rich_help_panel=_SERVICES, epilog=examples("quel up", "QUEL_HOME=/var/lib/quel quel up --port 8080"))(
    services.up
)
app.command(rich_help_panel=_SERVICES, epilog=examples("QUEL_WORKERS=8 quel worker"))(services.worker)
app.command(rich_help_panel=_SERVICES, epilog=examples("quel demo", "quel demo --output /tmp/pictures"))(services.demo)
app.command(rich_help_panel=_SERVICES, epilog=examples('eval "$(quel env)"'))(services.env)
app.command(rich_help_panel=_SERVICES, epilog=examples("quel metrics --port 9464"))(services.metrics)

app.command(
    rich_help_panel=_JOBS,
    epilog=examples(
        "quel submit job.json",
        "quel submit - <<'END'",
        '{"job_type": "simple_general", "total_images": 2, "quel_production_path": "fashion",',
        ' "job_input_data": {"prompt": "A red coat in the rain"}}',
        "END",
    ),
)(submitting.submit)
app.command(rich_help_panel=_JOBS, epilog=examples(f"quel enqueue {_A_JOB}"))(submitting.enqueue)
app.command(
    rich_help_panel=_JOBS,
    epilog=examples(
        f"quel status {_A_JOB}", "quel status --watch $(quel submit job.json)", f"quel status --json {_A_JOB}"
    ),
)(status.status)
app.command(
    name="list",
    rich_help_panel=_JOBS,
    epilog=examples(
        "quel list --open",
        "quel list --since 24h --status failed --status cancelled",
        "quel list --category beauty --limit 100 --json | jq -r '.[].job_id'",
    ),
)(listing.list_jobs)
app.command(rich_help_panel=_JOBS, epilog=examples(f"quel show {_A_JOB}", f"quel show {_A_JOB} --json"))(show.show)
app.command(
    rich_help_panel=_JOBS,
    epilog=examples(f"quel gallery {_A_JOB}", "quel gallery --since 24h --output today.html"),
)(gallery.gallery)

app.command(rich_help_panel=_CARE, epilog=examples("quel doctor", "quel doctor --json"))(doctor)
app.command(rich_help_panel=_CARE, epilog=examples(f"quel cancel {_A_JOB}", f"quel cancel --wait 0 {_A_JOB}"))(
    acting.cancel
)
app.command(
    rich_help_panel=_CARE,
    epilog=examples(
        f"quel retry {_A_JOB}", "quel retry $(quel list --status failed --since 1h --json | jq -r '.[].job_id')"
    ),
)(acting.retry)
app.add_typer(dead.app, name="dead", rich_help_panel=_CARE)
app.command(
    rich_help_panel=_CARE,
    epilog=examples("quel audit", "quel audit --since 24h --sample 500", f"quel audit {_A_JOB}", "quel audit --json"),
)(audit.audit)


def main() -> None:
    """Run the command line."""
    redaction.install()
    app()


if __name__ == "__main__":
    main()
