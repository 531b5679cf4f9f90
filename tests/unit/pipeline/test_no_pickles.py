"""Write access to Redis, the database or the object store must not allow running code in a worker."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from dagster import build_resources
from kombu.exceptions import ContentDisallowed
from kombu.serialization import dumps, loads

from quel_dagster import definitions
from quel_dagster.pipeline.io_manager import JsonIOManager
from quel_dagster.platform.broker import celery_app


class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self._trace,)


def test_celery_accepts_only_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://h/0")
    conf = celery_app().conf
    accepted = conf.accept_content
    assert set(accepted) == {"json"}
    with pytest.raises(ContentDisallowed):
        loads(pickle.dumps(Trap(tmp_path / "trace")), "application/x-python-serialize", "binary", accept=accepted)
    assert not (tmp_path / "trace").exists()
    assert conf.task_serializer == "json"
    assert conf.task_ignore_result
    assert dumps({"a": 1}, serializer=conf.task_serializer)[0] == "application/json"


def test_values_between_ops_are_json() -> None:
    """Dagster's own default would pickle them into files."""
    with build_resources({"io_manager": (definitions.defs.resources or {})["io_manager"]}) as opened:
        assert isinstance(opened.io_manager, JsonIOManager)
