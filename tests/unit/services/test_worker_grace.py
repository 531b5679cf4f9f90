"""QUEL_WORKER_GRACE_SECONDS: how long the process manager waits for a worker, and how long its calls go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from quel_dagster.errors import SettingsError
from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.services.stack import Stack
from quel_dagster.settings import Settings


def test_the_manager_waits_longer_than_runs_go_on(tmp_path: Path) -> None:
    settings = Settings.read(home=tmp_path, worker_grace_seconds=45, _env_file=None)
    with Stack(settings, embedded=EmbeddedServers(), only=()) as stack:
        stack._only = None
        [worker] = [service for service in stack._services() if service.name == "worker"]
    assert worker.grace == 45
    assert settings.drain_seconds == 37
    assert worker.environment["QUEL_WORKER_GRACE_SECONDS"] == "45.0"


def test_too_short_a_grace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEL_WORKER_GRACE_SECONDS", "5")
    with pytest.raises(SettingsError, match=r"^QUEL_WORKER_GRACE_SECONDS"):
        Settings.read(_env_file=None)
