"""Every environment variable, read once, with errors that name it and hide its value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quel_dagster.errors import SettingsError
from quel_dagster.jobs.models import DEFAULT_MODEL
from quel_dagster.settings import Settings


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` of the user that runs the tests."""
    monkeypatch.chdir(tmp_path)


def test_nothing_set_is_the_embedded_default() -> None:
    settings = Settings.read()
    assert settings.database_url is None
    assert settings.redis() is None
    assert settings.storage_url is None
    assert settings.gemini_api_key is None
    assert settings.gemini_base_url is None
    assert settings.gemini_model == DEFAULT_MODEL
    assert settings.image_per_price == 20
    assert settings.max_concurrent_images == 2
    assert settings.gemini_attempts == 5
    assert settings.gemini_timeout_seconds is None
    assert settings.home == Path(".quel")


def test_everybodys_home_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    assert Settings.read().home == Path(".quel")
    monkeypatch.setenv("QUEL_HOME", "/srv/quel")
    assert Settings.read().home == Path("/srv/quel")


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("IMAGE_PER_PRICE", "35", "image_per_price", 35),
        ("QUEL_MAX_CONCURRENT_IMAGES", "7", "max_concurrent_images", 7),
        ("QUEL_WORKERS", "3", "workers", 3),
        ("QUEL_GEMINI_REQUESTS_PER_MINUTE", "60", "gemini_requests_per_minute", 60),
        ("QUEL_GEMINI_MAX_IN_FLIGHT", "20", "gemini_max_in_flight", 20),
        ("QUEL_MAX_RUNS_PER_MEMBER", "4", "max_runs_per_member", 4),
        ("QUEL_SMALL_JOB_PICTURES", "0", "small_job_pictures", 0),
        ("GEMINI_MODEL", "another", "gemini_model", "another"),
        ("GEMINI_MODEL_FASHION", "another", "gemini_model_fashion", "another"),
        ("GEMINI_IMAGE_SIZE", "2K", "gemini_image_size", "2K"),
        ("GEMINI_THINKING", "high", "gemini_thinking", "high"),
        ("GOOGLE_GENAI_USE_VERTEXAI", "true", "use_vertex_ai", True),
        ("GEMINI_BASE_URL", "http://h/p", "gemini_base_url", "http://h/p"),
        ("SUPABASE_STORAGE_BASE_URL", "https://s/x/", "storage_base_url", "https://s/x/"),
        ("SUPABASE_URL", "https://s", "supabase_url", "https://s"),
        ("REDIS_USE_TLS", "true", "redis_use_tls", True),
    ],
)
def test_a_variable_is_read_under_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: Any
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(Settings.read(), field) == expected


@pytest.mark.parametrize(
    "variable",
    ["DATABASE_URL", "REDIS_URL", "STORAGE_URL", "GEMINI_API_KEY", "SUPABASE_SERVICE_KEY", "REDIS_PASSWORD"],
)
def test_a_secret_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "canary-secret")
    settings = Settings.read()
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "canary-secret" not in shown


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("IMAGE_PER_PRICE", "")
    settings = Settings.read()
    assert settings.database_url is None
    assert settings.image_per_price == 20


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IMAGE_PER_PRICE", "canary"),
        ("IMAGE_PER_PRICE", "-1"),
        ("QUEL_MAX_CONCURRENT_IMAGES", "0"),
        ("QUEL_WORKERS", "many"),
        ("REDIS_PORT", "70000"),
        ("GEMINI_ATTEMPTS", "0"),
        ("GEMINI_TIMEOUT_SECONDS", "0"),
        ("REDIS_USE_TLS", "canary"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        Settings.read()
    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert message.endswith("Set it in the environment or in .env.")
    assert "\n" not in message
    assert "canary" not in message


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("IMAGE_PER_PRICE=31\nQUEL_WORKERS=5\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("QUEL_WORKERS", "6")
    settings = Settings.read()
    assert (settings.image_per_price, settings.workers) == (31, 6)


def test_an_override_wins_over_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUEL_HOME", "/srv/quel")
    assert Settings.read(home=tmp_path).home == tmp_path


def test_nothing_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.read()
    monkeypatch.setenv("IMAGE_PER_PRICE", "99")
    assert settings.image_per_price == 20


# --- Redis -------------------------------------------------------------------------------------------


def test_a_url_wins_over_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://one:1/2")
    monkeypatch.setenv("REDIS_HOST", "other")
    assert Settings.read().redis() == "redis://one:1/2"


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ({"REDIS_HOST": "h"}, "redis://h:6379/0"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "7000"}, "redis://h:7000/0"),
        ({"REDIS_HOST": "h", "REDIS_USE_TLS": "true"}, "rediss://h:6379/0"),
        ({"REDIS_HOST": "h", "REDIS_PASSWORD": "p@ss/w:rd"}, "redis://default:p%40ss%2Fw%3Ard@h:6379/0"),
        (
            {"REDIS_HOST": "h", "REDIS_USERNAME": "default", "REDIS_PASSWORD": "x", "REDIS_USE_TLS": "1"},
            "rediss://default:x@h:6379/0",
        ),
        ({"REDIS_PORT": "7000"}, None),
    ],
)
def test_a_url_is_built_from_the_parts(monkeypatch: pytest.MonkeyPatch, parts: dict[str, str], url: str | None) -> None:
    for name, value in parts.items():
        monkeypatch.setenv(name, value)
    assert Settings.read().redis() == url
