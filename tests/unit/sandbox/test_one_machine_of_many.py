"""A worker alone takes all from outside, and the platform leaves pictures to others."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from quel_dagster.errors import SettingsError
from quel_dagster.sandbox import services
from quel_dagster.sandbox.services import PLATFORM, Stack, run_worker
from quel_dagster.settings import Settings

URLS = {
    "DATABASE_URL": "postgresql://u@127.0.0.1:1/d",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "STORAGE_URL": "supabase:",
    "GEMINI_BASE_URL": "http://127.0.0.1:1",
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*URLS, "REDIS_HOST", "SUPABASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("missing", sorted(URLS))
def test_a_worker_alone_names_what_it_would_have_to_invent(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in URLS.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{missing}: not set"):
        run_worker(Settings.read(_env_file=None))


def test_supabase_alone_is_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its variables imply it, as those of the older worker do; a folder beside it would lose the pictures."""
    assert services._storage_url(Settings.read(_env_file=None), tmp_path).startswith("file:")
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:1")
    assert services._storage_url(Settings.read(_env_file=None), tmp_path) == "supabase:"


def test_the_platform_is_everything_but_the_workers() -> None:
    home = Settings.read(_env_file=None, home=Path("home"))
    everything = {service.name for service in _services(Stack(home))}
    assert everything - {service.name for service in _services(Stack(home, only=PLATFORM))} == {"worker"}


def _services(stack: Stack) -> list[services.Service]:
    stack._home.mkdir(exist_ok=True)
    with ExitStack() as undo:
        stack._endpoints = stack._plan(undo)
        return stack._services()
