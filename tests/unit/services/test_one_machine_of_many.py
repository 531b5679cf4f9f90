"""A separate worker needs every system from outside; the platform runs without workers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from quel_dagster.errors import SettingsError
from quel_dagster.sandbox.embedded import EmbeddedServers
from quel_dagster.services.plan import storage_url
from quel_dagster.services.stack import PLATFORM, Stack
from quel_dagster.services.supervisor import Service
from quel_dagster.settings import Settings

URLS = {
    "DATABASE_URL": "postgresql://u@127.0.0.1:1/d",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "STORAGE_URL": "supabase:",
    "GEMINI_API_KEY": "k3y",
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*URLS, "REDIS_HOST", "SUPABASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("missing", sorted(URLS))
def test_a_single_worker_names_missing_settings(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in URLS.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{missing}: not set"):
        Stack(Settings.read(_env_file=None, home=tmp_path), only=("worker",)).start()


def test_supabase_variables_select_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its variables imply it, as those of the older worker do; a folder beside it would lose the pictures."""
    assert storage_url(Settings.read(_env_file=None), tmp_path).startswith("file:")
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:1")
    assert storage_url(Settings.read(_env_file=None), tmp_path) == "supabase:"


def test_the_platform_is_everything_but_the_workers() -> None:
    home = Settings.read(_env_file=None, home=Path("home"))
    servers = EmbeddedServers()
    everything = {service.name for service in _services(Stack(home, embedded=servers))}
    platform = {service.name for service in _services(Stack(home, embedded=servers, only=PLATFORM))}
    assert everything - platform == {"worker"}


def _services(stack: Stack) -> list[Service]:
    stack._home.mkdir(exist_ok=True)
    with ExitStack() as undo:
        stack._endpoints = stack._plan(undo)
        return stack._services()
