"""A process that ends as soon as it has its answer ends well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.storage.conftest import ACCESS_KEY, BUCKET, SECRET_KEY

#: the thread that brings an answer comes back from doing so when the interpreter is half gone
END_AT_ONCE = """
import asyncio, sys, time
from quel_dagster.adapters.storage.store import open_store
from quel_dagster.settings import Settings

class Lingering(asyncio.SelectorEventLoop):
    def call_soon_threadsafe(self, *args, **kwargs):
        handle = super().call_soon_threadsafe(*args, **kwargs)
        time.sleep(0.3)
        return handle

async def main():
    store = open_store(Settings.read())
    await store.put("a.webp", b"picture", content_type="image/webp")
    print(await store.get("a.webp", max_bytes=100), await store.size("a.webp"), flush=True)
    await store.delete("a.webp")
    await store.put("b.webp", b"picture", content_type="image/webp")
    await store.aclose()

class SlowToGo:
    def __del__(self, sleep=time.sleep):
        sleep(1)

sys.slow_to_go = SlowToGo()
loop = Lingering()
loop.run_until_complete(main())
"""


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_the_end_of_a_process_breaks_nothing(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "file":
        settings = {"STORAGE_URL": f"file://{tmp_path}/objects"}
    else:
        port = request.getfixturevalue("moto_port")
        settings = {
            "STORAGE_URL": f"s3://{BUCKET}/exit?endpoint=http://127.0.0.1:{port}&region=us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
    ended = subprocess.run(
        [sys.executable, "-c", END_AT_ONCE], env=settings, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "b'picture' 7\n"), ended.stderr
