"""Dagster's web server, with a list of runs that people can read.

    python -m quel_dagster.pipeline.webserver …      the same command line as dagster-webserver

The list of runs gives every tag that is not Dagster's own a line of its own, nine to a run of ours, so that a screen
holds three runs. People hide tags there with a click (*Hide tag*), each for their own browser, in its local storage.
This sets that list for a browser that has none yet: ids that say nothing to the eye are hidden. They are found behind
*View all tags*, in the filter and on the run's page as before, and whoever wants one in the list clicks *Show tag in
table*; what a person chose is left alone.

It reaches into private modules of an exactly pinned Dagster; where an upgrade has moved them, a warning says so and the
pages are as shipped.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from dagster_webserver import app
from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from starlette.requests import Request
from starlette.responses import HTMLResponse
from typing_extensions import override

from quel_dagster.pipeline.tags import JOB_TYPE_TAG, MEMBER_TAG, ORG_TAG, PRODUCTION_ID_TAG

#: the key in local storage, of Dagster's useTagPinning
HIDDEN_TAGS_KEY = "unpinned-tags"
HIDDEN_TAGS = (DAGSTER_CELERY_TASK_ID_TAG, JOB_TYPE_TAG, MEMBER_TAG, ORG_TAG, PRODUCTION_ID_TAG)

_SCRIPT = (
    f"try {{ if (localStorage.getItem({json.dumps(HIDDEN_TAGS_KEY)}) === null) "
    f"localStorage.setItem({json.dumps(HIDDEN_TAGS_KEY)}, {json.dumps(json.dumps(HIDDEN_TAGS))}) }} catch {{}}"
)
_NONCE = re.compile(r'<script nonce="([^"]+)">')
_log = logging.getLogger(__name__)


class QuelWebserver(DagsterWebserver[Any, Any]):
    """Dagster's, with our first choice of tags."""

    @override
    def index_html_endpoint(self, request: Request) -> HTMLResponse:
        page: HTMLResponse = super().index_html_endpoint(request)
        headers = {name: value for name, value in page.headers.items() if name != "content-length"}
        return HTMLResponse(with_hidden_tags(bytes(page.body).decode()), headers=headers)


def with_hidden_tags(page: str) -> str:
    """The page with our script before its own; as it was when the place for it is not found."""
    nonce = _NONCE.search(page)
    if nonce is None:
        return page
    return page.replace("<head>", f'<head><script nonce="{nonce[1]}">{_SCRIPT}</script>', 1)


def use_our_webserver() -> bool:
    """Let the command line below start ours; False, with a warning, when this Dagster is built another way."""
    if getattr(app, "DagsterWebserver", None) is not DagsterWebserver:
        _log.warning("dagster_webserver.app has no DagsterWebserver in this version: the list of runs shows every tag.")
        return False
    app.DagsterWebserver = QuelWebserver  # type: ignore[attr-defined]
    return True


if __name__ == "__main__":
    use_our_webserver()
    main()  # type: ignore[no-untyped-call]
