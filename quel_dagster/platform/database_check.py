"""Whether the databases of a worker take connections: its parent asks before it starts a process."""

from __future__ import annotations

import os

import psycopg

from quel_dagster.adapters.database.reasons import reason_of
from quel_dagster.adapters.database.url import for_libpq
from quel_dagster.settings import Settings

#: libpq counts less as this much
CONNECT_SECONDS = 2


def database_refusal(settings: Settings) -> str | None:
    """Return which database takes no connection now, and why, in one line; None when all do.

    Nothing stays open: the caller is about to fork.
    """
    urls = {"DATABASE_URL": settings.required_database_url()}
    if storage := os.environ.get("DAGSTER_POSTGRES_URL"):
        urls["DAGSTER_POSTGRES_URL"] = storage
    for variable, url in urls.items():
        try:
            psycopg.connect(for_libpq(url), connect_timeout=CONNECT_SECONDS).close()
        except psycopg.OperationalError as error:
            return f"{variable}: {reason_of(error, variable)}."
    return None
