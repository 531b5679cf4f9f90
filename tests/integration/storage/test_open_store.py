"""Which store the settings ask for, and what is said when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from quel_dagster.adapters.storage.store import open_store
from quel_dagster.errors import SettingsError
from quel_dagster.settings import Settings

SUPABASE = {
    "supabase_url": "http://127.0.0.1:1",
    "supabase_service_key": "canary",
    "storage_base_url": "http://127.0.0.1:1/public/attachments/",
}
AWS = {"aws_access_key_id": "AKIACANARY", "aws_secret_access_key": "canary"}


async def backend(**settings: str) -> str:
    store = open_store(Settings.read(**settings))
    await store.aclose()
    return store.backend


async def test_the_url_decides(tmp_path: Path) -> None:
    assert await backend(storage_url=f"file://{tmp_path}/new/folder", **SUPABASE) == "file"
    assert await backend(storage_url="s3://bucket/prefix?endpoint=http://127.0.0.1:1&region=eu", **AWS) == "s3"
    assert await backend(storage_url="s3://bucket?region=eu-west-1", **AWS) == "s3"
    assert (
        await backend(storage_url="s3://bucket", aws_region="eu-west-1", aws_endpoint_url="http://127.0.0.1:1", **AWS)
        == "s3"
    )
    assert await backend(storage_url="supabase:", **SUPABASE) == "supabase"


async def test_the_older_workers_variables_are_enough() -> None:
    assert await backend(**SUPABASE) == "supabase"


async def test_a_folder_with_a_space_is_made(tmp_path: Path) -> None:
    store = open_store(Settings.read(storage_url=f"file://{tmp_path}/my%20pictures"))
    await store.put("a.webp", b"1", content_type="image/webp")
    assert (tmp_path / "my pictures" / "a.webp").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "STORAGE_URL"),
        ({"storage_url": "ftp://host/canary"}, "STORAGE_URL"),
        ({"storage_url": "just/a/path"}, "STORAGE_URL"),
        ({"storage_url": "file:relative"}, "STORAGE_URL"),
        ({"storage_url": "file://host/path"}, "STORAGE_URL"),
        ({"storage_url": "file:///dev/null/folder"}, "STORAGE_URL"),
        ({"storage_url": "file:///dev/null"}, "STORAGE_URL"),
        ({"storage_url": "http://[broken"}, "STORAGE_URL"),
        ({"storage_url": "s3:"}, "STORAGE_URL"),
        ({"storage_url": "s3://AKIACANARY:canary@bucket?region=eu", **AWS}, "AWS_ACCESS_KEY_ID"),
        ({"storage_url": "s3://bucket", **AWS}, "AWS_REGION"),
        ({"storage_url": "s3://bucket?regoin=eu", **AWS}, "regoin"),
        ({"storage_url": "s3://bucket?endpoint=minio:9000", **AWS}, "endpoint"),
        ({"storage_url": "s3://bucket?endpoint=http://127.0.0.1:1"}, "AWS_ACCESS_KEY_ID"),
        ({"storage_url": "s3://bucket?region=eu", "aws_access_key_id": "AKIACANARY"}, "AWS_SECRET_ACCESS_KEY"),
        ({"storage_url": "supabase:"}, "SUPABASE_URL"),
        ({**SUPABASE, "supabase_url": "x.supabase.example"}, "SUPABASE_URL"),
        ({**SUPABASE, "storage_base_url": "/public/attachments"}, "SUPABASE_STORAGE_BASE_URL"),
        ({"supabase_url": SUPABASE["supabase_url"]}, "SUPABASE_SERVICE_KEY"),
        ({k: v for k, v in SUPABASE.items() if k != "storage_base_url"}, "SUPABASE_STORAGE_BASE_URL"),
        ({k: v for k, v in SUPABASE.items() if k != "supabase_url"}, "SUPABASE_URL"),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named(settings: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as refusal:
        open_store(Settings.read(**settings))
    assert "canary" not in str(refusal.value).lower()
