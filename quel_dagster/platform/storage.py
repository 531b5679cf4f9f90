"""Dagster's storage: PostgreSQL, or a file when only the definitions are inspected.

`dagster dev` and `dagster definitions validate` read the dagster.yaml beside them even when nothing is set up, and
Dagster's own `postgres` storage refuses to load without its variable. Everything else still refuses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psycopg
from dagster import StringSource
from typing_extensions import override

from quel_dagster import redaction
from quel_dagster.outside_parts import not_set
from quel_dagster.platform.internals import (
    ConfigurableClassData,
    DagsterPostgresStorage,
    DagsterSqliteStorage,
    DagsterStorage,
)
from quel_dagster.platform.outages import with_retries
from quel_dagster.platform.redacted_storage import RedactedStorage
from quel_dagster.platform.storage_connections import keep_connections
from quel_dagster.platform.storage_location import check_location
from quel_dagster.platform.storage_schema import remember_schema
from quel_dagster.settings import Settings

#: set by `dagster dev` and `dagster definitions validate` for themselves and their children
_checked: set[str] = set()
_INSPECTING = ("DAGSTER_IS_DEV_CLI", "DAGSTER_IS_DEFS_VALIDATION_CLI")


class InstanceStorage(DagsterPostgresStorage):
    """PostgreSQL at the URL in the environment variable that `url_from` names."""

    @classmethod
    @override
    def config_type(cls) -> Any:
        return {"url_from": StringSource}

    @classmethod
    @override
    def from_config_value(  # type: ignore[override]  # a base class would return its own kind
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> DagsterStorage:
        """Return the storage of this process.

        Raises:
            SettingsError: the variable is not set, but the process needs a database.
        """
        # every Dagster process passes here before it logs anything: code server, webserver, daemon, worker
        redaction.install()
        settings = Settings.of_process()
        variable = config_value["url_from"]
        url = os.environ.get(variable)
        if url:
            redaction.learn_url(url)
            _check_location(url, variable)
            storage = keep_connections(RedactedStorage(url, inst_data))
            return with_retries(remember_schema(storage))
        if any(os.environ.get(name) for name in _INSPECTING):
            folder = settings.home.absolute() / "dagster-dev"
            return DagsterSqliteStorage(base_dir=str(folder), inst_data=inst_data)
        raise not_set(variable)


def _check_location(url: str, variable: str) -> None:
    """Raise SettingsError if Dagster's tables would be created among the web app's. Checked once per process."""
    if url in _checked:
        return
    try:
        check_location(url, variable)
    except psycopg.Error:
        return  # Dagster retries an unreachable server itself
    _checked.add(url)
