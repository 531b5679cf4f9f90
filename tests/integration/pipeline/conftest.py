"""Dagster in this process: an instance in a folder of the test's own, and the studio of this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from dagster import DagsterInstance

from quel_dagster.pipeline.process import StudioProcess


@pytest.fixture(scope="session")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dagster's storage, in files that another process can open too; its tables take two seconds to make."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return home


@pytest.fixture(scope="session")
def instance(dagster_home: Path) -> Iterator[DagsterInstance]:
    """One for all tests of this process, each of which looks at its own runs alone."""
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance


@pytest.fixture
def worker(environment: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """This process as a worker: the studio opens when it is first asked for; returns its environment."""
    yield environment
    if StudioProcess._current is not None:
        StudioProcess._current.close()
