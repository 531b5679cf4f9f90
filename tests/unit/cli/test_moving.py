"""The findings of `quel doctor --moving` in the older worker's env file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quel_dagster.cli.doctor.finding import Result
from quel_dagster.cli.doctor.moving import check_moving, read_env_file
from quel_dagster.errors import SettingsError
from quel_dagster.settings import Settings

OLDER = {
    "REDIS_HOST": "redis.internal",
    "REDIS_PORT": "6380",
    "REDIS_PASSWORD": "canary-redis",
    "SUPABASE_URL": "https://x.supabase.co",
    "SUPABASE_SERVICE_KEY": "canary-service",
    "SUPABASE_STORAGE_BASE_URL": "https://x.supabase.co/storage/v1/object/public/attachments/",
    "GEMINI_API_KEY": "canary-gemini",
    "GEMINI_MODEL": "gemini-nano-banana-2.1",
}
HERE: dict[str, Any] = {
    "redis_host": "redis.internal",
    "redis_port": 6380,
    "redis_password": "canary-redis",
    "redis_use_tls": True,
    "supabase_url": "https://x.supabase.co",
    "supabase_service_key": "canary-service",
    "storage_base_url": "https://x.supabase.co/storage/v1/object/public/attachments/",
    "gemini_api_key": "canary-gemini",
    "gemini_model": "gemini-nano-banana-2.1",
    "image_per_price": 5,
    "web_api": True,
    "older_worker": True,
}


def _wrong(older: dict[str, str], **here: Any) -> list[str]:
    found = list(check_moving(Settings.read(_env_file=None, **{**HERE, **here}), older))
    lines = [f"{each.result.value}: {each.said}; {each.remedy}" for each in found if each.result is not Result.OK]
    assert not any("canary" in line for line in lines)
    return lines


def test_the_same_values_are_all_well() -> None:
    """The older worker's defaults count where its file names nothing: price 5, TLS on."""
    assert _wrong(OLDER) == []


@pytest.mark.parametrize(
    ("older", "here", "says"),
    [
        ({}, {"image_per_price": 20}, "failed: the older worker takes 5 credits per picture (its default"),
        ({"IMAGE_PER_PRICE": "20"}, {}, "failed: the older worker takes 20 credits per picture, this installation"),
        ({"IMAGE_PER_PRICE": "five"}, {}, "failed: IMAGE_PER_PRICE of the file is not a number"),
        ({}, {"redis_use_tls": False}, "set REDIS_USE_TLS=true (its default there is true, here false)"),
        ({"REDIS_USE_TLS": "false"}, {}, "set REDIS_USE_TLS=false"),
        ({"REDIS_HOST": "other"}, {}, "failed: the older worker reads other:6380, this installation"),
        ({"SUPABASE_SERVICE_KEY": "canary-2"}, {}, "failed: differs from the file: SUPABASE_SERVICE_KEY"),
        ({}, {"storage_url": "file:///tmp/x"}, "warning: STORAGE_URL is set"),
        ({"GEMINI_MODEL": "gemini-2.5-flash-image"}, {}, "warning: the older worker uses gemini-2.5-flash-image"),
        ({"GEMINI_API_KEY": "canary-2"}, {}, "warning: GEMINI_API_KEY differs from the file"),
        ({}, {"web_api": False}, "warning: POST /enqueue and POST /api/jobs/{id}/cancel end with the older worker"),
        ({}, {"older_worker": False}, "warning: inpainting, multiview and landing jobs would go to jobs:dead"),
        ({"WORKER_POOL": "4"}, {}, "warning: the file sets variables that are not read here: WORKER_POOL"),
    ],
)
def test_each_difference_is_one_line(older: dict[str, str], here: dict[str, Any], says: str) -> None:
    (line,) = _wrong({**OLDER, **older}, **here)
    assert says in line


def test_the_file_is_read_as_a_shell_writes_it(tmp_path: Path) -> None:
    (tmp_path / "older.env").write_text("# comment\nexport REDIS_HOST='r'\nIMAGE_PER_PRICE=5 # credits\nEMPTY\n")
    assert read_env_file(tmp_path / "older.env") == {"REDIS_HOST": "r", "IMAGE_PER_PRICE": "5"}
    with pytest.raises(SettingsError, match="there is no such file"):
        read_env_file(tmp_path / "none.env")
