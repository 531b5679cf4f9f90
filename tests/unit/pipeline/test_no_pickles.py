"""Who can write to Redis, to the database or to the object store must not make a worker run code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from dagster_celery.make_app import make_app
from kombu.exceptions import ContentDisallowed
from kombu.serialization import dumps, loads

from quel_dagster import definitions
from quel_dagster.pipeline.io_manager import JsonIOManager
from quel_dagster.pipeline.launcher import CELERY_SETTINGS
from tests.unit.pipeline.test_launcher import launcher


class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self._trace,)


def _workers_app() -> Any:
    return make_app(
        app_args={"broker": "redis://h/0", "backend": "redis://h/0", "config_source": dict(CELERY_SETTINGS)}
    )


@pytest.mark.parametrize("app", [lambda: launcher().celery, _workers_app], ids=["launcher", "worker"])
def test_celery_takes_messages_and_results_in_json_alone(app: Any, tmp_path: Path) -> None:
    conf = app().conf
    for accepted in (conf.accept_content, conf.result_accept_content or conf.accept_content):
        assert set(accepted) == {"json"}
        with pytest.raises(ContentDisallowed):
            loads(pickle.dumps(Trap(tmp_path / "trace")), "application/x-python-serialize", "binary", accept=accepted)
    assert not (tmp_path / "trace").exists()
    assert (conf.task_serializer, conf.result_serializer) == ("json", "json")
    assert dumps({"a": 1}, serializer=conf.task_serializer)[0] == "application/json"


def test_values_between_ops_are_json() -> None:
    """Dagster's own default would pickle them into files."""
    assert isinstance((definitions.defs.resources or {})["io_manager"], JsonIOManager)
