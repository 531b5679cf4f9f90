"""The objects of a listing, and the folder that is listed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from quel_dagster.jobs.references import checked_key


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing."""

    key: str
    #: bytes
    size: int
    #: with a time zone
    modified: datetime


def checked_folder(prefix: str) -> str:
    """Return the folder of `prefix` without slashes at its ends; empty means the whole store.

    Raises:
        StorageKeyError: the folder lies outside the store.
    """
    folder = prefix.strip("/")
    return checked_key(folder) if folder else ""
