"""From a row of quel_attach to the key of an object in the store (domain.md §5).

A key comes out of a database that a browser helped to write, and ends in a URL or a path. So every key is
checked here, before a connection or a file is opened, and again at the door of every store.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from quel_dagster.errors import ReferenceUnavailableError, StorageKeyError
from quel_dagster.jobs.model import Attach

#: bytes of UTF-8; the limit of S3, and far above any key that the web app writes
MAX_KEY_BYTES = 1024

_UPLOAD_PREFIX = "upload-"
_UPLOAD_FOLDER = "uploads/"
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.\-]*:/", re.IGNORECASE)
_DOT_SEGMENTS = frozenset({".", ".."})
#: control characters, lone surrogates, line and paragraph separators: none belongs in a key
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def reference_key(attach: Attach) -> str:
    """The storage key of a reference (domain.md §5).

    Raises:
        ReferenceUnavailableError: the row names no path.
        StorageKeyError: the path points outside the store.
    """
    for path in (attach.file_path, attach.directory):
        if path and path.strip():
            key = checked_key(path)
            return _UPLOAD_FOLDER + key if key.startswith(_UPLOAD_PREFIX) else key
    raise ReferenceUnavailableError(
        f"attach {attach.attach_id} has neither a file path nor a directory; upload the picture again"
    )


def checked_key(key: str) -> str:
    """The key with its percent-encoding undone, or a refusal.

    Spaces and letters of every script are fine. Refused is what a server, a proxy or a file system could take for a
    place outside the store: dot segments (plain, encoded, or in Unicode look-alikes), an absolute URL, a leading
    slash or `@`, backslashes, empty segments, control characters, double encoding.

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
    shown = repr(key if len(key) <= 80 else key[:80] + "…")
    return StorageKeyError(f"storage key {shown} is refused: {why}")
