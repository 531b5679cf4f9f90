"""The stand-in for Gemini never draws beside real members (domain.md §6)."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from quel_dagster.errors import SettingsError
from quel_dagster.outside_parts import OutsideParts
from quel_dagster.sandbox.embedded import STAND_IN_KEY, EmbeddedServers
from quel_dagster.services.parts import embedded_parts, require_gemini
from quel_dagster.services.stack import Stack
from quel_dagster.settings import Settings

#: a value for each kind of field
VALUES: dict[str, Any] = {
    "database_url": "postgresql://u@127.0.0.1:1/d",
    "dagster_database_url": "postgresql://u@127.0.0.1:1/d",
    "redis_url": "redis://127.0.0.1:1/0",
    "redis_port": 6380,
    "redis_use_tls": True,
    "gemini_base_url": "http://127.0.0.1:1",
    "use_vertex_ai": True,
    "vertex_location": "europe-west4",
}
#: fields without a default that say nothing about where a part is
LIMITS = {
    "gemini_requests_per_minute",
    "gemini_max_in_flight",
    "gemini_timeout_seconds",
    "gemini_thinking",
    "max_runs_per_member",
    "max_runs",
    "worker_processes",
    "workers",
    "keep_runs_days",
    "alert_webhook_url",
    "webserver_url",
    "user_header",
    "web_api_token",
}


def settings(**values: Any) -> Settings:
    return Settings.read(_env_file=None, **values)


def test_new_setting_without_a_default_is_named_as_part_or_limit() -> None:
    """Otherwise the combinations below would not hold it, and `embedded` would leave it set."""
    undecided = {
        name
        for name, field in Settings.model_fields.items()
        if field.default is None and name not in OutsideParts.model_fields and not name.startswith("gemini_model_")
    }
    assert undecided == LIMITS


def test_no_combination_of_parts_starts_the_stand_in_beside_real_members() -> None:
    names = [*OutsideParts.model_fields, "gemini_model"]
    values = {name: VALUES.get(name, "set") for name in names}
    full = settings(**values)
    empty = settings()
    deciding = ("database_url", "dagster_database_url", "redis_url", "redis_host", "gemini_api_key", "gemini_base_url")
    others = [name for name in names if name not in deciding]
    started = 0
    for chosen in itertools.product((False, True), repeat=len(deciding)):
        given = [name for name, is_set in zip(deciding, chosen, strict=True) if is_set]
        for more in ([], others, *([name] for name in others), *map(list, itertools.combinations(others, 2))):
            tried = empty.model_copy(update={name: getattr(full, name) for name in [*given, *more]})
            if "gemini" in embedded_parts(tried):
                started += 1
                assert tried.database_url is None
                assert tried.gemini_api_key is None
                assert tried.gemini_base_url is None
                assert not tried.use_vertex_ai
    assert started > 0, "the stand-in was started somewhere, so the assertions were reached"


@pytest.mark.parametrize("given", [{}, {"database_url": VALUES["database_url"]}])
def test_key_set_means_google_and_the_key_stays(given: dict[str, str], tmp_path: Path) -> None:
    endpoints = planned(tmp_path, gemini_api_key="canary", **given)
    assert endpoints.gemini_port is None
    assert endpoints.gemini_base_url is None
    assert "GEMINI_API_KEY" not in endpoints.environment(), "the services keep the one that is set"
    assert "GEMINI_BASE_URL" not in endpoints.environment()


def test_no_key_and_embedded_database_gets_the_stand_in(tmp_path: Path) -> None:
    endpoints = planned(tmp_path)
    assert endpoints.gemini_port is not None
    assert endpoints.gemini_api_key == STAND_IN_KEY


def test_no_key_beside_a_database_of_ones_own_is_named_before_anything_starts(tmp_path: Path) -> None:
    own = settings(home=tmp_path, database_url=VALUES["database_url"])
    with pytest.raises(SettingsError, match=r"^GEMINI_API_KEY: not set"):
        Stack(own, embedded=EmbeddedServers()).start()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("access", [{"gemini_api_key": "k"}, {"use_vertex_ai": True}])
def test_access_beside_a_database_of_ones_own_is_enough(access: dict[str, Any]) -> None:
    require_gemini(settings(database_url=VALUES["database_url"], **access))


def test_embedded_settings_reach_nothing_outside() -> None:
    everything = {name: VALUES.get(name, "set") for name in OutsideParts.model_fields}
    assert embedded_parts(settings(**everything).embedded(Path("home"))) == {"postgres", "redis", "gemini"}


def planned(home: Path, **values: Any) -> Any:
    with ExitStack() as undo:
        return Stack(settings(home=home, workers=1, **values), embedded=EmbeddedServers())._plan(undo)
