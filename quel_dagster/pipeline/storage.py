"""Where Dagster keeps its runs and events: PostgreSQL, or, for a look at the definitions alone, a file.

`dagster dev` and `dagster definitions validate` read the dagster.yaml beside them even when nothing is set up, and
Dagster's own `postgres` storage refuses to load without its variable. Everything else still does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dagster import StringSource
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from typing_extensions import override

from quel_dagster import redaction
from quel_dagster.errors import SettingsError
from quel_dagster.pipeline.outages import outlasting
from quel_dagster.pipeline.redacted_storage import RedactedStorage
from quel_dagster.pipeline.storage_connections import keep_connections
from quel_dagster.pipeline.storage_schema import remember_schema
from quel_dagster.pipeline.storage_snapshots import remember_snapshots
from quel_dagster.settings import Settings

#: set by `dagster dev` and `dagster definitions validate` for themselves and their children
_LOOKING = ("DAGSTER_IS_DEV_CLI", "DAGSTER_IS_DEFS_VALIDATION_CLI")


class InstanceStorage(DagsterPostgresStorage):
    """PostgreSQL at the URL in the environment variable that `url_from` names."""

    @classmethod
    @override
    def config_type(cls) -> Any:
        return {"url_from": StringSource}

    @classmethod
    @override
    def from_config_value(  # type: ignore[override]  # a base class would promise its own kind
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> DagsterStorage:
        """The storage of this process.

        Raises:
            SettingsError: the variable is not set, and something is to be run.
        """
        # every process of Dagster's comes by here before it says anything: code server, webserver, daemon, worker
        redaction.install()
        settings = Settings.read()
        variable = config_value["url_from"]
        url = os.environ.get(variable)
        if url:
            redaction.learn_url(url)
            storage = keep_connections(RedactedStorage(url, inst_data))
            return outlasting(remember_snapshots(remember_schema(storage)))
        if any(os.environ.get(name) for name in _LOOKING):
            folder = settings.home.absolute() / "dagster-dev"
            return DagsterSqliteStorage(base_dir=str(folder), inst_data=inst_data)
        raise SettingsError(f'{variable} is not set. Start `quel up`, then run: eval "$(quel env)"')
