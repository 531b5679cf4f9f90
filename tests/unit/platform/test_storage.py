"""Where Dagster keeps its runs: PostgreSQL, or a file for a mere look at the definitions."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from quel_dagster.errors import SettingsError
from quel_dagster.platform.storage import InstanceStorage

VARIABLE = "STORAGE_OF_THIS_TEST"


def test_a_missing_variable_is_one_line_that_names_it() -> None:
    with pytest.raises(SettingsError, match=VARIABLE):
        InstanceStorage.from_config_value(None, {"url_from": VARIABLE})


@pytest.mark.parametrize("looking", ["DAGSTER_IS_DEV_CLI", "DAGSTER_IS_DEFS_VALIDATION_CLI"])
def test_inspecting_the_definitions_needs_no_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, looking: str
) -> None:
    monkeypatch.setenv(looking, "1")
    monkeypatch.setenv("QUEL_HOME", str(tmp_path))
    storage = InstanceStorage.from_config_value(None, {"url_from": VARIABLE})
    assert isinstance(storage, DagsterSqliteStorage)
    storage.dispose()
