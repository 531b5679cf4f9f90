"""The behaviour that all stores share."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from quel_dagster.adapters.storage.object_store import FileStore
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.errors import ObjectNotFoundError, StorageError, StorageKeyError
from tests.integration.storage.conftest import (
    ACCESS_KEY,
    BUCKET,
    HURRIED,
    SECRET_KEY,
    s3_settings,
    supabase_settings,
)
from tests.integration.storage.supabase_server import SupabaseServer

WEBP = "image/webp"


async def test_what_was_put_is_got(store: ObjectStore) -> None:
    await store.put("generated-images/user-1/a.webp", b"picture", content_type=WEBP)
    assert await store.get("generated-images/user-1/a.webp", max_bytes=100) == b"picture"
    assert await store.size("generated-images/user-1/a.webp") == 7


@pytest.mark.parametrize(
    "key",
    [
        "uploads/my photo (1).png",
        "uploads/상의 여름.png",
        "uploads/a#b?c&d=e+f.png",
        "uploads/me@2x.png",
        "uploads/100%.png",
    ],
)
async def test_names_that_people_give_their_files(store: ObjectStore, key: str) -> None:
    await store.put(key, key.encode(), content_type="image/png")
    assert await store.get(key, max_bytes=1000) == key.encode()
    assert await store.size(key) == len(key.encode())


async def test_putting_again_replaces(store: ObjectStore) -> None:
    for data in (b"the first, longer", b"second"):
        await store.put("again.webp", data, content_type=WEBP)
        assert await store.get("again.webp", max_bytes=100) == data
    assert await store.size("again.webp") == 6


async def test_an_encoded_key_is_the_same_as_the_plain_one(store: ObjectStore) -> None:
    await store.put("folder/a b.webp", b"1", content_type=WEBP)
    assert await store.get("folder/a%20b.webp", max_bytes=10) == b"1"


async def test_deleted_object_is_gone_and_its_neighbours_stay(store: ObjectStore) -> None:
    names = ("gone/a.webp", "gone/상의 여름 (1).webp", "gone/a.webp.webp")
    for key in names:
        await store.put(key, b"1", content_type=WEBP)
    for key in names[:2]:
        await store.delete(key)
        with pytest.raises(ObjectNotFoundError):
            await store.size(key)
        with pytest.raises(ObjectNotFoundError):
            await store.get(key, max_bytes=10)
    assert await store.size(names[2]) == 1


async def test_deleting_a_missing_object_is_no_error(store: ObjectStore) -> None:
    await store.delete("no/such.webp")


async def test_list_yields_every_object_below_a_folder(store: ObjectStore) -> None:
    keys = {"listed/a.webp", "listed/user-1/b.webp", "listed/user-1/상의 (1).webp", "listed/user-1/deep/er/c.webp"}
    before = datetime.now(UTC)
    for key in (*keys, "listed-not/a.webp", "list.webp"):
        await store.put(key, key.encode(), content_type=WEBP)
    listed = {entry.key: entry for entry in [entry async for entry in store.list("listed/")]}
    assert listed.keys() == keys
    assert all(entry.size == len(key.encode()) for key, entry in listed.items())
    assert all(abs(entry.modified - before) < timedelta(minutes=5) for entry in listed.values())
    assert {entry.key async for entry in store.list("listed/user-1/deep")} == {"listed/user-1/deep/er/c.webp"}
    assert {entry.key async for entry in store.list()} >= {*keys, "listed-not/a.webp", "list.webp"}


async def test_list_of_a_folder_that_does_not_exist_is_empty(store: ObjectStore) -> None:
    assert [entry async for entry in store.list("no/such/folder")] == []


async def test_list_goes_on_past_a_page(store: ObjectStore) -> None:
    keys = [f"pages/{number:03}.webp" for number in range(200)]  # two full pages of Supabase
    await asyncio.gather(*(store.put(key, b"1", content_type=WEBP) for key in keys))
    assert sorted([entry.key async for entry in store.list("pages")]) == keys


@pytest.mark.parametrize("prefix", ["../up", "a/../../b", "%2e%2e/up", "https://elsewhere.example/a"])
async def test_list_refuses_a_folder_outside_the_store(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(StorageKeyError):
        [entry async for entry in store.list(prefix)]


async def test_a_large_object(store: ObjectStore) -> None:
    data = bytes(range(256)) * 40_000
    await store.put("large.webp", data, content_type=WEBP)
    assert await store.get("large.webp", max_bytes=len(data)) == data


async def test_an_empty_object(store: ObjectStore) -> None:
    await store.put("empty.webp", b"", content_type=WEBP)
    assert await store.get("empty.webp", max_bytes=10) == b""
    assert await store.size("empty.webp") == 0


async def test_what_is_not_there(store: ObjectStore) -> None:
    for call in (store.get("no/such.webp", max_bytes=10), store.size("no/such.webp")):
        with pytest.raises(ObjectNotFoundError, match=r"no/such\.webp"):
            await call


async def test_more_than_the_limit_is_not_read(store: ObjectStore) -> None:
    await store.put("limit.webp", bytes(1000), content_type=WEBP)
    assert len(await store.get("limit.webp", max_bytes=1000)) == 1000
    with pytest.raises(StorageError, match="999") as refusal:
        await store.get("limit.webp", max_bytes=999)
    assert not refusal.value.transient


@pytest.mark.parametrize(
    "key", ["../outside", "a/%2e%2e/b", "/etc/passwd", "http://127.0.0.1/x", "@127.0.0.1/x", "", "a//b"]
)
async def test_a_key_that_points_outside_is_refused(store: ObjectStore, key: str) -> None:
    calls = (store.put(key, b"1", content_type=WEBP), store.get(key, max_bytes=10), store.size(key), store.delete(key))
    for call in calls:
        with pytest.raises(StorageKeyError):
            await call


async def test_many_tasks_at_once(store: ObjectStore) -> None:
    async def there_and_back(number: int) -> bool:
        data = bytes([number]) * 50_000
        await store.put(f"many/{number}.webp", data, content_type=WEBP)
        return await store.get(f"many/{number}.webp", max_bytes=50_000) == data

    assert all(await asyncio.gather(*(there_and_back(number) for number in range(40))))


async def test_a_cancelled_call_leaves_the_store_whole(store: ObjectStore) -> None:
    await store.put("kept.webp", b"kept", content_type=WEBP)
    for pause in (0, 0.001, 0.005):
        call = asyncio.create_task(store.put("cut.webp", bytes(2_000_000), content_type=WEBP))
        await asyncio.sleep(pause)
        call.cancel()
        await asyncio.wait([call])
    assert await store.get("kept.webp", max_bytes=10) == b"kept"


async def test_the_content_type_and_place_in_supabase(supabase: SupabaseServer) -> None:
    store = open_store(supabase_settings(supabase.port))
    await store.put("typed/a.webp", b"picture", content_type=WEBP)
    await store.aclose()
    stored = supabase.objects["attachments/typed/a.webp"]
    assert (stored.data, stored.content_type) == (b"picture", WEBP)


async def test_the_content_type_and_place_in_s3(moto_port: int) -> None:
    await open_store(s3_settings(moto_port)).put("typed/a.webp", b"picture", content_type=WEBP)
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{moto_port}",
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    head = client.head_object(Bucket=BUCKET, Key="some/prefix/typed/a.webp")
    assert head["ContentType"] == WEBP


async def test_an_object_in_a_folder_is_never_seen_half_written(tmp_path: Path) -> None:
    store = FileStore(tmp_path, retry_policy=HURRIED)
    versions = [bytes([number]) * 3_000_000 for number in (1, 2)]
    await store.put("one.webp", versions[0], content_type=WEBP)

    async def write() -> None:
        for number in range(20):
            await store.put("one.webp", versions[number % 2], content_type=WEBP)

    writing = asyncio.create_task(write())
    while not writing.done():
        assert await store.get("one.webp", max_bytes=3_000_000) in versions
    await writing
    assert os.listdir(tmp_path) == ["one.webp"]  # noqa: PTH208 - no blocking Path in async code


FILL_A_DISK = """
import asyncio, sys
from pathlib import Path
from quel_dagster.adapters.storage.object_store import FileStore
from quel_dagster.adapters.retry_policy import OBJECT_STORE
from quel_dagster.errors import StorageError

async def main():
    store = FileStore(Path(sys.argv[1]), retry_policy=OBJECT_STORE)
    await store.put("fits.webp", bytes(10_000), content_type="image/webp")
    try:
        await store.put("too-much.webp", bytes(1_000_000), content_type="image/webp")
    except StorageError as error:
        print(type(error).__name__, error.transient, error)
    print(await store.size("fits.webp"), sorted(path.name for path in Path(sys.argv[1]).iterdir()))

asyncio.run(main())
"""


def test_a_full_disk_is_named_so(tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    script.write_text(FILL_A_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=256k none {disk}"
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*own_mounts, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk is not permitted on this machine")
    run = [*own_mounts, f"{mount} && exec {sys.executable} {script} {disk}"]
    printed = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed.splitlines() == [
        "StorageUnavailableError True upload of too-much.webp: the disk of STORAGE_URL is full; free some space",
        "10000 ['fits.webp']",
    ]
