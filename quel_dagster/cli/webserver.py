"""Dagster's web server with the page at /quel.

python -m quel_dagster.cli.webserver …      the same command line as dagster-webserver
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute

from quel_dagster import redaction
from quel_dagster.cli.doctor.command import findings
from quel_dagster.console.page.routes import routes
from quel_dagster.console.page.site import Site
from quel_dagster.console.page.terminations import record_terminations
from quel_dagster.platform import webserver
from quel_dagster.settings import Settings


class Console:
    """The page of the installation that this web server shows."""

    _site: Site | None = None

    def routes(self, process_context: Any) -> list[BaseRoute]:
        """Return the routes of the page."""
        self._site = Site(Settings.read(), process_context.instance, findings)
        return routes(self._site)

    async def on_terminate(self, request: Request, accepted: Mapping[str, bool]) -> None:
        """Write Terminate in Dagster's pages into the action log."""
        if self._site is not None:
            await record_terminations(self._site, request, accepted)


if __name__ == "__main__":
    redaction.install()
    console = Console()
    webserver.run(more_routes=console.routes, on_terminate=console.on_terminate)
