"""What every test may rely on: nothing of this shell's own installation reaches it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from quel_dagster.settings import Settings

_MORE_VARIABLES = (
    "DAGSTER_HOME",
    "DAGSTER_POSTGRES_URL",
    "CELERY_BROKER_URL",
    "CELERY_RESULT_BACKEND",
    "QUEL_WEBSERVER_URL",
)


#: folders of tests that share an installation, which takes long to start
_TOGETHER = ("tests/browser/", "tests/faults/")


class _ByFile(LoadFileScheduling):
    """`--dist loadfile`, with each folder of `_TOGETHER` as one file."""

    def _split_scope(self, nodeid: str) -> str:
        folder = next((folder for folder in _TOGETHER if nodeid.startswith(folder)), None)
        return folder or str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return _ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_shell() -> Iterator[None]:
    """A developer who has run `eval "$(quel env)"` must not have tests write to that database."""
    aliases = [str(field.alias) for field in Settings.model_fields.values()]
    with pytest.MonkeyPatch.context() as patch:
        for name in [*aliases, *_MORE_VARIABLES]:
            patch.delenv(name, raising=False)
        for name in [name for name in os.environ if name.startswith(("QUEL_", "DAGSTER_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _settings_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test stands for processes of its own: what it sets in the environment counts at the next look."""
    monkeypatch.setattr(Settings, "of_process", Settings.read)
