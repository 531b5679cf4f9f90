"""The object store: a small object can be stored, read and taken away again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

from quel_dagster.adapters.storage.patience import Patience
from quel_dagster.adapters.storage.store import ObjectStore, open_store
from quel_dagster.cli.doctor.finding import Finding, Part
from quel_dagster.errors import SettingsError, StorageError
from quel_dagster.settings import Settings

#: One key for all times: should it stay behind, the next look replaces it.
PROBE_KEY = "quel-doctor/probe.txt"
_PATIENCE = Patience(attempts=2, attempt_timeout=10, total_timeout=15)

_part = Part("Object store")


def check_object_store(settings: Settings) -> Iterator[Finding]:
    """Every finding about the object store."""
    yield asyncio.run(_probe(settings))


async def _probe(settings: Settings) -> Finding:
    try:
        store = open_store(settings, patience=_PATIENCE)
    except SettingsError as error:
        return _part.failed("cannot be opened", str(error))
    try:
        return await _put_and_get(store)
    finally:
        await store.aclose()


async def _put_and_get(store: ObjectStore) -> Finding:
    data = f"quel doctor was here {secrets.token_hex(8)}\n".encode()
    try:
        await store.put(PROBE_KEY, data, content_type="text/plain")
    except StorageError as error:
        return _part.failed(f"{store.backend}: {error}", "pictures cannot be stored; check STORAGE_URL and its keys")
    try:
        found = await store.get(PROBE_KEY, max_bytes=10_000)
    except StorageError as error:
        return _part.failed(f"{store.backend}: {error}", "references cannot be read; check the URL for downloads")
    try:
        await store.delete(PROBE_KEY)
    except StorageError as error:
        return _part.warning(f"{store.backend}: {error}", f"delete {PROBE_KEY} by hand; nothing else needs that right")
    if found != data:
        return _part.warning(
            f"{store.backend}: an object that was replaced still reads as before",
            "a cache stands between; have it ask the store again, or let it expire soon",
        )
    return _part.ok(f"{store.backend}: {PROBE_KEY} was stored, read back and deleted")
