"""Check the object store: a picture of typical kind and size can be stored, read and deleted."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterator
from dataclasses import replace

from PIL import Image

from quel_dagster.adapters.retry_policy import OBJECT_STORE
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.errors import SettingsError, StorageError
from quel_dagster.settings import Settings

#: Always the same key: one that was left behind is replaced by the next check.
PROBE_KEY = "quel-doctor/probe.webp"
#: the size of a generated 16:9 picture; noise compresses as badly as the most detailed pictures
PROBE_SIZE = (1376, 768)
MAX_BYTES = 10_000_000
_RETRY_POLICY = replace(OBJECT_STORE, attempts=2, attempt_timeout=10, total_timeout=15)

_part = Part("Object store")


def check_object_store(settings: Settings) -> Iterator[Finding]:
    """Yield every finding about the object store."""
    yield asyncio.run(_probe(settings))


async def _probe(settings: Settings) -> Finding:
    try:
        store = open_store(settings, retry_policy=_RETRY_POLICY)
    except SettingsError as error:
        return _part.failed("cannot be opened", str(error))
    try:
        return await _put_and_get(store)
    finally:
        await store.aclose()


async def _put_and_get(store: ObjectStore) -> Finding:
    data = await asyncio.to_thread(_picture)
    try:
        await store.put(PROBE_KEY, data, content_type="image/webp")
    except StorageError as error:
        return _part.failed(
            f"{store.backend}: a WebP picture of {len(data):,} bytes cannot be stored: {error}",
            "check STORAGE_URL and its keys; the bucket must take image/webp of that size",
        )
    try:
        found = await store.get(PROBE_KEY, max_bytes=MAX_BYTES)
    except StorageError as error:
        remedy = "references cannot be read; check the URL for downloads"
        if store.backend == "supabase":
            remedy = "references cannot be read: make the bucket public, or correct SUPABASE_STORAGE_BASE_URL"
        return _part.failed(f"{store.backend}: {error}", remedy)
    try:
        await store.delete(PROBE_KEY)
    except StorageError as error:
        return _part.warning(
            f"{store.backend}: {error}", f"delete {PROBE_KEY} by hand; only this check needs that right"
        )
    if found != data:
        return _part.warning(
            f"{store.backend}: a replaced object still reads as before",
            "a cache is in between; let it revalidate, or expire soon",
        )
    return _part.ok(f"{store.backend}: {PROBE_KEY} ({len(data):,} bytes) was stored, read back and deleted")


def _picture() -> bytes:
    """Return a WebP of the usual size, different each time."""
    width, height = PROBE_SIZE
    noise = Image.frombytes("RGB", (width // 2, height // 2), os.urandom(3 * (width // 2) * (height // 2)))
    encoded = io.BytesIO()
    noise.resize(PROBE_SIZE).save(encoded, "WEBP", quality=90)
    return encoded.getvalue()
