"""The entries of the queue's lists as values: job ids, deliveries, dead letters. Nothing here asks Redis."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from uuid import UUID

from quel_dagster.jobs.model import Value

#: A dead letter keeps the entry itself only up to this size. Longer entries are sent here once, to be hashed.
DEAD_VALUE_BYTES = 1024
#: A letter of this project is shorter: 1,024 bytes, each escaped twice, and its reason.
LETTER_BYTES = 64 * 1024

#: seconds since the epoch that a datetime can hold
_YEAR_9999 = 253_402_300_800.0
_UUID = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def job_id_of(raw: bytes) -> UUID | None:
    """Return the job id of an entry; None when it is no UUID."""
    return UUID(raw.decode()) if _UUID.fullmatch(raw) else None


def describe_entry(raw: bytes) -> str:
    """Return length and hash of an entry, for logs."""
    return f"{len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()[:16]}"


@dataclass(frozen=True)
class Delivery:
    """An entry of `jobs:processing`."""

    #: the exact bytes in the list
    raw: bytes
    #: None when the entry is no UUID
    job_id: UUID | None
    #: names this delivery; the same until `finish` or `dead_letter`
    number: str = ""
    #: how many equal entries the list holds
    copies: int = 1

    @property
    def run_key(self) -> str:
        return f"{self.job_id}:{self.number}"

    def describe(self) -> str:
        """Return length and hash of the entry, for logs."""
        return describe_entry(self.raw)


#: the reason of a letter that another program or person pushed onto `jobs:dead`
WRITTEN_BY_OTHERS = "not written by Quel"


@dataclass(frozen=True)
class DeadLetter:
    """An entry of `jobs:dead`."""

    #: identifies this letter while the list changes
    name: str
    #: the exact bytes in the list; None when they are too many to be loaded
    raw: bytes | None
    reason: str
    #: of the entry that it was made of: length in bytes, SHA-256
    length: int
    sha256: str
    #: seconds since the epoch
    at: float
    #: the entry itself as text, unless it was too long to keep
    value: str | None
    #: of a letter that is not loaded, to find it again
    sha1: str | None = None

    @classmethod
    def read(cls, raw: bytes) -> DeadLetter:
        """Read a letter; one that another program wrote is its own entry."""
        sha256 = hashlib.sha256(raw).hexdigest()
        try:
            letter = json.loads(raw)
        except (ValueError, RecursionError):
            letter = None
        if not isinstance(letter, dict) or not isinstance(letter.get("reason"), str):
            value = kept_text(raw)
            return cls(sha256[:10], raw, WRITTEN_BY_OTHERS, len(raw), sha256, 0.0, value)
        at, length, value = letter.get("at"), letter.get("length"), letter.get("value")
        return cls(
            name=sha256[:10],
            raw=raw,
            reason=letter["reason"],
            length=length if isinstance(length, int) else len(raw),
            sha256=str(letter.get("sha256", "")),
            at=at if isinstance(at, int | float) and 0 <= at < _YEAR_9999 else 0.0,
            value=value if isinstance(value, str) else None,
        )

    @classmethod
    def unread(cls, sha1: str, length: int) -> DeadLetter:
        """A letter that is longer than any of this project's."""
        return cls(sha1[:10], None, WRITTEN_BY_OTHERS, length, "", 0.0, None, sha1)

    @property
    def job_id(self) -> UUID | None:
        """Return the job id; None when the entry was no UUID."""
        return job_id_of(self.value.encode("utf-8", "surrogatepass")) if self.value else None


def kept_text(raw: bytes) -> str | None:
    """The entry as text, as far as a dead letter keeps it."""
    return raw.decode("utf-8", "backslashreplace") if len(raw) <= DEAD_VALUE_BYTES else None


def encode_letter(raw: bytes, reason: str) -> str:
    return json.dumps(
        {
            "reason": reason,
            "length": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "at": time.time(),
            "value": kept_text(raw),
        }
    )


class QueuePlace(Value):
    """The place of a job id in Redis."""

    #: 1: the next one to be taken; None: not in `jobs:again` and not in `jobs:queue`
    position: int | None
    #: entries in both
    waiting: int
    #: in `jobs:processing`, where a tick handles it
    processing: bool
    #: ticks that did not find the job's row
    misses: int
