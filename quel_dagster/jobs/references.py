"""Derive the storage key of a quel_attach row, and check storage keys (domain.md §5).

A browser influences these keys, and they end in a URL or a path. So every key is checked here, before a connection or
a file is opened, and again by every store.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote
from uuid import UUID

from quel_dagster.errors import ReferenceUnavailableError, StorageKeyError
from quel_dagster.jobs.model import Attach
from quel_dagster.jobs.texts import without_links

#: bytes of UTF-8; the limit of S3, and far above any key that the web app writes
MAX_KEY_BYTES = 1024

_UPLOAD_PREFIX = "upload-"
_UPLOAD_FOLDER = "uploads/"
_GENERATED = re.compile(r"generated-images/user-([^/]*)/", re.IGNORECASE)
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.\-]*:/", re.IGNORECASE)
_DOT_SEGMENTS = frozenset({".", ".."})
#: control characters, lone surrogates, line and paragraph separators: none belongs in a key
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def reference_key(attach: Attach) -> str:
    """Return the storage key of a reference (domain.md §5). One leading slash is the root of the store.

    Raises:
        ReferenceUnavailableError: the row names no path.
        StorageKeyError: the path points outside the store.
    """
    for path in (attach.file_path, attach.directory):
        if path and path.strip():
            key = checked_key(path.removeprefix("/"))
            return _UPLOAD_FOLDER + key if key.startswith(_UPLOAD_PREFIX) else key
    raise ReferenceUnavailableError(
        f"attach {attach.attach_id} has neither a file path nor a directory; upload the picture again"
    )


def is_generated_for_another(key: str, member_id: UUID | None) -> bool:
    """Return whether the key is that of a picture generated for another member than this one (domain.md §5)."""
    match = _GENERATED.match(key)
    return match is not None and match[1].lower() != str(member_id)


def checked_key(key: str) -> str:
    """Return the key, percent-decoded; refuse one that could leave the store.

    Spaces and letters of every script are allowed. Refused is every key that a server, a proxy or a file system could
    resolve to a place outside the store: dot segments (plain, encoded, or in Unicode look-alikes), an absolute URL, a
    leading slash or `@`, backslashes, empty segments, control characters, double encoding.

    Raises:
        StorageKeyError: the key is refused; the line says why.
    """
    try:
        decoded = unquote(key, errors="strict")
        size = len(decoded.encode())
    except UnicodeError:
        raise _refused(key, "it is not valid UTF-8") from None
    segments = decoded.split("/")
    if size > MAX_KEY_BYTES:
        raise _refused(key, f"it is longer than {MAX_KEY_BYTES} bytes")
    if unquote(decoded) != decoded:
        raise _refused(key, "it is percent-encoded twice")
    if any(unicodedata.category(character) in _UNPRINTABLE for character in decoded):
        raise _refused(key, "it holds control characters")
    if "\\" in decoded:
        raise _refused(key, "it holds a backslash")
    if _ABSOLUTE.match(decoded):
        raise _refused(key, "it is an absolute address")
    if decoded.startswith("@"):
        raise _refused(key, "it begins with @")
    if "" in segments:
        raise _refused(key, "it begins or ends with a slash, or holds an empty segment")
    if not _DOT_SEGMENTS.isdisjoint(unicodedata.normalize("NFKC", decoded).split("/")):
        raise _refused(key, "it holds a dot segment")
    return decoded


def _refused(key: str, why: str) -> StorageKeyError:
    shown = repr(without_links(key if len(key) <= 80 else key[:80] + "…"))
    return StorageKeyError(f"storage key {shown} is refused: {why}")
